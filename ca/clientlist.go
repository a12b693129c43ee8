package ca

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Clients lists everybody who ever had a certificate or was approved for one: who may do what, until when, and when they were there last.
func (a *Authority) Clients(context.Context) (contract.Clients, error) {
	out, now := contract.Clients{Clients: []contract.ClientInfo{}}, a.o.Clock.Now()
	for _, e := range a.o.Ledger.Clients() {
		i := contract.ClientInfo{Client: e.ID, Role: e.Role, State: string(e.State), Office: e.Office, District: e.District, Carrier: e.Carrier, Enrolled: !e.Named,
			May: map[string][]string{}, Until: e.Ends(), Seen: a.LastSeen(e.ID), Revoked: e.Revoked, Reason: e.Reason, Certificates: []contract.ClientCertificate{}}
		for _, c := range e.Certificates {
			if now.Before(c.NotAfter) {
				r, _ := a.o.Ledger.RevokedCertificate(pad(c.Serial))
				i.Certificates = append(i.Certificates, contract.ClientCertificate{Serial: hex.EncodeToString(pad(c.Serial)), Until: c.NotAfter, Revoked: string(r.Reason)})
			}
		}
		if w, ok := a.WhoAmI(Caller{ID: e.ID, Role: e.Role}); ok {
			i.May = w.May
		} else if e.State != ledger.ClientRevoked {
			i.State = "unknown"
		}
		if revoked, held := a.withheld(e, now); e.State == ledger.ClientActive {
			switch {
			case revoked:
				i.State = "revoked"
			case held:
				i.State = "held"
			}
		}
		out.Clients = append(out.Clients, i)
	}
	return out, nil
}

// newest certificates of clients that are not revoked. Whose last one has ended has to be enrolled again, and is nobody's alarm any more after
// another day.
func (a *Authority) newest(now time.Time, each func(id string, c ledger.ClientCertificate)) {
	for _, e := range a.o.Ledger.Clients() {
		if revoked, _ := a.withheld(e, now); revoked || e.State != ledger.ClientActive || len(e.Certificates) == 0 {
			continue
		}
		newest := e.Certificates[0]
		for _, c := range e.Certificates {
			if c.NotAfter.After(newest.NotAfter) {
				newest = c
			}
		}
		if !now.After(newest.NotAfter.Add(day)) {
			each(e.ID, newest)
		}
	}
}

// clientsEnding are those whose certificate should have been renewed: a third of its life is left. The alert rules say it of each.
func (a *Authority) clientsEnding(now time.Time) (severity, what string) {
	rank, n := map[string]int{"": 0, Info: 1, Warning: 2, Critical: 3}, 0
	var first ledger.ClientCertificate
	var who string
	a.newest(now, func(id string, c ledger.ClientCertificate) {
		left := c.NotAfter.Sub(now)
		u := urgency(left)
		if u == "" || 3*left > c.NotAfter.Sub(c.At) {
			return
		}
		if n++; n == 1 || c.NotAfter.Before(first.NotAfter) {
			first, who = c, id
		}
		if rank[u] > rank[severity] {
			severity = u
		}
	})
	if n == 0 {
		return "", ""
	}
	return severity, fmt.Sprintf("%d clients did not renew their certificates; the first is %s, whose ends at %s", n, who, first.NotAfter.UTC().Format(time.RFC3339))
}

// lookAtClients sets the gauges.
func (a *Authority) lookAtClients(now time.Time) {
	m := a.o.Metrics
	m.ClientIssued.Reset()
	m.ClientExpires.Reset()
	a.newest(now, func(id string, c ledger.ClientCertificate) {
		m.ClientIssued.WithLabelValues(id).Set(float64(c.At.Unix()))
		m.ClientExpires.WithLabelValues(id).Set(float64(c.NotAfter.Unix()))
	})
}

// dismissedEvery is how often clients that were revoked are looked for whose certificates no list names. Here they get nothing since the moment at
// which they were revoked; the list is for others who trust the client CA.
const dismissedEvery = 10 * time.Second

// listDismissed revokes the certificates of clients that were revoked. It goes on where it stopped: what is left to do is in the ledger.
func (a *Authority) listDismissed(ctx context.Context) error {
	now := a.o.Clock.Now()
	for _, e := range a.o.Ledger.Clients() {
		if e.State != ledger.ClientRevoked {
			continue
		}
		for _, c := range e.Certificates {
			serial := pad(c.Serial)
			if _, known := a.o.Ledger.RevokedCertificate(serial); known && !a.onHold(serial) || now.After(c.NotAfter) {
				continue
			}
			err := a.o.Ledger.RevokeCertificates(ctx, [][]byte{serial}, policy.PrivilegeWithdrawn, nil)
			var refusal *ledger.Refusal
			if errors.As(err, &refusal) && refusal.Code() == "certificate.unknown" { // it was reserved, and never signed
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
