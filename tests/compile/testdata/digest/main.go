// Neither is a digest.
package main

import (
	"context"
	"crypto/sha256"

	"sealkeeper/signer"
)

func main() {
	var s *signer.Signer
	s.Sign(context.Background(), sha256.Sum256([]byte("sign this"))) // want: not enough arguments in call to s.Sign
}
