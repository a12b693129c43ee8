package evidence_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/evidence/android"
	"sealkeeper/evidence/apple"
	"sealkeeper/internal/fuzzing"
	"sealkeeper/tests/phone"
)

var signer = sha256.Sum256([]byte("the wallet's signing certificate"))

// phoneWorld is a world that believes an Android root and an App Attest root of its own.
type phoneWorld struct {
	*world
	t       testing.TB
	android *phone.Android
	apple   *phone.Apple
	about   evidence.About
	nonce   string
}

func newPhoneWorld(t testing.TB) *phoneWorld {
	w := &phoneWorld{world: newWorld(t), t: t, about: about()}
	var err1, err2 error
	w.android, err1 = phone.NewAndroid(now, phone.AndroidBend{Remote: true})
	w.apple, err2 = phone.NewApple(now)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	w.trust.Android = &evidence.Android{Roots: [][32]byte{w.android.Root()}, StatusMaxAge: time.Hour,
		Rules: android.Rules{Apps: []android.App{{Package: "org.example.wallet", Signers: [][32]byte{signer}}}}}
	w.trust.Apple = &evidence.Apple{Root: w.apple.Root(), Rules: apple.Rules{Apps: []apple.Identifier{{Team: "MURL8TA57X", Bundle: "org.example.wallet"}}}}
	w.verifier = evidence.NewVerifier(w.trust)
	w.about.Status, w.about.StatusMaxAge = status(t, now, nil), time.Hour
	w.nonce = w.world.nonce()
	return w
}

// lists are status lists by URI, as bytes of values with 2 bits each.
func status(t testing.TB, asOf time.Time, lists map[string][]byte) *evidence.PhoneStatus {
	t.Helper()
	s, err := evidence.ParsePhoneStatus(statusJSON(t, asOf, lists))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func statusJSON(t testing.TB, asOf time.Time, lists map[string][]byte) []byte {
	f := map[string]any{"format": 1, "as_of": asOf, "android": map[string]any{"entries": map[string]any{}}}
	var all []any
	for uri, image := range lists {
		all = append(all, map[string]any{"uri": uri, "bits": 2, "lst": deflated(image)})
	}
	if all != nil {
		f["lists"] = all
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func deflated(image []byte) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(image)
	_ = z.Close()
	return base64.RawURLEncoding.EncodeToString(b.Bytes())
}

func (w *phoneWorld) verify(b evidence.Bundle) (*evidence.Verified, string) {
	v, err := w.verifier.Verify(w.about, b)
	var refusal *evidence.Refusal
	if err != nil && !errors.As(err, &refusal) {
		w.t.Fatalf("%v is no refusal", err)
	}
	if err != nil {
		return v, strings.TrimPrefix(refusal.Code(), "evidence.")
	}
	return v, ""
}

func (w *phoneWorld) chains(n int, challenge string, bend func(i int, d *phone.KeyDescription)) [][]string {
	return w.android.Attestation(w.phone, n, challenge, "org.example.wallet", signer, now, bend)
}

func (w *phoneWorld) prove(key int) string { return w.phone.Prove(key, audience, w.nonce, now, "") }

func (w *phoneWorld) attest(o ...phone.Option) string {
	return w.phone.Attest(w.provider, w.nonce, now, o...)
}

func TestAndroidInRequests(t *testing.T) {
	w := newPhoneWorld(t)
	v, refused := w.verify(evidence.Bundle{Proof: w.prove(1), Android: w.chains(2, w.nonce, nil)})
	if refused != "" {
		t.Fatal(refused)
	}
	f := v.Facts()
	if keys := v.Keys(); len(keys) != 2 || base64.RawURLEncoding.EncodeToString(keys[0].Thumbprint[:]) != w.phone.Thumbprint(1) || string(keys[0].JWK) != string(w.phone.JWK(1)) {
		t.Errorf("%+v", v.Keys())
	}
	if fmt.Sprintf("%v %v %v %v %v", f.Kinds, f.KeyStorage, f.UserAuthentication, f.App, f.Reused) !=
		"[android_key_attestation proof_of_possession] [android_trusted_environment] [android_biometric] org.example.wallet false" {
		t.Errorf("%+v", f)
	}
	if len(v.Burns()) != 1 || v.Burns()[0].Kind != evidence.BurnNonce {
		t.Errorf("%+v", v.Burns())
	}
	// Keys of the other kinds that a card may be bound to.
	for _, k := range []struct {
		make        func(int) (*phone.Phone, error)
		size, curve int
	}{{phone.NewP384, 384, 2}, {phone.NewEd25519, 256, 4}} {
		p := newPhone(t, k.make, 1)
		chains := w.android.Attestation(p, 1, w.nonce, "org.example.wallet", signer, now, func(_ int, d *phone.KeyDescription) {
			d.Hardware.Set(3, phone.DERInt(k.size))
			d.Hardware.Set(10, phone.DERInt(k.curve))
		})
		v, refused := w.verify(evidence.Bundle{Proof: p.Prove(0, audience, w.nonce, now, ""), Android: chains})
		if refused != "" || string(v.Keys()[0].JWK) != string(p.JWK(0)) {
			t.Errorf("a key of %d bits on curve %d: %s", k.size, k.curve, refused)
		}
	}
	// What one key lacks the request lacks.
	v, refused = w.verify(evidence.Bundle{Proof: w.prove(0), Android: w.chains(2, w.nonce, func(i int, d *phone.KeyDescription) {
		if i == 1 {
			d.Hardware.Set(504, phone.DERInt(1))
		}
	})})
	if f := v.Facts(); refused != "" || len(f.UserAuthentication) != 0 || len(f.KeyStorage) != 1 {
		t.Errorf("%s %+v", refused, f)
	}
	for name, c := range map[string]struct {
		want   string
		bundle evidence.Bundle
		about  func(*evidence.About)
	}{
		"another challenge":         {"android_challenge", evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, "x", nil)}, nil},
		"a wallet provider's too":   {"attestation_ambiguous", evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil), KeyAttestation: w.attest()}, nil},
		"an unattested key's proof": {"proof_key_unattested", evidence.Bundle{Proof: w.prove(1), Android: w.chains(1, w.nonce, nil)}, nil},
		"five keys":                 {"attestation_keys_too_many", evidence.Bundle{Proof: w.prove(0), Android: slices.Repeat(w.chains(1, w.nonce, nil), 5)}, nil},
		"a key twice":               {"attestation_keys_repeated", evidence.Bundle{Proof: w.prove(0), Android: slices.Repeat(w.chains(1, w.nonce, nil), 2)}, nil},
		"seven certificates":        {"android_chain_length", evidence.Bundle{Proof: w.prove(0), Android: [][]string{slices.Repeat(w.chains(1, w.nonce, nil)[0], 2)[:7]}}, nil},
		"a large certificate":       {"android_chain_size", evidence.Bundle{Proof: w.prove(0), Android: [][]string{{strings.Repeat("A", 10924)}}}, nil},
		"no base64url":              {"android_chain_malformed", evidence.Bundle{Proof: w.prove(0), Android: [][]string{{"A"}}}, nil},
		"no status":                 {"android_status_missing", evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil)}, func(a *evidence.About) { a.Status = nil }},
		"resumed with an old status": {"android_status_stale", evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil)},
			func(a *evidence.About) { a.Now = a.At.Add(2 * time.Hour) }},
		"resumed with a newer status": {"", evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil)},
			func(a *evidence.About) {
				a.Now, a.Status = a.At.Add(2*time.Hour), status(t, a.At.Add(2*time.Hour), nil)
			}},
	} {
		old := w.about
		if c.about != nil {
			c.about(&w.about)
		}
		if _, got := w.verify(c.bundle); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		w.about = old
	}
	w.trust.Android = nil
	w.verifier = evidence.NewVerifier(w.trust)
	if _, got := w.verify(evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil)}); got != "android_unconfigured" {
		t.Errorf("under a policy without Android: %q", got)
	}
}

// Of several keys in a request somebody has to say that they are one phone's, or two phones would have one card. Nobody does of Android phones but
// their attestation key: the same one, and no factory's, which a hundred thousand phones have.
func TestAndroidKeysAreOnePhones(t *testing.T) {
	w := newPhoneWorld(t)
	android := func(bend phone.AndroidBend) *phone.Android {
		t.Helper()
		bend.Root = w.android
		a, err := phone.NewAndroid(now, bend)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	factory, other, strongBox := android(phone.AndroidBend{}), android(phone.AndroidBend{Remote: true}), android(phone.AndroidBend{Remote: true, StrongBox: true})
	by := func(a *phone.Android, key int) []string {
		return a.Attestation(w.phone, 2, w.nonce, "org.example.wallet", signer, now, nil)[key]
	}
	for name, c := range map[string]struct {
		first, second []string
		want          string
	}{
		"one attestation key that came over the air": {by(w.android, 0), by(w.android, 1), ""},
		"another phone's":                 {by(w.android, 0), by(other, 1), "attestation_ambiguous"},
		"of the phone's other hardware":   {by(w.android, 0), by(strongBox, 1), "attestation_ambiguous"},
		"one factory key":                 {by(factory, 0), by(factory, 1), "attestation_ambiguous"},
		"one of a factory's":              {by(w.android, 0), by(factory, 1), "attestation_ambiguous"},
		"a factory's and one that is not": {by(factory, 0), by(w.android, 1), "attestation_ambiguous"},
	} {
		if _, got := w.verify(evidence.Bundle{Proof: w.prove(0), Android: [][]string{c.first, c.second}}); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if _, got := w.verify(evidence.Bundle{Proof: w.prove(0), Android: [][]string{by(factory, 0)}}); got != "" {
		t.Errorf("one key by a factory's: %q", got)
	}
	// The chains of before are judged alike.
	w.about.Profile.Reuse = true
	before := func(a *phone.Android, key int) []string {
		return a.Attestation(w.phone, 2, "another nonce", "org.example.wallet", signer, now, nil)[key]
	}
	if v, got := w.verify(evidence.Bundle{Proof: w.prove(0), Android: [][]string{before(w.android, 0), before(w.android, 1)}}); got != "" || !v.Facts().Reused {
		t.Errorf("chains of before: %q", got)
	}
	if _, got := w.verify(evidence.Bundle{Proof: w.prove(0), Android: [][]string{before(w.android, 0), by(other, 1)}}); got != "attestation_ambiguous" {
		t.Errorf("one of before and another phone's: %q", got)
	}
}

// App Attest says which app asks, for one request and one holder key; its own key never becomes a holder's.
func TestAppAttestIsAboutTheApp(t *testing.T) {
	w := newPhoneWorld(t)
	app := phone.NewAppKey("MURL8TA57X.org.example.wallet")
	item := func(k *phone.AppKey, nonce string, key int, bend phone.AppleBend) []evidence.Item {
		id := k.ID()
		thumbprint, _ := evidence.Thumbprint(w.phone.Thumbprint(key))
		object := w.apple.Attest(k, sha256.Sum256(evidence.AppClientData(nonce, thumbprint)), bend)
		b64 := base64.RawURLEncoding.EncodeToString
		return []evidence.Item{{Kind: evidence.KindAppAttest, Token: b64(id[:]) + "." + b64(object)}}
	}
	bundle := func(items []evidence.Item) evidence.Bundle {
		return evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest(), Items: items}
	}
	good := item(app, w.nonce, 0, phone.AppleBend{})
	v, refused := w.verify(bundle(good))
	if refused != "" {
		t.Fatal(refused)
	}
	if f := v.Facts(); f.App != "MURL8TA57X.org.example.wallet" || fmt.Sprint(f.Kinds) != "[app_attest key_attestation proof_of_possession]" {
		t.Errorf("%+v", f)
	}
	for _, k := range v.Keys() {
		if thumbprint := base64.RawURLEncoding.EncodeToString(k.Thumbprint[:]); thumbprint != w.phone.Thumbprint(0) && thumbprint != w.phone.Thumbprint(1) {
			t.Error("a key that the wallet provider did not attest")
		}
	}
	for name, c := range map[string]struct {
		want  string
		items []evidence.Item
	}{
		"of another request":      {"apple_nonce", item(app, "another", 0, phone.AppleBend{})},
		"with another holder key": {"apple_nonce", item(app, w.nonce, 1, phone.AppleBend{})},
		"of another app":          {"apple_app", item(phone.NewAppKey("MURL8TA57X.org.evil"), w.nonce, 0, phone.AppleBend{})},
		"of a development build":  {"apple_environment", item(app, w.nonce, 0, phone.AppleBend{Development: true})},
		"twice":                   {"kind_twice", slices.Repeat(good, 2)},
		"empty":                   {"app_attest_malformed", []evidence.Item{{Kind: evidence.KindAppAttest}}},
		"without key id":          {"app_attest_malformed", []evidence.Item{{Kind: evidence.KindAppAttest, Token: good[0].Token[44:]}}},
		"too large":               {"app_attest_malformed", []evidence.Item{{Kind: evidence.KindAppAttest, Token: strings.Repeat("A", 24<<10+1)}}},
		"with another key's id":   {"apple_key_id", []evidence.Item{{Kind: evidence.KindAppAttest, Token: "B" + strings.Repeat("A", 42) + good[0].Token[43:]}}},
	} {
		if _, got := w.verify(bundle(c.items)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	both := evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil), Items: good}
	if _, got := w.verify(both); got != "attestation_ambiguous" {
		t.Errorf("with an Android phone's chain: %q", got)
	}
	// A key that App Attest vouches for is none that a card could be bound to, not even by its own proof.
	stranger := newPhone(t, phone.New, 1)
	if _, got := w.verify(evidence.Bundle{Proof: stranger.Prove(0, audience, w.nonce, now, ""), Items: good}); got != "attestation_missing" {
		t.Errorf("without a key attestation: %q", got)
	}
	w.trust.Apple = nil
	w.verifier = evidence.NewVerifier(w.trust)
	if _, got := w.verify(bundle(good)); got != "apple_unconfigured" {
		t.Errorf("under a policy without App Attest: %q", got)
	}
}

// Where OpenID4VCI and TS3 differ, each way is taken under its profile and refused under the other.
func TestProfiles(t *testing.T) {
	w := newPhoneWorld(t)
	other := w.phone.Attest(w.provider, "another nonce", now)
	both := []string{w.prove(1)}
	foreign := w.phone.Prove(1, audience, w.world.nonce(), now, "")
	for name, c := range map[string]struct {
		bundle   evidence.Bundle
		profile  evidence.Profile
		strict   string // under OpenID4VCI's
		profiled string // under profile
	}{
		"no nonce in the attestation": {evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest(phone.Claim("nonce", nil))}, evidence.Profile{ProofNonce: true}, "attestation_nonce", ""},
		"another nonce in it":         {evidence.Bundle{Proof: w.prove(0), KeyAttestation: other}, evidence.Profile{ProofNonce: true}, "attestation_nonce", "attestation_nonce"},
		"the proof's nonce in it":     {evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest()}, evidence.Profile{ProofNonce: true}, "", ""},
		"TS3's typ":                   {evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest(phone.Header("typ", "keyattestation+jwt"))}, evidence.Profile{TS3Type: true}, "attestation_type", ""},
		"OpenID4VCI's typ":            {evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest()}, evidence.Profile{TS3Type: true}, "", "attestation_type"},
		"proof by the second key":     {evidence.Bundle{Proof: w.prove(1), KeyAttestation: w.attest()}, evidence.Profile{FirstKey: true}, "", "proof_key_order"},
		"proof by the first key":      {evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest()}, evidence.Profile{FirstKey: true}, "", ""},
		"one proof for two keys":      {evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest()}, evidence.Profile{EachKey: true}, "", "proof_of_each"},
		"a proof by each":             {evidence.Bundle{Proof: w.prove(0), Proofs: both, KeyAttestation: w.attest()}, evidence.Profile{EachKey: true}, "proof_unasked", ""},
		"two proofs by one":           {evidence.Bundle{Proof: w.prove(1), Proofs: both, KeyAttestation: w.attest()}, evidence.Profile{EachKey: true}, "proof_unasked", "proof_of_each"},
		"a proof over another nonce":  {evidence.Bundle{Proof: w.prove(0), Proofs: []string{foreign}, KeyAttestation: w.attest()}, evidence.Profile{EachKey: true}, "proof_unasked", "proof_of_each"},
		"a proof that is another's": {evidence.Bundle{Proof: w.prove(0), Proofs: []string{w.phone.Prove(1, audience, w.nonce, now, "", phone.SignedByKey(w.phone, 0))}, KeyAttestation: w.attest()},
			evidence.Profile{EachKey: true}, "proof_unasked", "proof_signature"},
		"a proof for another audience": {evidence.Bundle{Proof: w.prove(0), Proofs: []string{w.phone.Prove(1, "https://else.example", w.nonce, now, "")}, KeyAttestation: w.attest()},
			evidence.Profile{EachKey: true}, "proof_unasked", "proof_audience"},
		"Android: a proof by each":       {evidence.Bundle{Proof: w.prove(0), Proofs: both, Android: w.chains(2, w.nonce, nil)}, evidence.Profile{EachKey: true}, "proof_unasked", ""},
		"Android: proof by the second":   {evidence.Bundle{Proof: w.prove(1), Android: w.chains(2, w.nonce, nil)}, evidence.Profile{FirstKey: true}, "", "proof_key_order"},
		"an attestation of before":       {evidence.Bundle{Proof: w.prove(0), KeyAttestation: other}, evidence.Profile{Reuse: true}, "attestation_nonce", ""},
		"Android: a chain of before":     {evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, "another nonce", nil)}, evidence.Profile{Reuse: true}, "android_challenge", ""},
		"Android: no nonce in the chain": {evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, "another nonce", nil)}, evidence.Profile{ProofNonce: true}, "android_challenge", "android_challenge"},
	} {
		for _, side := range []struct {
			profile evidence.Profile
			want    string
		}{{evidence.Profile{}, c.strict}, {c.profile, c.profiled}} {
			w.about.Profile = side.profile
			v, got := w.verify(c.bundle)
			if got != side.want {
				t.Errorf("%s, %+v: %q, want %q", name, side.profile, got, side.want)
			}
			// What is used again is said so, for policy to judge, and is not burnt twice.
			if reused := strings.HasSuffix(name, "of before"); got == "" && (v.Facts().Reused != reused || reused && len(v.Burns()) != 1) {
				t.Errorf("%s: reused is %v with %d burns", name, v.Facts().Reused, len(v.Burns()))
			}
		}
	}
}

// A status that the wallet provider points to holds: what is revoked, or kept up to date no longer, is refused.
func TestStatusesOfWallets(t *testing.T) {
	w := newPhoneWorld(t)
	const uri = "https://wallet.example/status/1"
	w.about.Status = status(t, now, map[string][]byte{uri: {0b00_10_01_00, 0}}) // 0 valid, 1 revoked, 2 suspended, 3 valid
	list := func(i int) map[string]any {
		return map[string]any{"status_list": map[string]any{"idx": i, "uri": uri}}
	}
	dated := func(i int, until time.Time) map[string]any {
		return map[string]any{"status": list(i), "exp": until.Unix()}
	}
	year := now.Add(365 * 24 * time.Hour)
	for name, c := range map[string]struct {
		member string
		claim  any
		want   string
		known  bool
	}{
		"valid":              {"status", list(0), "", true},
		"revoked":            {"status", list(1), "status_revoked", false},
		"suspended":          {"status", list(2), "status_revoked", false},
		"outside":            {"status", list(8), "status_malformed", false},
		"last":               {"status", list(7), "", true},
		"negative":           {"status", list(-1), "status_malformed", false},
		"of another list":    {"status", map[string]any{"status_list": map[string]any{"idx": 1, "uri": uri + "0"}}, "", false},
		"without a URI":      {"status", map[string]any{"status_list": map[string]any{"idx": 1}}, "status_malformed", false},
		"of plain http":      {"status", map[string]any{"status_list": map[string]any{"idx": 1, "uri": "http://x"}}, "status_malformed", false},
		"of another kind":    {"status", map[string]any{"identifier_list": map[string]any{}}, "", false},
		"key storage":        {"key_storage_status", dated(3, year), "", true},
		"key storage lost":   {"key_storage_status", dated(1, year), "status_revoked", false},
		"key storage over":   {"key_storage_status", dated(0, now), "status_expired", false},
		"wallet":             {"client_status", dated(0, year), "", true},
		"wallet lost":        {"client_status", dated(2, year), "status_revoked", false},
		"wallet over":        {"client_status", dated(0, now.Add(-time.Hour)), "status_expired", false},
		"wallet until never": {"client_status", map[string]any{"status": list(0), "exp": -1}, "status_malformed", false},
	} {
		v, got := w.verify(evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest(phone.Claim(c.member, c.claim))})
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if got == "" && (len(v.Facts().Statuses) != 1 || v.Facts().Statuses[0].Known != c.known) {
			t.Errorf("%s: %+v", name, v.Facts().Statuses)
		}
		if got == "" && c.member != "status" && !v.Facts().Statuses[0].Ends.Equal(year) {
			t.Errorf("%s: ends at %s", name, v.Facts().Statuses[0].Ends)
		}
	}
	// A list after its exp, and an old status, say nothing of anybody.
	ended, err := evidence.ParsePhoneStatus([]byte(strings.Replace(string(statusJSON(t, now, map[string][]byte{uri: {0, 0}})), `"bits":2`, fmt.Sprintf(`"exp":%d,"bits":2`, now.Unix()), 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*evidence.PhoneStatus{ended, status(t, now.Add(-2*time.Hour), map[string][]byte{uri: {0, 0}})} {
		w.about.Status = s
		v, got := w.verify(evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest(phone.Claim("status", list(0)))})
		if got != "" || v.Facts().Statuses[0].Known {
			t.Errorf("%q %+v", got, v.Facts().Statuses)
		}
	}
}

// A wallet attestation says which wallet asks and where its status stands; it holds for one request and beside its own provider's key attestation.
func TestWalletAttestation(t *testing.T) {
	w := newPhoneWorld(t)
	const uri = "https://wallet.example/status/1"
	w.about.Status = status(t, now, map[string][]byte{uri: {0b01_00}}) // 1 is revoked
	wallet, year := newPhone(t, phone.New, 2), now.Add(365*24*time.Hour)
	dated := func(i int) phone.Option {
		return phone.Claim("client_status", map[string]any{"status": map[string]any{"status_list": map[string]any{"idx": i, "uri": uri}}, "exp": year.Unix()})
	}
	type options = []phone.Option
	make := func(provider *phone.Provider, a, p options) string {
		return wallet.AttestWallet(provider, 0, audience, w.nonce, now, append(options{dated(0)}, a...), p)
	}
	ask := func(token, attestation string) (*evidence.Verified, string) {
		return w.verify(evidence.Bundle{Proof: w.prove(0), KeyAttestation: attestation, Items: []evidence.Item{{Kind: evidence.KindWallet, Token: token}}})
	}
	good := make(w.provider, nil, nil)
	v, got := ask(good, w.attest())
	if got != "" {
		t.Fatal(got)
	}
	if s := v.Facts().Statuses; len(s) != 1 || s[0].Name != evidence.StatusWallet || !s[0].Known || !s[0].Ends.Equal(year) || !slices.Contains(v.Facts().Kinds, evidence.KindWallet) {
		t.Errorf("%+v", v.Facts())
	}
	other := provider(t, phone.Bend{})
	w.trust.WalletProviders = append(w.trust.WalletProviders, other.Anchor())
	w.verifier = evidence.NewVerifier(w.trust)
	before, after, _ := strings.Cut(good, "~")
	for name, c := range map[string]struct{ token, want string }{
		"with nonce for challenge":     {make(w.provider, nil, options{phone.Claim("challenge", nil), phone.Claim("nonce", w.nonce)}), ""},
		"without iat":                  {make(w.provider, options{phone.Claim("iat", nil)}, nil), ""},
		"of a revoked wallet":          {make(w.provider, options{dated(1)}, nil), "status_revoked"},
		"of another request":           {make(w.provider, nil, options{phone.Claim("challenge", "another")}), "wallet_proof"},
		"with a nonce beside it":       {make(w.provider, nil, options{phone.Claim("challenge", "another"), phone.Claim("nonce", w.nonce)}), "wallet_proof"},
		"for another issuer":           {make(w.provider, nil, options{phone.Claim("aud", "https://else.example")}), "wallet_proof"},
		"for two issuers":              {make(w.provider, nil, options{phone.Claim("aud", []string{audience, "https://else.example"})}), "wallet_proof"},
		"of another provider":          {make(other, nil, nil), "wallet_provider"},
		"of a stranger":                {make(provider(t, phone.Bend{}), nil, nil), "attestation_untrusted"},
		"over":                         {make(w.provider, options{phone.Expires(now.Add(-time.Hour))}, nil), "wallet_time"},
		"for two days":                 {make(w.provider, options{phone.Expires(now.Add(48 * time.Hour))}, nil), "wallet_time"},
		"of tomorrow":                  {make(w.provider, options{phone.Claim("iat", now.Add(time.Hour).Unix())}, nil), "wallet_time"},
		"with an old proof":            {make(w.provider, nil, options{phone.Claim("iat", now.Add(-time.Hour).Unix())}), "wallet_time"},
		"proven by another key":        {make(w.provider, nil, options{phone.SignedByKey(wallet, 1)}), "wallet_signature"},
		"signed by the wallet":         {make(w.provider, options{phone.SignedByKey(wallet, 0)}, nil), "wallet_signature"},
		"of another type":              {make(w.provider, options{phone.Header("typ", "key-attestation+jwt")}, nil), "wallet_type"},
		"with a proof of another type": {make(w.provider, nil, options{phone.Header("typ", "openid4vci-proof+jwt")}), "wallet_type"},
		"critical":                     {make(w.provider, options{phone.Header("crit", []string{"x"})}, nil), "wallet_malformed"},
		"without a chain":              {make(w.provider, options{phone.Header("x5c", nil)}, nil), "wallet_malformed"},
		"without exp":                  {make(w.provider, options{phone.Claim("exp", nil)}, nil), "wallet_malformed"},
		"without a key":                {make(w.provider, options{phone.Claim("cnf", map[string]any{})}, nil), "jwk_malformed"},
		"without its proof":            {before, "wallet_malformed"},
		"its proof alone":              {"~" + after, "wallet_malformed"},
		"empty":                        {"", "wallet_malformed"},
		"too large":                    {good + strings.Repeat("A", 96<<10), "wallet_malformed"},
	} {
		if _, got := ask(c.token, w.attest()); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if _, got := ask(good, w.attest(dated(0))); got != "attestation_ambiguous" {
		t.Errorf("with a client_status in the key attestation too: %q", got)
	}
	if _, got := w.verify(evidence.Bundle{Proof: w.prove(0), Android: w.chains(1, w.nonce, nil), Items: []evidence.Item{{Kind: evidence.KindWallet, Token: good}}}); got != "wallet_provider" {
		t.Errorf("beside an Android phone's own word: %q", got)
	}
}

func TestPhoneStatusIsReadStrictly(t *testing.T) {
	good := string(statusJSON(t, now, map[string][]byte{"https://wallet.example/status/1": {0, 0}}))
	s, err := evidence.ParsePhoneStatus([]byte(good))
	if err != nil || !s.AsOf().Equal(now) {
		t.Fatal(err)
	}
	if keys, lists := s.Entries(); keys != 0 || lists != 1 {
		t.Error(keys, lists)
	}
	bomb := deflated(make([]byte, 5<<20))
	for name, replace := range map[string][2]string{
		"no instant":          {`"as_of"`, `"at"`},
		"another format":      {`"format":1`, `"format":2`},
		"a member more":       {`"format":1`, `"format":1,"x":1`},
		"unknown Android":     {`"entries":{}`, `"entries":{"1":{"status":"FINE"}}`},
		"three bits":          {`"bits":2`, `"bits":3`},
		"plain http":          {`https:`, `http:`},
		"no zlib":             {deflated([]byte{0, 0}), "AAAA"},
		"padded":              {deflated([]byte{0, 0}), deflated([]byte{0, 0}) + "="},
		"an empty list":       {deflated([]byte{0, 0}), deflated(nil)},
		"a bomb":              {deflated([]byte{0, 0}), bomb},
		"cut":                 {deflated([]byte{0, 0}), deflated([]byte{0, 0})[:4]},
		"the same list again": {`"lists":[`, `"lists":[{"uri":"https://wallet.example/status/1","bits":2,"lst":"` + deflated([]byte{1}) + `"},`},
	} {
		bent := strings.Replace(good, replace[0], replace[1], 1)
		if _, err := evidence.ParsePhoneStatus([]byte(bent)); err == nil || bent == good {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzWallet(f *testing.F) {
	w := newPhoneWorld(f)
	wallet := newPhone(f, phone.New, 1)
	seeds := [][]byte{[]byte(wallet.AttestWallet(w.provider, 0, audience, w.nonce, now, []phone.Option{phone.Claim("client_status", map[string]any{"exp": now.Unix() + 100})}, nil))}
	good := string(seeds[0])
	b := evidence.Bundle{Proof: w.prove(0), KeyAttestation: w.attest()}
	signedParts := func(s string) string {
		first, second, _ := strings.Cut(s, "~")
		return first[:max(0, strings.LastIndexByte(first, '.'))] + "~" + second[:max(0, strings.LastIndexByte(second, '.'))]
	}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		b.Items = []evidence.Item{{Kind: evidence.KindWallet, Token: string(in)}}
		v, err := w.verifier.Verify(w.about, b)
		if err == nil && signedParts(string(in)) != signedParts(good) {
			t.Errorf("a wallet was believed that nobody attested: %s", in)
		}
		if (err == nil) != v.Valid() {
			t.Error("valid and refused at once")
		}
		return err == nil
	})
}

func FuzzPhoneStatus(f *testing.F) {
	seeds := [][]byte{statusJSON(f, now, map[string][]byte{"https://wallet.example/status/1": make([]byte, 100), "https://wallet.example/status/2": {1}}),
		[]byte(`{"format":1,"as_of":"2026-03-14T03:00:00Z","android":{"entries":{"c35747a084470c3135aeefe2b8d40cd6":{"status":"REVOKED","reason":"KEY_COMPROMISE"}}}}`)}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		s, err := evidence.ParsePhoneStatus(in)
		if err == nil && s.AsOf().IsZero() {
			t.Error("a status of no instant was taken")
		}
		return err == nil
	})
}
