package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
)

// AuthoritySpec is one evidence authority: who may say what, through whom, of where, and with which keys.
type AuthoritySpec struct {
	ID          string   `json:"id"` // iss of its statements
	Description string   `json:"description,omitempty"`
	Kinds       []string `json:"kinds"`               // of statements
	Districts   []string `json:"districts,omitempty"` // of which it may speak; none: all
	Clients     []string `json:"clients,omitempty"`   // through which its statements may come; none: all
	// Keys with their times. To rotate, the next one is listed before it is used, and the old one until its last statement has expired.
	Keys []AuthorityKeySpec `json:"keys"`
	Off  bool               `json:"off,omitempty"` // kill switch: nothing that it says is believed
	// Flood is how many lines a carrier may report lost or changed in an hour before it looks like an accident or an attack: what comes then
	// suspends and stops refreshes as ever, but MSOs are revoked only when an operator has confirmed the hour. For line_event alone.
	Flood uint64 `json:"flood,omitempty"`
}

// AuthorityKeySpec is one key of an authority.
type AuthorityKeySpec struct {
	ID        string         `json:"kid"`
	JWK       jsontext.Value `json:"jwk"`        // public: EC P-256, EC P-384 or OKP Ed25519
	NotBefore time.Time      `json:"not_before"` // of the statements' iat
	NotAfter  time.Time      `json:"not_after"`
	Off       bool           `json:"off,omitempty"` // nothing that it ever signed is believed
}

const (
	maxAuthorities = 10_000
	maxKeys        = 8
	maxFlood       = 1_000_000
)

// authorities checks and builds the registry that evidence is verified with.
func (c *checker) authorities(at jsontext.Pointer, b *Bundle, specs []AuthoritySpec) {
	if len(specs) > maxAuthorities {
		c.wrong(at, "there are %d authorities, at most %d are allowed", len(specs), maxAuthorities)
		return
	}
	seen := make(map[string]bool, len(specs))
	b.floods = make(map[string]uint64, len(specs))
	for i, s := range specs {
		at := pointer(at, i)
		a := evidence.Authority{ID: s.ID, Kinds: s.Kinds, Off: s.Off, Districts: s.Districts, Clients: s.Clients}
		switch {
		case !idForm.MatchString(s.ID):
			c.wrong(at.AppendToken("id"), "%q is not an id", s.ID)
		case seen[s.ID]:
			c.wrong(at.AppendToken("id"), "authority %s is there twice", s.ID)
		case len(s.Kinds) == 0:
			c.wrong(at, "authority %s may say nothing: list kinds, or leave it out", s.ID)
		case len(s.Keys) == 0 || len(s.Keys) > maxKeys:
			c.wrong(at, "authority %s has %d keys, 1 to %d are allowed", s.ID, len(s.Keys), maxKeys)
		}
		seen[s.ID] = true
		if reports := slices.Contains(s.Kinds, evidence.KindLineEvent); reports != (s.Flood > 0) || s.Flood > maxFlood {
			c.wrong(at.AppendToken("flood"), "authority %s: an authority of kind line_event, and no other, needs a flood of 1 to %d reports in an hour", s.ID, uint64(maxFlood))
		}
		b.floods[s.ID] = s.Flood
		for j, k := range s.Kinds {
			if evidence.StatementType(k) == "" && k != evidence.KindLineEvent || slices.Contains(s.Kinds[:j], k) {
				c.wrong(pointer(at.AppendToken("kinds"), j), "%q is no kind of statement, or is there twice", k)
			}
		}
		for j, d := range s.Districts {
			if !districtForm.MatchString(d) {
				c.wrong(pointer(at.AppendToken("districts"), j), "%q is not a district code", d)
			}
		}
		for j, id := range s.Clients {
			if _, known := b.clients[id]; !known {
				c.wrong(pointer(at.AppendToken("clients"), j), "there is no client %q", id)
			}
		}
		for j, k := range s.Keys {
			at := pointer(at.AppendToken("keys"), j)
			key, err := evidence.ParseKey(k.JWK)
			switch {
			case err != nil:
				c.wrong(at.AppendToken("jwk"), "%v", err)
			case !isLevel(k.ID) || slices.ContainsFunc(a.Keys, func(o evidence.AuthorityKey) bool { return o.ID == k.ID }):
				c.wrong(at.AppendToken("kid"), "%q is not a kid, or is there twice", k.ID)
			case k.NotBefore.IsZero() || !k.NotAfter.After(k.NotBefore):
				c.wrong(at, "key %s needs a not_before and a later not_after", k.ID)
			default:
				a.Keys = append(a.Keys, evidence.AuthorityKey{ID: k.ID, Public: key.Public, NotBefore: k.NotBefore, NotAfter: k.NotAfter, Off: k.Off})
			}
		}
		b.authorities = append(b.authorities, a)
	}
}

// WalletProviderSpec is a root of key attestation chains.
type WalletProviderSpec struct {
	ID          string `json:"id"`
	Description string `json:"description,omitempty"`
	Certificate string `json:"certificate"` // DER in base64, as in x5c
	// Off is the kill switch: no chain to this root is believed, also if the configuration lists it.
	Off bool `json:"off,omitempty"`
}

type walletProvider struct {
	id   string
	root *x509.Certificate
	off  bool
}

const maxWalletProviders = 1000

func (c *checker) walletProviders(at jsontext.Pointer, b *Bundle, specs []WalletProviderSpec) {
	if len(specs) > maxWalletProviders {
		c.wrong(at, "there are %d wallet providers, at most %d are allowed", len(specs), maxWalletProviders)
		return
	}
	seen := make(map[string]bool, len(specs))
	for i, s := range specs {
		at := pointer(at, i)
		der, err := base64.StdEncoding.Strict().DecodeString(s.Certificate)
		var root *x509.Certificate
		if err == nil {
			root, err = x509.ParseCertificate(der)
		}
		switch {
		case !idForm.MatchString(s.ID) || seen[s.ID]:
			c.wrong(at.AppendToken("id"), "%q is not an id, or is there twice", s.ID)
		case err != nil:
			c.wrong(at.AppendToken("certificate"), "the certificate of %s is not DER in base64: %v", s.ID, err)
		case !root.IsCA || !root.BasicConstraintsValid:
			c.wrong(at.AppendToken("certificate"), "the certificate of %s is not that of a certificate authority", s.ID)
		}
		seen[s.ID] = true
		b.wallets = append(b.wallets, walletProvider{s.ID, root, s.Off})
	}
}

// WalletProviders are the roots of key attestations that may be believed: the installation's own and the bundle's, without those whose key the
// bundle switches off.
func (b *Bundle) WalletProviders(own []*x509.Certificate) []*x509.Certificate {
	off := func(root *x509.Certificate) bool {
		return slices.ContainsFunc(b.wallets, func(w walletProvider) bool {
			return w.off && bytes.Equal(w.root.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo)
		})
	}
	out := slices.DeleteFunc(slices.Clone(own), off)
	for _, w := range b.wallets {
		if !off(w.root) {
			out = append(out, w.root)
		}
	}
	return out
}

// WalletProvider of an id; nil: the bundle names none.
func (b *Bundle) WalletProvider(id string) *x509.Certificate {
	for _, w := range b.wallets {
		if w.id == id {
			return w.root
		}
	}
	return nil
}

// Authorities are those whose statements may be believed.
func (b *Bundle) Authorities() []evidence.Authority { return slices.Clone(b.authorities) }
