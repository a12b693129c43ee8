package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"sealkeeper/evidence/android"
	"sealkeeper/evidence/apple"
)

// What may prove that the keys of a request are in a phone's secure hardware, and what says which app made the request.
const (
	KindKeyAttestation = "key_attestation"         // a wallet provider's word (OpenID4VCI D.1)
	KindAndroid        = "android_key_attestation" // the phone's own chains of certificates, up to Google's root
	KindAppAttest      = "app_attest"              // Apple's word about the app; never about a key
)

// Android is what raw Android key attestations are judged by.
type Android struct {
	Roots        [][32]byte // SHA-256 of each root's SubjectPublicKeyInfo
	StatusMaxAge time.Duration
	Rules        android.Rules
}

// Apple is what App Attest is judged by.
type Apple struct {
	Root  *x509.Certificate
	Rules apple.Rules
}

// Profile says how a phone's part of a request is read where specifications differ. The zero value is OpenID4VCI 1.0's.
type Profile struct {
	ProofNonce bool // the nonce need not stand in the key attestation (TS3); one that does must be the proof's all the same
	FirstKey   bool // the proof is by the first of the attested keys (TS3)
	TS3Type    bool // the key attestation's typ is keyattestation+jwt, as TS3 prints it, and not key-attestation+jwt
	EachKey    bool // every key proves its possession, not one for all
	// Reuse: the attestation may be one that was made for an earlier request. It then lacks this request's nonce, and only policy knows
	// whether its keys are those of the phone that has the card. The conductor sets it for refreshes of types that say so.
	Reuse bool
}

// holder is what an attestation says of the keys of a request.
type holder struct {
	keys    []Key
	proving int      // index of the key that made the proof
	anchor  [32]byte // SHA-256 of the wallet provider's root's SubjectPublicKeyInfo; zero: there is no provider
	facts   Facts
	burns   []Burn
}

// readChains decodes the texts of raw chains; android.Verify bounds and judges what is in them.
func readChains(chains [][]string, maxKeys int) ([][][]byte, error) {
	if len(chains) > maxKeys {
		return nil, refuse("attestation_keys_too_many", "the request has more Android key attestations than this appliance accepts in one request")
	}
	out := make([][][]byte, len(chains))
	for i, texts := range chains {
		if len(texts) > android.MaxChain {
			return nil, refuse("android_chain_length", "a chain has more than 6 certificates")
		}
		for _, s := range texts {
			if len(s) > base64.RawURLEncoding.EncodedLen(android.MaxCertificate) {
				return nil, refuse("android_chain_size", "a certificate of a chain is larger than 8 KiB")
			}
			der, ok := decode64(s)
			if !ok {
				return nil, refuse("android_chain_malformed", "a certificate of a chain is not canonical unpadded base64url")
			}
			out[i] = append(out[i], der)
		}
	}
	return out, nil
}

// byAndroid judges raw chains, one for each key. The challenge is the nonce's text: what a session binds (person, key, nonce), secure hardware
// then signed the nonce of. That several keys are one phone's nobody vouches for but the attestation key: one that came over the air is one app's on one
// phone, a factory's is that of 100,000 phones.
func (v *Verifier) byAndroid(about About, p *proof, beside string, texts [][]string) (*holder, error) {
	if p.attestation != "" || beside != "" {
		return nil, refuse("attestation_ambiguous", "the request has Android key attestations and a wallet provider's: send one or the other")
	}
	if v.trust.Android == nil {
		return nil, refuse("android_unconfigured", "the policy accepts no Android key attestations")
	}
	chains, err := readChains(texts, v.trust.MaxKeys)
	if err != nil {
		return nil, err
	}
	a := v.trust.Android
	trust := android.Trust{Roots: a.Roots, StatusMaxAge: a.StatusMaxAge, Skew: v.trust.Skew, Memo: v.memo}
	if about.Status != nil {
		trust.Status = about.Status.android
	}
	want := android.Expected{Challenge: []byte(p.nonce), At: about.At, Now: about.Now, Reuse: about.Profile.Reuse}
	h := &holder{facts: Facts{Kinds: []string{KindAndroid}}}
	for i, chain := range chains {
		proven, err := android.Verify(chain, want, trust, a.Rules)
		if err != nil {
			return nil, passOn(err)
		}
		k, err := keyOf(proven.Key())
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(h.keys, func(o Key) bool { return o.Thumbprint == k.Thumbprint }) {
			return nil, refuse("attestation_keys_repeated", "two Android key attestations are of one key")
		}
		switch {
		case i == 0:
		case !proven.Facts().Remote:
			return nil, refuse("attestation_ambiguous", "a factory's attestation key is that of many phones, so nothing shows that the keys are one phone's: send one key")
		case !slices.EqualFunc(chain[1:], chains[0][1:], bytes.Equal):
			return nil, refuse("attestation_ambiguous",
				"the keys are not attested by one attestation key, so nothing shows that they are one phone's: send one key, or make all of them again at once, in the same secure hardware")
		}
		h.keys = append(h.keys, k)
		h.facts.addAndroid(proven.Facts(), i == 0)
	}
	return h, h.namedBy(about, p)
}

// addAndroid adds what secure hardware says of one more key: of several the request is worth what all of them have.
func (f *Facts) addAndroid(a android.Facts, first bool) {
	storage := "android_trusted_environment"
	if a.Level == android.StrongBox {
		storage = "android_strongbox"
	}
	user := map[uint64]string{android.AuthPassword: "android_password", android.AuthBiometric: "android_biometric",
		android.AuthPassword | android.AuthBiometric: "android_password_or_biometric"}[a.AuthTypes]
	if first {
		f.App, f.AttestationIssuer, f.AttestationExpires = a.App.Name, "android:"+hex.EncodeToString(a.Root[:8]), a.ChainEnds
		f.KeyStorage, f.UserAuthentication = []string{storage}, nil
		if user != "" {
			f.UserAuthentication = []string{user}
		}
	}
	if f.App != a.App.Name {
		f.App = ""
	}
	f.KeyStorage = slices.DeleteFunc(f.KeyStorage, func(s string) bool { return s != storage })
	f.UserAuthentication = slices.DeleteFunc(f.UserAuthentication, func(s string) bool { return s != user })
	f.Reused = f.Reused || a.Reused
	if !a.ChainEnds.IsZero() && (f.AttestationExpires.IsZero() || a.ChainEnds.Before(f.AttestationExpires)) {
		f.AttestationExpires = a.ChainEnds
	}
}

// passOn gives a refusal of a phone maker's format this room's form.
func passOn(err error) error {
	coded, ok := err.(interface{ Code() string })
	if !ok {
		return err
	}
	return &Refusal{code: coded.Code(), detail: strings.TrimPrefix(err.Error(), coded.Code()+": ")}
}

// keyOf writes a public key as JWK.
func keyOf(public crypto.PublicKey) (Key, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			break
		}
		n := len(point) / 2
		return readJWK([]byte(`{"crv":"` + k.Curve.Params().Name + `","kty":"EC","x":"` + b64(point[1:1+n]) + `","y":"` + b64(point[1+n:]) + `"}`))
	case ed25519.PublicKey:
		return readJWK([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(k) + `"}`))
	}
	return Key{}, refuse("jwk_unsupported", "a key is none of EC P-256, EC P-384 and Ed25519")
}

// phoneItems takes those items out of a request's that are no statements of authorities: about the app and about the wallet.
func phoneItems(items []Item) (app, wallet string, rest []Item, err error) {
	ours := func(o Item) bool { return o.Kind == KindAppAttest || o.Kind == KindWallet }
	if !slices.ContainsFunc(items, ours) {
		return "", "", items, nil
	}
	for _, item := range items {
		to, malformed := &app, "app_attest_malformed"
		if item.Kind == KindWallet {
			to, malformed = &wallet, "wallet_malformed"
		}
		switch {
		case !ours(item):
			rest = append(rest, item)
		case *to != "":
			return "", "", nil, refuse("kind_twice", "the request carries two items of kind "+item.Kind)
		case item.Token == "":
			return "", "", nil, refuse(malformed, "the item is empty")
		default:
			*to = item.Token
		}
	}
	return app, wallet, rest, nil
}

// AppClientData is what an app has attested: the nonce of its request and the key that makes the proof. So neither can be exchanged, and as
// the nonce is good once, the attestation is.
func AppClientData(nonce string, thumbprint [32]byte) []byte {
	return []byte(nonce + "." + base64.RawURLEncoding.EncodeToString(thumbprint[:]))
}

// checkApp judges App Attest. What it yields is a fact about an app; its key goes nowhere.
func (v *Verifier) checkApp(about About, nonce string, h *holder, token string) error {
	if token == "" {
		return nil
	}
	if v.trust.Apple == nil {
		return refuse("apple_unconfigured", "the policy accepts no App Attest")
	}
	if len(token) > maxAppToken {
		return refuse("app_attest_malformed", "the item is larger than 24 KiB")
	}
	name, text, _ := strings.Cut(token, ".")
	id, ok1 := decode64(name)
	object, ok2 := decode64(text)
	if !ok1 || !ok2 || len(id) != sha256.Size {
		return refuse("app_attest_malformed", "the item is not key id, dot and attestation object, each in canonical base64url")
	}
	want := apple.Expected{ClientDataHash: sha256.Sum256(AppClientData(nonce, h.keys[h.proving].Thumbprint)), KeyID: [32]byte(id), At: about.At}
	app, err := apple.Verify(object, want, apple.Trust{Root: v.trust.Apple.Root}, v.trust.Apple.Rules)
	if err != nil {
		return passOn(err)
	}
	if h.facts.App != "" {
		return refuse("attestation_ambiguous", "the request has an Android key attestation and an App Attest: one of them is another phone's")
	}
	h.facts.Kinds, h.facts.App = append(h.facts.Kinds, KindAppAttest), app.Name()
	return nil
}

const maxAppToken = 24 << 10
