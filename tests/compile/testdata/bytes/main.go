// Bytes alone are not signed.
package main

import (
	"context"

	"sealkeeper/signer"
)

func main() {
	var s *signer.Signer
	s.Sign(context.Background(), []byte("sign this"), [][]byte{[]byte("sign this")}) // want: cannot use []byte("sign this") (value of type []byte) as *ledger.Reservation value in argument to s.Sign
}
