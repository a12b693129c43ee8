package verifier

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Trust is what an issuing authority publishes of its keys as /trust.json. It is read against an anchor that came another way.
type Trust struct {
	Issuer string
	AsOf   time.Time
	Keys   []TrustedKey
}

// TrustedKey is one of the authority's keys.
type TrustedKey struct {
	ID          string
	Purpose     string // "iaca", "mdoc", "sd-jwt", "status-list"
	State       string // "announced", "active", "deactivated", "compromised", "destroyed"
	NotBefore   time.Time
	NotAfter    time.Time
	Certificate *x509.Certificate
	Link        *x509.Certificate // of a root that took the place of another: the certificate by which that one vouches for it; nil: none
}

const (
	maxTrust     = 4 << 20
	maxTrustKeys = 1024
	maxRoots     = 32 // each may cost a signature for each other one
)

// ParseTrust reads a trust bundle. Members that this version does not know are passed over: a later appliance may say more.
func ParseTrust(data []byte) (*Trust, error) {
	if len(data) > maxTrust {
		return nil, fmt.Errorf("the trust bundle has %d bytes, at most %d are read", len(data), maxTrust)
	}
	var f struct {
		Issuer string    `json:"issuer"`
		AsOf   time.Time `json:"as_of"`
		Keys   []struct {
			ID          string    `json:"id"`
			Purpose     string    `json:"purpose"`
			State       string    `json:"state"`
			NotBefore   time.Time `json:"not_before"`
			NotAfter    time.Time `json:"not_after"`
			Certificate []byte    `json:"certificate"`
			Link        []byte    `json:"link"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(data, &f, jsontext.AllowDuplicateNames(false)); err != nil {
		return nil, fmt.Errorf("the trust bundle: %w", err)
	}
	if len(f.Keys) == 0 || len(f.Keys) > maxTrustKeys {
		return nil, fmt.Errorf("the trust bundle has %d keys, 1 to %d are read", len(f.Keys), maxTrustKeys)
	}
	t, roots := &Trust{Issuer: f.Issuer, AsOf: f.AsOf}, 0
	for _, k := range f.Keys {
		cert, err := x509.ParseCertificate(k.Certificate)
		if err != nil {
			return nil, fmt.Errorf("the trust bundle: certificate of key %.40q: %w", k.ID, err)
		}
		if k.Purpose == "iaca" {
			if roots++; roots > maxRoots {
				return nil, fmt.Errorf("the trust bundle has more than %d roots", maxRoots)
			}
		}
		key := TrustedKey{k.ID, k.Purpose, k.State, k.NotBefore, k.NotAfter, cert, nil}
		if len(k.Link) > 0 {
			if key.Link, err = x509.ParseCertificate(k.Link); err != nil {
				return nil, fmt.Errorf("the trust bundle: link certificate of key %.40q: %w", k.ID, err)
			}
		}
		t.Keys = append(t.Keys, key)
	}
	return t, nil
}

// Roots are the bundle's IACA certificates that are anchors already, and those to which an anchor leads by link certificates that are good at an
// instant. Whether a link was revoked is said by the revocation list that it points to; a bundle that is fetched shows it, too: its key is compromised.
func (t *Trust) Roots(anchors []*x509.Certificate, at time.Time) (roots []*x509.Certificate) {
	for again := true; again; { // a link leads to a root from which another one leads on
		again = false
		for _, k := range t.Keys {
			if k.Purpose != "iaca" || k.State == "compromised" || slices.ContainsFunc(roots, k.is) || !slices.ContainsFunc(anchors, k.Certificate.Equal) && !k.linked(roots, at) {
				continue
			}
			roots, again = append(roots, k.Certificate), true
		}
	}
	return roots
}

// is says whether it is the same root: the signed part of a certificate can stand in more than one encoding of the whole.
func (k TrustedKey) is(root *x509.Certificate) bool {
	return bytes.Equal(k.Certificate.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) && bytes.Equal(k.Certificate.RawSubject, root.RawSubject)
}

// linked says whether one of the roots vouches for this one.
func (k TrustedKey) linked(roots []*x509.Certificate, at time.Time) bool {
	return k.Link != nil && slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return Linked(k.Certificate, k.Link, root, at) == nil })
}

// Linked says why a root is not to be believed by the word of another one: link has to be a certificate of the same key and name as the new root's,
// signed by the old one, and all three have to be good at that instant.
func Linked(root, link, old *x509.Certificate, at time.Time) error {
	for _, c := range []*x509.Certificate{root, link, old} {
		if at.Before(c.NotBefore.Add(-leeway)) || at.After(c.NotAfter) {
			return fmt.Errorf("certificate %s is valid from %s to %s", c.Subject, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
		if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("certificate %s is no CA's", c.Subject)
		}
	}
	switch {
	case !bytes.Equal(link.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo), !bytes.Equal(link.RawSubject, root.RawSubject):
		return errors.New("the link certificate is another root's")
	case !bytes.Equal(link.RawIssuer, old.RawSubject):
		return errors.New("the link certificate was issued by another root")
	}
	if err := link.CheckSignatureFrom(old); err != nil {
		return fmt.Errorf("the link certificate: %w", err)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("the new root: %w", err)
	}
	return nil
}

// Believes says why a signer is not believed, although its chain is good: nobody announced it, or it is compromised. Call it with the Signer of
// a verified credential and the purpose that it signed for. A bundle may be older than the credential: a key that was announced in it may sign by
// now. One whose signer it does not have at all is to be fetched again.
func (t *Trust) Believes(signer *x509.Certificate, purpose string, at time.Time) error {
	for _, k := range t.Keys {
		if k.Purpose == purpose && bytes.Equal(k.Certificate.Raw, signer.Raw) {
			switch k.State {
			case "active", "deactivated", "destroyed":
				return nil
			case "compromised":
				return fmt.Errorf("key %s is compromised: nothing that it signed is to be believed", k.ID)
			case "announced":
				if !at.Before(k.NotBefore.Add(-leeway)) {
					return nil
				}
			}
			return fmt.Errorf("key %s is %s, and signs nothing before %s", k.ID, k.State, k.NotBefore.Format(time.RFC3339))
		}
	}
	return errors.New("the trust bundle does not have the signer")
}
