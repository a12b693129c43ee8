package verifier

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
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
}

const (
	maxTrust     = 4 << 20
	maxTrustKeys = 1024
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
		} `json:"keys"`
	}
	if err := json.Unmarshal(data, &f, jsontext.AllowDuplicateNames(false)); err != nil {
		return nil, fmt.Errorf("the trust bundle: %w", err)
	}
	if len(f.Keys) == 0 || len(f.Keys) > maxTrustKeys {
		return nil, fmt.Errorf("the trust bundle has %d keys, 1 to %d are read", len(f.Keys), maxTrustKeys)
	}
	t := &Trust{Issuer: f.Issuer, AsOf: f.AsOf}
	for _, k := range f.Keys {
		cert, err := x509.ParseCertificate(k.Certificate)
		if err != nil {
			return nil, fmt.Errorf("the trust bundle: certificate of key %.40q: %w", k.ID, err)
		}
		t.Keys = append(t.Keys, TrustedKey{k.ID, k.Purpose, k.State, k.NotBefore, k.NotAfter, cert})
	}
	return t, nil
}

// Roots are the bundle's IACA certificates that are anchors already.
func (t *Trust) Roots(anchors []*x509.Certificate) (roots []*x509.Certificate) {
	for _, k := range t.Keys {
		if k.Purpose != "iaca" || k.State == "compromised" {
			continue
		}
		for _, a := range anchors {
			if bytes.Equal(a.Raw, k.Certificate.Raw) {
				roots = append(roots, k.Certificate)
			}
		}
	}
	return roots
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
