package ledger

import (
	"crypto/x509"

	"sealkeeper/policy"
)

// withdrawn are the registry's keys whose own certificate is revoked for good, as of one registry and one snapshot of revocations.
type withdrawn struct {
	keys    *[]Key
	revoked *revoked
	of      map[string]Revocation // by key
}

// Withdrawn says whether a key's own certificate is revoked for good. A key that was compromised says so by its state, too, from the same commit on: if it is
// active, the ledger is one of before that, and a published list brought back the certificate's revocation only. A hold is none: the root's lists know no holds.
func (l *Ledger) Withdrawn(key string) (Revocation, bool) {
	keys, revoked := l.keys.Load(), l.revoked.Load()
	w := l.withdrawn.Load()
	if w == nil || w.keys != keys || w.revoked != revoked {
		w = &withdrawn{keys, revoked, map[string]Revocation{}}
		for _, k := range *keys {
			if len(k.Chain) == 0 {
				continue
			}
			cert, err := x509.ParseCertificate(k.Chain[0])
			if err != nil || cert.SerialNumber.BitLen() > 160 {
				continue // who drafts with it says so
			}
			if r, known := revoked.rows[string(cert.SerialNumber.FillBytes(make([]byte, 20)))]; known && r.Reason != policy.CertificateHold {
				w.of[k.ID] = r
			}
		}
		l.withdrawn.Store(w)
	}
	r, is := w.of[key]
	return r, is
}

// Signs says whether a key signs what is new: it is in use, and nobody revoked its certificate.
func (l *Ledger) Signs(k Key) bool {
	if k.State != KeyActive {
		return false
	}
	_, withdrawn := l.Withdrawn(k.ID)
	return !withdrawn
}
