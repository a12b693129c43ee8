// Only the ledger makes reservations.
package main

import (
	"context"

	"sealkeeper/ledger"
	"sealkeeper/signer"
)

type forged struct{ ledger.Reservation }

func main() {
	_ = &ledger.Reservation{ledger: nil} // want: cannot refer to unexported field ledger in struct literal of type ledger.Reservation
	var r ledger.Reservation
	r.state.Store(1) // want: r.state undefined (cannot refer to unexported field state)
	var l *ledger.Ledger
	l.reservation(ledger.ReservationRecord{}, 0, nil, nil, nil) // want: l.reservation undefined (cannot refer to unexported method reservation)
	var s *signer.Signer
	s.Sign(context.Background(), &forged{}, nil) // want: cannot use &forged{} (value of type *forged) as *ledger.Reservation value in argument to s.Sign
}
