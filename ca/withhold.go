package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// Officers put certificates on hold, and take that back. A hold counts from the moment at which it is durable: whoever comes with the certificate gets
// nothing, its client gets no other one, and the client CA's next list says certificateHold. The root's lists know no reasons (ISO/IEC 18013-5 B.2), and so no holds.

// holdCertificates puts certificates on hold.
func (a *Authority) holdCertificates(ctx context.Context, c Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, now := q.Parameters().(*officer.Withhold), a.o.Clock.Now()
	news := false
	for _, serial := range p.Serials() {
		cert, err := a.named(ctx, serial, p.Of)
		if err != nil {
			return err
		}
		if cert == nil {
			return &Problem{Code: "certificate.unknown", Detail: fmt.Sprintf("no certificate was issued with serial number %x", serial)}
		}
		if c.Serial == string(serial) {
			return &Problem{Code: "certificate.own", Detail: "that is the certificate of the client through which this is asked"}
		}
		_, revoked := a.o.Ledger.RevokedCertificate(serial)
		news = news || !revoked && now.Before(cert.NotAfter)
	}
	if !news {
		return &Problem{Code: "proposal.moot", Detail: "these certificates are revoked, on hold, or at their end"}
	}
	return unmoved(func() error { return a.o.Ledger.RevokeCertificates(ctx, p.Serials(), policy.CertificateHold, x) })
}

// liftCertificates takes a hold back.
func (a *Authority) liftCertificates(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Restore)
	for _, serial := range p.Serials() {
		if _, err := a.named(ctx, serial, p.Of); err != nil {
			return err
		}
	}
	return unmoved(func() error { return a.o.Ledger.LiftHolds(ctx, p.Serials(), x) })
}

// unmoved commits, again if the client moved meanwhile: it got another certificate.
func unmoved(commit func() error) (err error) {
	for range 5 {
		if err = commit(); !errors.Is(err, ledger.ErrConflict) {
			return err
		}
	}
	return err
}

// named finds a certificate, which has to be of whom officers read that it is. nil: the ledger does not have it; it was restored from before, and the
// hold came back from a published list.
func (a *Authority) named(ctx context.Context, serial []byte, of string) (*ledger.Certificate, error) {
	cert, err := a.o.Ledger.Certificate(ctx, slices.Clone(serial))
	if err == nil && cert != nil && cert.Name != of {
		err = &Problem{Code: "certificate.other", Detail: fmt.Sprintf("certificate %x is that of %q, and the proposal says %q", serial, cert.Name, of)}
	}
	return cert, err
}
