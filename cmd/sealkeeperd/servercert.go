package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"sealkeeper/api"
	"sealkeeper/internal/config"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
)

// The issuance listener's certificate renews itself: at two thirds of its life, with a new key, by the same way as any other certificate.

// nextKey is where a new key waits until its certificate is there.
func nextKey(c *config.Config) string { return c.ServerKey() + ".next" }

// serverCertificate loads the pair in use. A renewal that was interrupted leaves the old pair, or the new certificate with its key still waiting.
func serverCertificate(c *config.Config) (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.ServerCert(), c.ServerKey())
	if err != nil {
		if next, other := tls.LoadX509KeyPair(c.ServerCert(), nextKey(c)); other == nil {
			cert, err = next, nil
		}
	}
	if err != nil {
		return cert, fmt.Errorf("TLS certificate: %w (run `sealkeeperd init --config %s`)", err, c.File)
	}
	return cert, nil
}

// expired says what to do about a certificate that is over by the wall; nil: it is not. The daemon starts with it: its wall may be wrong and that of its
// clients right, and it renews the certificate as soon as it may.
func expired(c *config.Config, cert tls.Certificate, now time.Time) error {
	if now.Before(cert.Leaf.NotAfter) {
		return nil
	}
	return fmt.Errorf("TLS certificate %s expired at %s: check the clock; if it is right, run `sealkeeperd init --config %s`", c.ServerCert(), cert.Leaf.NotAfter.Format(time.RFC3339), c.File)
}

// completeRenewal ends a renewal that was interrupted once its certificate was there: the key in use waits in the file that the next renewal's key goes to.
func completeRenewal(c *config.Config) error {
	if _, err := tls.LoadX509KeyPair(c.ServerCert(), c.ServerKey()); err == nil {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(c.ServerCert(), nextKey(c)); err != nil {
		return nil // there is no pair to be lost
	}
	private, err := os.ReadFile(nextKey(c))
	if err != nil {
		return err
	}
	return durable.WriteFile(c.ServerKey(), private, 0o600)
}

// certifying is ca.Certify, or ca.CertifyByWall.
type certifying func(ctx context.Context, name string, spki []byte, hosts []string, life time.Duration) ([]byte, error)

// linking is what is shown besides a certificate, if anything is: ca.ServerLink.
type linking func(server *x509.Certificate) (link []byte, current bool)

// untilRenewal is how long a certificate serves before another one is due. One that begins later than now was dated by a wall that was wrong: nobody takes it.
func untilRenewal(leaf *x509.Certificate, now time.Time) time.Duration {
	if now.Before(leaf.NotBefore) {
		return 0
	}
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3).Sub(now)
}

// enrolServer makes a key and a certificate for the issuance listener. Whenever it is interrupted, a pair that fits is left.
func enrolServer(ctx context.Context, c *config.Config, certify certifying, link linking) error {
	if err := completeRenewal(c); err != nil {
		return err
	}
	private, cert, err := newPair(func(spki []byte) ([]byte, error) { return certify(ctx, c.Hosts[0], spki, c.Hosts, c.TLSLife) })
	if err != nil {
		return err
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if der, _ := link(leaf); der != nil {
		cert = append(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := durable.WriteFile(nextKey(c), private, 0o600); err != nil {
		return err
	}
	crashpoint.Here("server.key-written")
	if err := durable.WriteFile(c.ServerCert(), cert, 0o644); err != nil {
		return err
	}
	crashpoint.Here("server.certificate-written")
	if err := durable.WriteFile(c.ServerKey(), private, 0o600); err != nil {
		return err
	}
	return os.Remove(nextKey(c)) // one that stayed would hide that the key in use was changed
}

const (
	renewalWithin = time.Minute     // one try: it may wait for the HSM as anything else does
	rootsEvery    = 5 * time.Second // it is looked whether another CA certifies
)

// keepServerCertificate renews the listener's certificate and has it shown to who connects from then on, until ctx ends. Connections that are open
// stay open. What fails is tried again, ten times as often as a certificate is renewed. When another CA certifies, it is renewed at once.
func (a *appliance) keepServerCertificate(ctx context.Context, edge *api.Edge, cert tls.Certificate) {
	var again time.Duration // of the elapsed time: what failed is not tried before
	for {
		life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
		wait := untilRenewal(cert.Leaf, a.clock.Now())
		if _, current := a.ca.ServerLink(cert.Leaf); (wait <= 0 || !current) && a.clock.Elapsed() >= again {
			within, cancel := context.WithTimeout(ctx, renewalWithin)
			err := enrolServer(within, a.config, a.ca.Certify, a.ca.ServerLink)
			cancel()
			var next tls.Certificate
			if err == nil {
				next, err = serverCertificate(a.config)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				wait = min(max(life/30, time.Second), time.Hour)
				again = a.clock.Elapsed() + wait
				a.log.Error("renewing the issuance listener's certificate", "error", err, "ends", cert.Leaf.NotAfter, "retry_in", wait.String())
			default:
				cert, again = next, a.clock.Elapsed()+time.Second // the wall may have been set back since
				edge.Present(cert)
				a.log.Info("the issuance listener has a new certificate", "serial", fmt.Sprintf("%x", cert.Leaf.SerialNumber), "ends", cert.Leaf.NotAfter)
				continue
			}
		}
		t := time.NewTimer(min(max(wait, again-a.clock.Elapsed(), time.Millisecond), rootsEvery)) // the wall may be set, too
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
