package ca

import (
	"sync/atomic"
	"time"

	"sealkeeper/ledger"
)

// Admit is asked for every request: a client, or a certificate of it, that was revoked or put on hold gets nothing more from the moment at which
// that is durable, open connections included. It reads memory only, and remembers when the client was there.
func (a *Authority) Admit(c Caller) error {
	if r, revoked := a.o.Ledger.RevokedCertificate([]byte(c.Serial)); revoked {
		return &Problem{Code: "client.revoked", Detail: "the client certificate was revoked or put on hold: " + string(r.Reason)}
	}
	if e, known := a.o.Ledger.Client(c.ID); known && e.State == ledger.ClientRevoked {
		return &Problem{Code: "client.revoked", Detail: "the client was revoked"}
	}
	at, ok := a.seen.Load(c.ID)
	if !ok {
		at, _ = a.seen.LoadOrStore(c.ID, new(atomic.Int64))
	}
	if now := a.o.Clock.Now().Unix(); at.(*atomic.Int64).Load() < now {
		at.(*atomic.Int64).Store(now)
	}
	return nil
}

// LastSeen is when a client last asked for something since the start; zero: it did not.
func (a *Authority) LastSeen(id string) time.Time {
	if at, ok := a.seen.Load(id); ok {
		return time.Unix(at.(*atomic.Int64).Load(), 0).UTC()
	}
	return time.Time{}
}
