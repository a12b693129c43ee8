// An approval is not a reservation, and a reservation is not signatures: no step can be left out.
package main

import (
	"context"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
	"sealkeeper/signer"
)

func main() {
	var (
		ctx = context.Background()
		s   *signer.Signer
		g   *release.Gate
		a   *policy.Approval
		r   *ledger.Reservation
		m   *signer.Signatures
		tbs [][]byte
	)
	s.Sign(ctx, a, tbs)       // want: cannot use a (variable of type *policy.Approval) as *ledger.Reservation value in argument to s.Sign
	g.Check(ctx, r, tbs, r)   // want: cannot use r (variable of type *ledger.Reservation) as *signer.Signatures value in argument to g.Check
	g.Check(ctx, r, tbs, tbs) // want: cannot use tbs (variable of type [][]byte) as *signer.Signatures value in argument to g.Check
	g.Pass(ctx, m, nil)       // want: cannot use m (variable of type *signer.Signatures) as *release.Checked value in argument to g.Pass
}
