package scenario

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/policy"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
)

const walletApp = "org.example.wallet"

var walletSigner = sha256.Sum256([]byte("the wallet's signing certificate"))

// phones is an installation that takes Android phones by their own word, with a factory's and a remotely provisioned attestation key below one root.
type phones struct {
	*ruled
	t             *testing.T
	version       int
	factory, sent *phone.Android
	feed          *ecdsa.PrivateKey
	bends         []func(bundle map[string]any) // all that have been put to use, in order
}

func androidOf(t *testing.T, bend phone.AndroidBend) *phone.Android {
	t.Helper()
	a, err := phone.NewAndroid(time.Now(), bend)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func installPhones(t *testing.T, bend func(bundle map[string]any)) *phones {
	t.Helper()
	p := &phones{ruled: installRuled(t), t: t, version: 2}
	p.factory = androidOf(t, phone.AndroidBend{})
	p.sent = androidOf(t, phone.AndroidBend{Remote: true, StrongBox: true, Root: p.factory})
	var err error
	if p.feed, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.bends = []func(map[string]any){p.android}
	if bend != nil {
		p.bends = append(p.bends, bend)
	}
	p.start()
	p.put(nil)
	return p
}

// android is the bundle's part that all these tests share: kr-resident for Android phones with a test root.
func (p *phones) android(b map[string]any) {
	root, point := p.factory.Root(), must(p.feed.PublicKey.Bytes())
	b64 := base64.RawURLEncoding.EncodeToString
	b["phones"] = map[string]any{
		"status": map[string]any{"max_age": "1h", "keys": []any{map[string]any{"kid": "feed-1",
			"jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}}}},
		"android": map[string]any{"roots": []any{hex.EncodeToString(root[:])}, "patch_age": "400d", "auth": map[string]any{"types": []any{"biometric"}},
			"apps": []any{map[string]any{"package": walletApp, "signers": []any{hex.EncodeToString(walletSigner[:])}}}},
	}
	e := typeOf(b, kr)["evidence"].(map[string]any)
	e["required"], e["attestations"] = []any{"proof_of_possession"}, []any{"key_attestation", "android_key_attestation"}
	e["key_storage"] = append(e["key_storage"].([]any), "android_trusted_environment", "android_strongbox")
	e["user_authentication"] = append(e["user_authentication"].([]any), "android_biometric")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func typeOf(b map[string]any, name string) map[string]any {
	return b["types"].(map[string]any)[name].(map[string]any)
}

func androidRules(b map[string]any) map[string]any {
	return b["phones"].(map[string]any)["android"].(map[string]any)
}

// put puts the bundle to use with one more change, which stays in all later ones if keep is true.
func (p *phones) put(change func(map[string]any)) contract.Policy {
	p.t.Helper()
	p.version++
	var b map[string]any
	data := must(os.ReadFile("../../deploy/policies/demo.json"))
	if err := json.Unmarshal(data, &b); err != nil {
		p.t.Fatal(err)
	}
	b["version"] = p.version
	b["clients"] = append(b["clients"].([]any), map[string]any{"id": "operator-1", "role": "operator", "may": map[string]any{}})
	for _, bend := range p.bends {
		bend(b)
	}
	if change != nil {
		change(b)
	}
	out := must(json.Marshal(b))
	for _, id := range []string{"alice", "bob"} {
		out = must(policy.Sign("b", out, id, p.keys[id], rand.Reader))
	}
	a, err := p.activate(p.t, string(out))
	if err != nil {
		p.t.Fatalf("putting the bundle to use: %v", err)
	}
	return a
}

// status is a signed file with revoked serial numbers.
func (p *phones) status(asOf time.Time, key *ecdsa.PrivateKey, kid string, revoked ...string) string {
	p.t.Helper()
	return p.statusWith(nil, asOf, key, kid, revoked...)
}

// statusWith is status with lists of wallets.
func (p *phones) statusWith(lists []any, asOf time.Time, key *ecdsa.PrivateKey, kid string, revoked ...string) string {
	p.t.Helper()
	entries := map[string]any{}
	for _, serial := range revoked {
		entries[serial] = map[string]string{"status": "REVOKED", "reason": "KEY_COMPROMISE"}
	}
	status := map[string]any{"format": 1, "as_of": asOf.UTC(), "android": map[string]any{"entries": entries}}
	if lists != nil {
		status["lists"] = lists
	}
	payload := must(json.Marshal(status))
	return string(must(policy.SignPhoneStatus(payload, kid, key, rand.Reader)))
}

func (p *phones) fed(asOf time.Time, revoked ...string) {
	p.t.Helper()
	if _, err := p.As("operator-1").FeedPhones(p.t.Context(), contract.PhoneStatusRequest{Status: contract.File(p.status(asOf, p.feed, "feed-1", revoked...))}); err != nil {
		p.t.Fatalf("feeding a status: %v", err)
	}
}

func (p *phones) nonce() string { p.t.Helper(); return p.nonceFor(kr) }

func (p *phones) nonceFor(documentType string) string {
	p.t.Helper()
	n, err := p.As("ward-office-1").Nonce(p.t.Context(), contract.NonceRequest{DocumentType: documentType})
	if err != nil {
		p.t.Fatal(err)
	}
	return n.Nonce
}

// request is a good one by a phone's own word for its first n keys.
func (p *phones) request(a *phone.Android, holder *phone.Phone, n int, subject string, bend func(i int, d *phone.KeyDescription)) contract.IssueRequest {
	p.t.Helper()
	nonce, now := p.nonce(), time.Now()
	return contract.IssueRequest{DocumentType: kr, Subject: subject, Claims: claims(), Proof: holder.Prove(0, audience, nonce, now, ""),
		AndroidAttestation: a.Attestation(holder, n, nonce, walletApp, walletSigner, now, bend)}
}

// refused is the code with which a request is answered; empty: it is granted.
func (p *phones) refused(r contract.IssueRequest) string {
	p.t.Helper()
	return p.refusedAt("/v1/credentials", r)
}

func (p *phones) refusedAt(route string, r contract.IssueRequest) string {
	p.t.Helper()
	status, answer, err := p.Post("ward-office-1", route, client.NewKey(), r)
	if err != nil {
		p.t.Fatal(err)
	}
	if status == 200 {
		return ""
	}
	return code(answer)
}

// An Android phone gets its card by the word of its secure hardware alone: chains with real structure and signatures below a test root,
// through the whole appliance. Whatever is wrong with them is refused with its own code, and nothing is left of the request.
func TestAndroidPhones(t *testing.T) {
	t.Parallel()
	p := installPhones(t, nil)
	one := func(bend func(i int, d *phone.KeyDescription)) contract.IssueRequest {
		return p.request(p.factory, newPhone(t, 1), 1, "900101-1000001", bend)
	}
	if got := p.refused(one(nil)); got != "evidence.android_status_missing" {
		t.Errorf("before anything was fed: %q", got)
	}
	if c := fmt.Sprint(p.Operations().Conditions); !strings.Contains(c, "phone-status") {
		t.Errorf("no condition says that nothing was fed: %s", c)
	}
	now := time.Now()
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, f := range map[string]struct{ status, code string }{
		"by a stranger":          {p.status(now, stranger, "feed-2"), "phones.unsigned"},
		"by a stranger as known": {p.status(now, stranger, "feed-1"), "phones.signature"},
		"of tomorrow":            {p.status(now.Add(24*time.Hour), p.feed, "feed-1"), "phones.from_future"},
		"of yesterday":           {p.status(now.Add(-24*time.Hour), p.feed, "feed-1"), "phones.stale"},
		"changed":                {strings.Replace(p.status(now, p.feed, "feed-1", "abcd"), "abcd", "abce", 1), "phones.signature"},
		"cut off":                {p.status(now, p.feed, "feed-1")[:50], "phones.malformed"},
	} {
		if _, err := p.As("operator-1").FeedPhones(t.Context(), contract.PhoneStatusRequest{Status: contract.File(f.status)}); client.Code(err) != f.code {
			t.Errorf("a status %s: %v, want %s", name, err, f.code)
		}
	}
	if _, err := p.As("ward-office-1").FeedPhones(t.Context(), contract.PhoneStatusRequest{Status: contract.File(p.status(now, p.feed, "feed-1"))}); client.Code(err) != "route.forbidden" {
		t.Errorf("an issuance service feeds: %v", err)
	}
	p.fed(now.Add(-time.Minute))

	// A factory's key in a trusted environment, and two keys in a StrongBox whose attestation key came over the air.
	if got := p.refused(one(nil)); got != "" {
		t.Errorf("a good phone: %s", got)
	}
	holder := newPhone(t, 2)
	out, err := p.As("ward-office-1").Issue(t.Context(), "", p.request(p.sent, holder, 2, "900101-1000002", nil))
	if err != nil || len(out.Credentials) != 4 {
		t.Fatalf("two keys in a StrongBox: %d credentials, %v", len(out.Credentials), err)
	}
	for _, c := range out.Credentials {
		if c.KeyThumbprint != holder.Thumbprint(0) && c.KeyThumbprint != holder.Thumbprint(1) || p.Status(c.Status) != 0 {
			t.Errorf("a credential for key %s with status %d", c.KeyThumbprint, p.Status(c.Status))
		}
	}

	bend := func(f func(d *phone.KeyDescription)) contract.IssueRequest {
		return one(func(_ int, d *phone.KeyDescription) { f(d) })
	}
	hardware := func(tag int, der []byte) contract.IssueRequest {
		return bend(func(d *phone.KeyDescription) { d.Hardware.Set(tag, der) })
	}
	changed := func(f func(r *contract.IssueRequest, holder *phone.Phone)) contract.IssueRequest {
		holder := newPhone(t, 2)
		r := p.request(p.factory, holder, 1, "900101-1000001", nil)
		f(&r, holder)
		return r
	}
	other := androidOf(t, phone.AndroidBend{})
	for name, c := range map[string]struct {
		code string
		r    contract.IssueRequest
	}{
		"for another nonce":         {"android_challenge", bend(func(d *phone.KeyDescription) { d.Challenge = []byte(p.nonce()) })},
		"in software":               {"android_level", bend(func(d *phone.KeyDescription) { d.Level, d.KeyMintLevel = 0, 0 })},
		"attested by software":      {"android_level", bend(func(d *phone.KeyDescription) { d.Level = 0 })},
		"a StrongBox that is none":  {"android_level_certificate", bend(func(d *phone.KeyDescription) { d.Level, d.KeyMintLevel = 2, 2 })},
		"imported":                  {"android_origin", hardware(702, phone.DERInt(2))},
		"origin by software's word": {"android_origin", bend(func(d *phone.KeyDescription) { d.Hardware.Set(702, nil); d.Software.Set(702, phone.DERInt(0)) })},
		"for decrypting too":        {"android_purpose", hardware(1, phone.DERSet(phone.DERInt(1), phone.DERInt(2)))},
		"unlocked":                  {"android_unlocked", hardware(704, phone.RootOfTrust(make([]byte, 32), false, 0))},
		"another system":            {"android_boot_state", hardware(704, phone.RootOfTrust(make([]byte, 32), true, 2))},
		"boot by software's word": {"android_root_of_trust", bend(func(d *phone.KeyDescription) {
			d.Hardware.Set(704, nil)
			d.Software.Set(704, phone.RootOfTrust(make([]byte, 32), true, 0))
		})},
		"patched long ago": {"android_patch_age", hardware(706, phone.DERInt(202001))},
		"another app": {"android_app", bend(func(d *phone.KeyDescription) {
			d.Software.Set(709, phone.DEROctets(phone.ApplicationID(map[string]int{"org.evil": 7}, walletSigner[:])))
		})},
		"signed by somebody else": {"android_app", bend(func(d *phone.KeyDescription) {
			d.Software.Set(709, phone.DEROctets(phone.ApplicationID(map[string]int{walletApp: 7}, make([]byte, 32))))
		})},
		"without recognising anyone": {"android_auth", bend(func(d *phone.KeyDescription) { d.Hardware.Set(504, nil); d.Hardware.Set(503, phone.DERNull()) })},
		"by a password too":          {"android_auth", hardware(504, phone.DERInt(3))},
		"below another root":         {"android_root_unknown", p.request(other, newPhone(t, 1), 1, "900101-1000001", nil)},
		"extended below its key": {"android_chain_extended", changed(func(r *contract.IssueRequest, holder *phone.Phone) {
			d := phone.NewKeyDescription([]byte("x"), walletApp, walletSigner, now)
			r.AndroidAttestation = [][]string{phone.Texts(holder.ExtendAndroidChain(0, holder.AndroidChain(0, p.factory, d), holder.PublicKey(1), d.Encode()))}
		})},
		"without its root": {"android_root_unknown", changed(func(r *contract.IssueRequest, _ *phone.Phone) { r.AndroidAttestation[0] = r.AndroidAttestation[0][:3] })},
		"of another key": {"proof_key_unattested", changed(func(r *contract.IssueRequest, _ *phone.Phone) {
			r.AndroidAttestation = p.factory.Attestation(newPhone(t, 1), 1, nonceOf(t, r.Proof), walletApp, walletSigner, now, nil)
		})},
		"one key twice": {"attestation_keys_repeated", changed(func(r *contract.IssueRequest, _ *phone.Phone) {
			r.AndroidAttestation = append(r.AndroidAttestation, r.AndroidAttestation[0])
		})},
		"another phone's key beside it": {"attestation_ambiguous", changed(func(r *contract.IssueRequest, h *phone.Phone) {
			r.AndroidAttestation = append(r.AndroidAttestation, p.sent.Attestation(h, 2, nonceOf(t, r.Proof), walletApp, walletSigner, now, nil)[1])
		})},
		"two keys by a factory's": {"attestation_ambiguous", p.request(p.factory, newPhone(t, 2), 2, "900101-1000001", nil)},
		"and a wallet provider's": {"attestation_ambiguous", changed(func(r *contract.IssueRequest, h *phone.Phone) {
			r.KeyAttestation = h.Attest(harness.Provider, nonceOf(t, r.Proof), now)
		})},
		"padded base64": {"android_chain_malformed", changed(func(r *contract.IssueRequest, _ *phone.Phone) { r.AndroidAttestation[0][0] += "=" })},
		"proven by another's word": {"proof_signature", changed(func(r *contract.IssueRequest, h *phone.Phone) {
			r.Proof = h.Prove(0, audience, nonceOf(t, r.Proof), now, "", phone.SignedByKey(h, 1))
		})},
	} {
		if got := p.refused(c.r); got != "evidence."+c.code {
			t.Errorf("%s: %q, want evidence.%s", name, got, c.code)
		}
	}
	eu := one(nil)
	eu.DocumentType = "mdl" // its nonce is another type's
	if got := p.refused(eu); got != "evidence.nonce_foreign" {
		t.Errorf("a nonce of another type: %q", got)
	}

	// What Google revokes is refused from the next request on, and nothing older brings it back.
	serial := p.factory.Certificates()[0].SerialNumber.Text(16)
	again := one(nil)
	p.fed(now, serial)
	if got := p.refused(again); got != "evidence.android_revoked" {
		t.Errorf("a revoked attestation key: %q", got)
	}
	if _, err := p.As("operator-1").FeedPhones(t.Context(), contract.PhoneStatusRequest{Status: contract.File(p.status(now.Add(-time.Minute), p.feed, "feed-1"))}); client.Code(err) != "phones.old" {
		t.Errorf("an older status: %v", err)
	}
	if got := p.refused(p.request(p.sent, newPhone(t, 1), 1, "900101-1000003", nil)); got != "" {
		t.Errorf("a phone that is not revoked: %s", got)
	}
	// A restart keeps it. A bundle that switches the feed's key off takes it away, and with it every Android phone.
	p.Stop()
	p.Start()
	if got := p.refused(one(nil)); got != "evidence.android_revoked" {
		t.Errorf("after a restart: %q", got)
	}
	p.put(func(b map[string]any) {
		b["phones"].(map[string]any)["status"].(map[string]any)["keys"].([]any)[0].(map[string]any)["off"] = true
	})
	if got := p.refused(p.request(p.sent, newPhone(t, 1), 1, "900101-1000004", nil)); got != "evidence.android_status_missing" {
		t.Errorf("after its key was switched off: %q", got)
	}
	p.Stop()
	p.Check()
	p.NoPersons("900101-1000002")
}

func nonceOf(t *testing.T, proof string) string {
	t.Helper()
	var c struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(must(base64.RawURLEncoding.DecodeString(strings.Split(proof, ".")[1])), &c); err != nil {
		t.Fatal(err)
	}
	return c.Nonce
}

// A status that has become too old refuses every Android phone, until another one is fed; a metric says when.
func TestPhonesAreRefusedWithoutAFreshStatus(t *testing.T) {
	t.Parallel()
	p := installPhones(t, func(b map[string]any) { b["phones"].(map[string]any)["status"].(map[string]any)["max_age"] = "1m" })
	p.fed(time.Now().Add(-40 * time.Second))
	if m := p.Metrics(); !strings.Contains(m, "sealkeeper_phone_status_ends_timestamp_seconds") || strings.Contains(m, "sealkeeper_phone_status_ends_timestamp_seconds 0\n") {
		t.Error("the metric does not say until when the status may be used")
	}
	deadline := time.Now().Add(time.Minute)
	for subject := 0; ; subject++ {
		got := p.refused(p.request(p.factory, newPhone(t, 1), 1, fmt.Sprintf("900101-2%06d", subject), nil))
		if got == "evidence.android_status_stale" {
			break
		}
		if got != "" || time.Now().After(deadline) {
			t.Fatalf("while the status grew old: %q", got)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if m := p.Metrics(); !strings.Contains(m, "sealkeeper_phone_status_ends_timestamp_seconds 0\n") || !strings.Contains(fmt.Sprint(p.Operations().Conditions), "phone-status") {
		t.Error("nobody is told that the status is too old")
	}
	p.fed(time.Now()) // not yet old when the request below is interrupted, after a restart
	if got := p.refused(p.request(p.factory, newPhone(t, 1), 1, "900101-3000001", nil)); got != "" {
		t.Errorf("with a fresh status: %s", got)
	}

	// A request that a crash interrupted after its reservation is decided as of then, but by what is known of phones when it is repeated: not by a
	// status that was fresh then, and not against what was revoked since.
	interrupted := func(subject string) (again func() string) {
		p.Stop()
		p.Start("SEAL_CRASH=ca.issue.reserved")
		r, key := p.request(p.factory, newPhone(t, 1), 1, subject, nil), client.NewKey()
		if status, answer, err := p.Post("ward-office-1", "/v1/credentials", key, r); err == nil {
			t.Fatalf("the daemon did not crash: %d %s", status, answer)
		}
		p.Wait()
		p.Start()
		return func() string {
			status, answer, err := p.Post("ward-office-1", "/v1/credentials", key, r)
			if err != nil || status == 200 {
				return fmt.Sprint(status, err)
			}
			return code(answer)
		}
	}
	again := interrupted("900101-3000002") // its status is fresh now
	for deadline := time.Now().Add(2 * time.Minute); p.refused(p.request(p.factory, newPhone(t, 1), 1, "900101-3000004", nil)) != "evidence.android_status_stale"; {
		if time.Now().After(deadline) {
			t.Fatal("the status does not grow old")
		}
		time.Sleep(time.Second)
	}
	if got := again(); got != "evidence.android_status_stale" {
		t.Errorf("repeated when its status had become too old: %s", got)
	}
	p.fed(time.Now())
	if got := again(); got != "200 <nil>" {
		t.Errorf("repeated with a newer status: %s", got)
	}
	again = interrupted("900101-3000003")
	p.fed(time.Now(), p.factory.Certificates()[0].SerialNumber.Text(16))
	if got := again(); got != "evidence.android_revoked" {
		t.Errorf("repeated after its attestation key was revoked: %s", got)
	}
	p.Stop()
	p.Check()
}

// What was compromised is switched off by a bundle: a root, an attestation key, a boot key, a model, a patch level. Requests under way end by the
// bundle that they came in under; from the answer of POST /v1/policies on none that comes in is granted.
func TestPhonesAreSwitchedOff(t *testing.T) {
	t.Parallel()
	p := installPhones(t, nil)
	p.fed(time.Now())
	root := p.factory.Root()
	key := sha256.Sum256(p.factory.Certificates()[0].RawSubjectPublicKeyInfo)
	month := time.Now().Year()*100 + int(time.Now().Month())
	for name, s := range map[string]struct {
		code    string
		blocked map[string]any
	}{
		"a root":             {"android_blocked_chain", map[string]any{"keys": []any{hex.EncodeToString(root[:])}}},
		"an attestation key": {"android_blocked_chain", map[string]any{"keys": []any{hex.EncodeToString(key[:])}}},
		"a serial number":    {"android_blocked_chain", map[string]any{"serials": []any{p.factory.Certificates()[1].SerialNumber.Text(16)}}},
		"a boot key":         {"android_blocked_device", map[string]any{"boot_keys": []any{strings.Repeat("00", 32)}}},
		"a model":            {"android_blocked_device", map[string]any{"devices": []any{map[string]any{"manufacturer": "Google", "model": "Pixel 8a"}}}},
		"a patch level":      {"android_blocked_patch", map[string]any{"patches": []any{month}}},
	} {
		off := func(b map[string]any) { androidRules(b)["blocked"] = s.blocked }
		before := p.put(nil)
		var after contract.Policy
		var switched atomic.Bool // after POST /v1/policies was answered
		var granted, late atomic.Int64
		var load sync.WaitGroup
		for w := range 2 {
			load.Go(func() {
				for i := 0; i < 200; i++ {
					r := p.request(p.factory, newPhone(t, 1), 1, fmt.Sprintf("%x%d-%d", sha256.Sum256([]byte(name)), w, i)[40:], nil)
					came := switched.Load()
					status, answer, err := p.Post("ward-office-1", "/v1/credentials", client.NewKey(), r)
					var out contract.IssueAnswer
					switch {
					case err != nil:
						t.Error(err)
						return
					case status == 200:
						if err := json.Unmarshal(answer, &out); err != nil || out.Decision.Policy != before.Hash || came {
							t.Errorf("%s: granted by version %d (after the switch: %v) %v", name, out.Decision.PolicyVersion, came, err)
						}
						granted.Add(1)
					case code(answer) != "evidence."+s.code:
						t.Errorf("%s: %s", name, answer)
						return
					case came:
						if late.Add(1) > 1 {
							return
						}
					}
				}
			})
		}
		for granted.Load() < 3 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		start := time.Now()
		after = p.put(off)
		switched.Store(true)
		took := time.Since(start)
		load.Wait()
		if got := p.refused(p.request(p.factory, newPhone(t, 1), 1, "900101-4000001", nil)); got != "evidence."+s.code || after.Version != uint64(p.version) {
			t.Errorf("%s, after it was switched off: %q", name, got)
		}
		t.Logf("%s: off %s after its bundle was sent, %d granted before", name, took, granted.Load())
	}
	// The model is switched off only below a patch level; and who leaves the model out gets around nothing.
	p.put(func(b map[string]any) {
		androidRules(b)["blocked"] = map[string]any{"devices": []any{map[string]any{"model": "Pixel 8a", "before": month}}}
	})
	if got := p.refused(p.request(p.factory, newPhone(t, 1), 1, "900101-4000002", nil)); got != "" {
		t.Errorf("a patched phone of the model: %s", got)
	}
	if got := p.refused(p.request(p.factory, newPhone(t, 1), 1, "900101-4000003", func(_ int, d *phone.KeyDescription) { d.Hardware.Set(717, nil) })); got != "evidence.android_model_unknown" {
		t.Errorf("a phone without its model: %q", got)
	}
	p.Stop()
	p.Check()
}

// One appliance serves types that read a phone's part of a request by OpenID4VCI, by TS3, with a proof by each key, with App Attest, and with
// statuses of wallets: what one takes another one refuses.
func TestPhonesByTheirTypes(t *testing.T) {
	t.Parallel()
	apple := must(phone.NewApple(time.Now()))
	p := installPhones(t, func(b map[string]any) {
		b["phones"].(map[string]any)["apple"] = map[string]any{"apps": []any{map[string]any{"team": "MURL8TA57X", "bundle": walletApp}},
			"root": base64.StdEncoding.EncodeToString(apple.Root().Raw)}
		resident := must(json.Marshal(typeOf(b, kr)))
		typed := func(name string, change func(t, evidence map[string]any)) {
			var spec map[string]any
			if err := json.Unmarshal(resident, &spec); err != nil {
				t.Fatal(err)
			}
			spec["refresh_from"] = "0s"
			change(spec, spec["evidence"].(map[string]any))
			b["types"].(map[string]any)[name] = spec
			b["clients"].([]any)[0].(map[string]any)["may"].(map[string]any)[name] = []any{"issue", "refresh", "state"}
			b["rules"] = append(b["rules"].([]any), map[string]any{"id": "permit-" + name, "cedar": `permit (principal, action, resource == DocumentType::"` + name + `");`})
		}
		typed("kr-strict", func(t, _ map[string]any) {})
		typed("kr-reuse", func(t, _ map[string]any) { t["refresh"] = map[string]any{"same_key": true, "reuse_attestation": true} })
		typed("kr-ts3", func(t, _ map[string]any) {
			t["profile"] = map[string]any{"attestation_nonce": "proof", "proof_key": "first"}
			t["refresh"] = map[string]any{"same_key": false, "new_keys": true}
		})
		typed("kr-each", func(t, _ map[string]any) { t["profile"] = map[string]any{"proofs": "each"} })
		typed("kr-app", func(_, e map[string]any) { e["apps"] = []any{"app_attest", "android_key_attestation"} })
		typed("kr-status", func(_, e map[string]any) { e["status"] = []any{"wallet", "key_storage"} })
	})
	const uri = "https://wallet.example/status/1"
	now := time.Now()
	list := map[string]any{"uri": uri, "bits": 1, "lst": "eNrbuRgAAhcBXQ"} // b9 a3: bit 0 is 1, bit 1 is 0 (Token Status List, 4.1)
	if _, err := p.As("operator-1").FeedPhones(t.Context(), contract.PhoneStatusRequest{Status: contract.File(p.statusWith([]any{list}, now, p.feed, "feed-1"))}); err != nil {
		t.Fatal(err)
	}

	n := 0
	// ask makes a request of a phone with two keys, proven by the first.
	ask := func(documentType string, holder *phone.Phone, o ...phone.Option) contract.IssueRequest {
		n++
		nonce := p.nonceFor(documentType)
		return contract.IssueRequest{DocumentType: documentType, Subject: fmt.Sprintf("900101-5%06d", n), Claims: claims(),
			Proof: holder.Prove(0, audience, nonce, now, ""), KeyAttestation: holder.Attest(harness.Provider, nonce, now, o...)}
	}
	two := func() *phone.Phone { return newPhone(t, 2) }
	bySecond := func(documentType string) contract.IssueRequest {
		holder := two()
		r := ask(documentType, holder)
		r.Proof = holder.Prove(1, audience, nonceOf(t, r.Proof), now, "")
		return r
	}
	byEach := func(documentType string) contract.IssueRequest {
		holder := two()
		r := ask(documentType, holder)
		r.Proofs = []string{holder.Prove(1, audience, nonceOf(t, r.Proof), now, "")}
		return r
	}
	attested := func(documentType string, bend phone.AppleBend, nonce string) contract.IssueRequest {
		holder := two()
		r := ask(documentType, holder)
		if nonce == "" {
			nonce = nonceOf(t, r.Proof)
		}
		app := phone.NewAppKey("MURL8TA57X." + walletApp)
		id := app.ID()
		object := apple.Attest(app, sha256.Sum256([]byte(nonce+"."+holder.Thumbprint(0))), bend)
		b64 := base64.RawURLEncoding.EncodeToString
		r.Evidence = []contract.EvidenceItem{{Kind: "app_attest", Token: b64(id[:]) + "." + b64(object)}}
		return r
	}
	chained := func(documentType string) contract.IssueRequest {
		holder := newPhone(t, 1)
		r := ask(documentType, holder)
		r.KeyAttestation, r.AndroidAttestation = "", p.factory.Attestation(holder, 1, nonceOf(t, r.Proof), walletApp, walletSigner, now, nil)
		return r
	}
	year := now.Add(365 * 24 * time.Hour).Unix()
	status := func(wallet, storage int, until int64) contract.IssueRequest {
		at := func(i int, exp int64) map[string]any {
			return map[string]any{"status": map[string]any{"status_list": map[string]any{"idx": i, "uri": uri}}, "exp": exp}
		}
		return ask("kr-status", two(), phone.Claim("client_status", at(wallet, until)), phone.Claim("key_storage_status", at(storage, year)))
	}
	walled := func(i int) contract.IssueRequest { // with a wallet attestation, as TS3 has it
		r := ask("kr-status", two(), phone.Claim("key_storage_status", map[string]any{"status": map[string]any{"status_list": map[string]any{"idx": 1, "uri": uri}}, "exp": year}))
		r.Evidence = []contract.EvidenceItem{{Kind: "wallet_attestation", Token: newPhone(t, 1).AttestWallet(harness.Provider, 0, audience, nonceOf(t, r.Proof), now,
			[]phone.Option{phone.Claim("client_status", map[string]any{"status": map[string]any{"status_list": map[string]any{"idx": i, "uri": uri}}, "exp": year})}, nil)}}
		return r
	}
	for name, c := range map[string]struct {
		r    contract.IssueRequest
		want string
	}{
		"OpenID4VCI: nonce in both":             {ask("kr-strict", two()), ""},
		"OpenID4VCI: nonce in the proof":        {ask("kr-strict", two(), phone.Claim("nonce", nil)), "evidence.attestation_nonce"},
		"TS3: nonce in the proof":               {ask("kr-ts3", two(), phone.Claim("nonce", nil)), ""},
		"TS3: nonce in both":                    {ask("kr-ts3", two()), ""},
		"OpenID4VCI: typ of TS3":                {ask("kr-strict", two(), phone.Header("typ", "keyattestation+jwt")), "evidence.attestation_type"},
		"OpenID4VCI: by the second key":         {bySecond("kr-strict"), ""},
		"TS3: by the second key":                {bySecond("kr-ts3"), "evidence.proof_key_order"},
		"one for all: a proof by each":          {byEach("kr-strict"), "evidence.proof_unasked"},
		"by each: a proof by each":              {byEach("kr-each"), ""},
		"by each: one for all":                  {ask("kr-each", two()), "evidence.proof_of_each"},
		"an app by App Attest":                  {attested("kr-app", phone.AppleBend{}, ""), ""},
		"an app by its Android chain":           {chained("kr-app"), ""},
		"no app":                                {ask("kr-app", two()), "evidence.app_missing"},
		"App Attest of a development build":     {attested("kr-app", phone.AppleBend{Development: true}, ""), "evidence.apple_environment"},
		"App Attest of another request":         {attested("kr-app", phone.AppleBend{}, "another"), "evidence.apple_nonce"},
		"App Attest where nobody asks":          {attested("kr-strict", phone.AppleBend{}, ""), "evidence.unasked"},
		"a wallet of good standing":             {status(1, 1, year), ""},
		"a wallet that is revoked":              {status(0, 1, year), "evidence.status_revoked"},
		"key storage that is revoked":           {status(1, 0, year), "evidence.status_revoked"},
		"a wallet known for less than the card": {status(1, 1, now.Add(89*24*time.Hour).Unix()), "evidence.status_ends"},
		"a wallet known no longer":              {status(1, 1, now.Add(-time.Second).Unix()), "evidence.status_expired"},
		"a wallet attestation":                  {walled(1), ""},
		"a wallet attestation of a revoked one": {walled(0), "evidence.status_revoked"},
		"no status":                             {ask("kr-status", two()), "evidence.status_missing"},
	} {
		if got := p.refused(c.r); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}

	// Refreshes: with the attestation of before, by the phone that has the card alone; with the keys of before, or only with new ones.
	type person struct {
		holder *phone.Phone
		first  contract.IssueRequest
	}
	carded := func(r contract.IssueRequest, holder *phone.Phone) person {
		t.Helper()
		if got := p.refused(r); got != "" {
			t.Fatalf("the first card of type %s: %s", r.DocumentType, got)
		}
		return person{holder, r}
	}
	again := func(of person, holder *phone.Phone, o ...phone.Option) contract.IssueRequest {
		r := ask(of.first.DocumentType, holder, o...)
		r.Subject = of.first.Subject
		return r
	}
	android := func(documentType string) person {
		holder := newPhone(t, 1)
		r := ask(documentType, holder)
		r.KeyAttestation, r.AndroidAttestation = "", p.factory.Attestation(holder, 1, nonceOf(t, r.Proof), walletApp, walletSigner, now, nil)
		return carded(r, holder)
	}
	old := func(of person) contract.IssueRequest { // a new proof with the attestation of before
		r := again(of, of.holder)
		r.KeyAttestation, r.AndroidAttestation = of.first.KeyAttestation, of.first.AndroidAttestation
		return r
	}
	reuse, strict := android("kr-reuse"), android("kr-strict")
	provided := func(documentType string) person { holder := two(); return carded(ask(documentType, holder), holder) }
	reuseKA, ts3 := provided("kr-reuse"), provided("kr-ts3")
	stolen := old(reuse)
	stolen.Subject = reuseKA.first.Subject
	fresh := two()
	renewed, misled := again(ts3, fresh), again(ts3, fresh)
	renewed.PreviousProof = ts3.holder.Prove(0, harness.Audience, nonceOf(t, renewed.Proof), now, "")
	misled.PreviousProof = reuse.holder.Prove(0, harness.Audience, nonceOf(t, misled.Proof), now, "") // of a phone that has another's card
	for _, c := range []struct {
		name string
		r    contract.IssueRequest
		want string
	}{
		{"a chain of before", old(reuse), ""},
		{"a chain of before, once more", old(reuse), ""},
		{"a chain of before, for another's card", stolen, "refresh.other_device"},
		{"a key attestation of before", old(reuseKA), ""},
		{"a chain of before, where the type wants a new one", old(strict), "evidence.android_challenge"},
		{"old keys, newly attested", again(reuseKA, reuseKA.holder), ""},
		{"old keys where new ones are wanted", again(ts3, ts3.holder), "refresh.used_key"},
		{"new keys of whichever phone", again(ts3, fresh), "refresh.other_device"},
		{"new keys and another phone's proof", misled, "refresh.other_device"},
		{"new keys where new ones are wanted", renewed, ""},
	} {
		if got := p.refusedAt("/v1/credentials/refresh", c.r); got != c.want {
			t.Errorf("refresh with %s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := p.refused(old(android("kr-reuse"))); got != "evidence.android_challenge" {
		t.Errorf("an issue with a chain of before: %q", got)
	}
	// What was switched off since refreshes no more, whenever it was attested.
	p.put(func(b map[string]any) {
		androidRules(b)["blocked"] = map[string]any{"devices": []any{map[string]any{"model": "Pixel 8a"}}}
	})
	if got := p.refusedAt("/v1/credentials/refresh", old(reuse)); got != "evidence.android_blocked_device" {
		t.Errorf("a refresh after the model was switched off: %q", got)
	}
	p.Stop()
	p.Check()
}

// With a session the chain's challenge is the session's nonce, and its key the session's: the officer's way to a card, with an Android phone.
func TestAndroidPhonesBySession(t *testing.T) {
	t.Parallel()
	p := &phones{t: t, factory: androidOf(t, phone.AndroidBend{Remote: true}), feed: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	a, by := installProgramme(t, func(b map[string]any) {
		p.android(b)
	})
	// Fed by hand, with Google's list and a list of wallets, for which one of our own lists stands.
	der := must(x509.MarshalECPrivateKey(p.feed))
	a.Write("feed.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	a.Write("status.json", `{"entries": {"c35747a084470c3135aeefe2b8d40cd6": {"status": "REVOKED", "reason": "KEY_COMPROMISE"}}}`)
	a.Write("broken.json", `{"entries": {"c35747a084470c3135aeefe2b8d40cd6": {"status": "FINE"}}}`)
	a.Write("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Roots[0].Raw})))
	card, err := a.ask(a.Case(by, "ward-office-1", "office_qr", newPhone(t, 1), "android-0"))
	if err != nil {
		t.Fatal(err)
	}
	a.Write("list.jwt", string(a.Get(strings.TrimPrefix(card.Credentials[0].Status.URI, publicURL))))
	file := func(name string) string { return filepath.Join(a.Dir, name) }
	sign := func(list, root, at string) []string {
		return []string{"phones", "sign", "--android", file(list), "--list", file("list.jwt"), "--list-root", file(root), "--as-of", at, "--key", file("feed.pem"), "--kid", "feed-1", "--out", file("signed.json")}
	}
	feed := []string{"phones", "feed", file("signed.json"), "--json", "--url", fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), "--identity", filepath.Join(a.Dir, "clients", "operator-1")}
	now := time.Now().UTC().Format(time.RFC3339)
	for _, step := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"phones"}, 2, "phones sign"},
		{sign("status.json", "root.pem", "today"), 2, "no instant"},
		{sign("broken.json", "root.pem", now), 5, "REVOKED and SUSPENDED"},
		{sign("status.json", "clients/operator-1/ca.pem", now), 5, "list.jwt"},
		{sign("status.json", "root.pem", now), 0, "✓ feed-1 signed"},
		{feed, 0, `"lists": 1`},
		{feed, 0, `"revoked": 1`}, // once more
	} {
		if r := execute(t, harness.Sealctl, "", step.args...); r.code != step.code || !strings.Contains(r.out+r.err, step.want) {
			t.Errorf("%v: %d %s %s, want %d %q", step.args, r.code, r.out, r.err, step.code, step.want)
		}
	}
	signed := func(method, subject string, challenge func(*harness.Case) string) error {
		holder := newPhone(t, 1)
		c := a.Case(by, "ward-office-1", method, holder, subject)
		c.Request.KeyAttestation = ""
		c.Request.AndroidAttestation = p.factory.Attestation(holder, 1, challenge(c), walletApp, walletSigner, time.Now(), nil)
		_, err := a.ask(c)
		return err
	}
	own := func(c *harness.Case) string { return c.Session.Nonce }
	if err := signed("office_qr", "android-1", own); err != nil {
		t.Errorf("by an officer: %v", err)
	}
	if err := signed("ic_chip", "android-2", own); err != nil {
		t.Errorf("by the card's chip: %v", err)
	}
	another := a.Case(by, "ward-office-1", "office_qr", newPhone(t, 1), "android-3")
	if err := signed("office_qr", "android-3", func(*harness.Case) string { return another.Session.Nonce }); client.Code(err) != "evidence.android_challenge" {
		t.Errorf("with the nonce of another session: %v", err)
	}
	a.Stop()
	a.Check()
}
