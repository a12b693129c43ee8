package android

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/tests/phone"
)

var (
	now       = time.Date(2026, 5, 20, 12, 0, 0, 0, time.UTC)
	challenge = []byte("nonce of this session")
	signer    = sha256.Sum256([]byte("signing certificate of the wallet"))
	wallet    = App{Package: "org.example.wallet", Signers: [][32]byte{signer}, Version: 7}
)

// world is a phone with attestation keys of both kinds under one root.
type world struct {
	phone           *phone.Phone
	factory, remote *phone.Android
	trust           Trust
	rules           Rules
	want            Expected
}

func newWorld(t testing.TB) *world {
	t.Helper()
	p, err := phone.New(2)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{phone: p, rules: Rules{Apps: []App{wallet}}, want: Expected{Challenge: challenge, At: now}}
	w.factory = android(t, phone.AndroidBend{})
	w.remote = android(t, phone.AndroidBend{Remote: true, Root: w.factory})
	w.trust = Trust{Roots: [][32]byte{{1}, w.factory.Root()}, Status: emptyStatus(t, now.Add(-time.Hour)), StatusMaxAge: 24 * time.Hour, Skew: time.Minute}
	return w
}

func android(t testing.TB, bend phone.AndroidBend) *phone.Android {
	t.Helper()
	a, err := phone.NewAndroid(now, bend)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) description() *phone.KeyDescription {
	return phone.NewKeyDescription(challenge, wallet.Package, signer, now)
}

// chain is a good one with what bend changes in the description, signed by the attestation key as if it were right.
func (w *world) chain(a *phone.Android, bend func(d *phone.KeyDescription)) [][]byte {
	d := w.description()
	if bend != nil {
		bend(d)
	}
	return w.phone.AndroidChain(0, a, d)
}

func (w *world) expect(t *testing.T, what, want string, chain [][]byte, rules Rules) *Attested {
	t.Helper()
	a, err := Verify(chain, w.want, w.trust, rules)
	if want == "" && err != nil || want != "" && code(err) != want || a.Valid() != (err == nil) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
	return a
}

func TestGoodChains(t *testing.T) {
	w := newWorld(t)
	for _, a := range []*phone.Android{w.factory, w.remote} {
		got := w.expect(t, "good", "", w.chain(a, nil), w.rules)
		if !got.Valid() {
			return
		}
		f := got.Facts()
		if !w.phone.PublicKey(0).(*ecdsa.PublicKey).Equal(got.Key()) || f.Level != TrustedEnvironment || f.Remote != (a == w.remote) || f.App != (Package{wallet.Package, 7}) ||
			f.Device.Model != "Pixel 8a" || f.OSPatch != 202605 || f.BootPatch != 20260505 || f.AuthTypes != AuthBiometric || f.Root != a.Root() || f.Serials[0] != "1" ||
			!f.StatusAsOf.Equal(w.trust.Status.AsOf()) || f.ChainEnds.IsZero() != (a == w.factory) {
			t.Errorf("%+v", f)
		}
	}
	for name, make := range map[string]func(int) (*phone.Phone, error){"P-384": phone.NewP384, "Ed25519": phone.NewEd25519} {
		p, err := make(1)
		if err != nil {
			t.Fatal(err)
		}
		d := w.description()
		size, curve := 384, 2
		if name == "Ed25519" {
			size, curve = 256, 4
		}
		d.Hardware.Set(KeySize, phone.DERInt(size))
		d.Hardware.Set(ECCurve, phone.DERInt(curve))
		w.expect(t, name, "", p.AndroidChain(0, w.remote, d), w.rules)
	}
	for _, remote := range []bool{false, true} {
		box := android(t, phone.AndroidBend{Remote: remote, StrongBox: true, Root: w.factory})
		strict := w.rules
		strict.Level = StrongBox
		w.expect(t, "StrongBox", "", w.chain(box, func(d *phone.KeyDescription) { d.Level, d.KeyMintLevel = 2, 2 }), strict)
	}
}

// One thing wrong in what secure hardware states; the chain above it is good.
func TestDescriptionsAreJudged(t *testing.T) {
	w := newWorld(t)
	set := func(tag int, der []byte) func(*phone.KeyDescription) {
		return func(d *phone.KeyDescription) { d.Hardware.Set(tag, der) }
	}
	soft := func(tag int, der []byte) func(*phone.KeyDescription) {
		return func(d *phone.KeyDescription) { d.Software.Set(tag, der) }
	}
	// moved says a thing in softwareEnforced instead: the same bytes, said by somebody who can lie.
	moved := func(tag int) func(*phone.KeyDescription) {
		return func(d *phone.KeyDescription) {
			i := slices.IndexFunc(d.Hardware, func(a phone.Authorization) bool { return a.Tag == tag })
			d.Software.Set(tag, d.Hardware[i].DER)
			d.Hardware.Set(tag, nil)
		}
	}
	app := func(packages map[string]int, signers ...[]byte) func(*phone.KeyDescription) {
		return soft(applicationID, phone.DEROctets(phone.ApplicationID(packages, signers...)))
	}
	own := map[string]int{wallet.Package: 7}
	rules := func(bend func(r *Rules)) Rules {
		r := w.rules
		bend(&r)
		return r
	}
	auth := func(a Auth) Rules { return rules(func(r *Rules) { r.Auth = a }) }
	bootKey := bytes.Repeat([]byte{7}, 32)

	for _, v := range []struct {
		what  string
		bend  func(d *phone.KeyDescription)
		rules Rules
		want  string
	}{
		{"another challenge", func(d *phone.KeyDescription) { d.Challenge = []byte("another") }, w.rules, "challenge"},
		{"no challenge", func(d *phone.KeyDescription) { d.Challenge = nil }, w.rules, "challenge"},
		{"a challenge with more behind", func(d *phone.KeyDescription) { d.Challenge = append(slices.Clone(challenge), 0) }, w.rules, "challenge"},

		{"software", func(d *phone.KeyDescription) { d.Level, d.KeyMintLevel = 0, 0 }, w.rules, "level"},
		{"a software key, attested in hardware", func(d *phone.KeyDescription) { d.KeyMintLevel = 0 }, w.rules, "level"},
		{"a hardware key, attested in software", func(d *phone.KeyDescription) { d.Level = 0 }, w.rules, "level"},
		{"not StrongBox", nil, rules(func(r *Rules) { r.Level = StrongBox }), "level"},
		{"StrongBox by a key of the trusted environment", func(d *phone.KeyDescription) { d.Level, d.KeyMintLevel = 2, 2 }, w.rules, "level_certificate"},
		{"a level that is none", func(d *phone.KeyDescription) { d.Level, d.KeyMintLevel = 3, 3 }, w.rules, "description_malformed"},
		{"too old a version", nil, rules(func(r *Rules) { r.AttestationVersion = 301 }), "version"},
		{"as old as may be", nil, rules(func(r *Rules) { r.AttestationVersion = 300 }), ""},

		{"imported", set(Origin, phone.DERInt(OriginImported)), w.rules, "origin"},
		{"imported, accepted", set(Origin, phone.DERInt(OriginImported)), rules(func(r *Rules) { r.Origins = []uint64{OriginImported} }), ""},
		{"derived", set(Origin, phone.DERInt(OriginDerived)), w.rules, "origin"},
		{"no origin", set(Origin, nil), w.rules, "origin"},
		{"origin said by software", moved(Origin), w.rules, "origin"},
		{"no purpose", set(Purpose, nil), w.rules, "purpose"},
		{"purpose said by software", moved(Purpose), w.rules, "purpose"},
		{"verifying only", set(Purpose, phone.DERSet(phone.DERInt(3))), rules(func(r *Rules) { r.Purposes = []uint64{3} }), "purpose"},
		{"verifying as well", set(Purpose, phone.DERSet(phone.DERInt(2), phone.DERInt(3))), w.rules, "purpose"},
		{"verifying as well, accepted", set(Purpose, phone.DERSet(phone.DERInt(2), phone.DERInt(3))), rules(func(r *Rules) { r.Purposes = []uint64{3} }), ""},
		{"attesting other keys", set(Purpose, phone.DERSet(phone.DERInt(2), phone.DERInt(7))), w.rules, "purpose"},
		{"every app may use it", soft(AllApplications, phone.DERNull()), w.rules, "all_applications"},
		{"every app may use it, says hardware", set(AllApplications, phone.DERNull()), w.rules, "all_applications"},

		{"no root of trust", set(rootOfTrust, nil), w.rules, "root_of_trust"},
		{"root of trust said by software", moved(rootOfTrust), w.rules, "root_of_trust"},
		{"unlocked", set(rootOfTrust, phone.RootOfTrust(bootKey, false, 0)), w.rules, "unlocked"},
		{"unlocked and says so", set(rootOfTrust, phone.RootOfTrust(bootKey, false, 2)), w.rules, "unlocked"},
		{"another system", set(rootOfTrust, phone.RootOfTrust(bootKey, true, 1)), w.rules, "boot_state"},
		{"another system, accepted", set(rootOfTrust, phone.RootOfTrust(bootKey, true, 1)), rules(func(r *Rules) { r.SelfSignedBoot = [][]byte{{1}, bootKey} }), ""},
		{"any system, with an accepted key", set(rootOfTrust, phone.RootOfTrust(bootKey, true, 2)), rules(func(r *Rules) { r.SelfSignedBoot = [][]byte{bootKey} }), "boot_state"},
		{"boot failed", set(rootOfTrust, phone.RootOfTrust(bootKey, true, 3)), w.rules, "boot_state"},
		{"a state that is none", set(rootOfTrust, phone.RootOfTrust(bootKey, true, 4)), w.rules, "description_malformed"},

		{"no app", soft(applicationID, nil), w.rules, "app"},
		{"app said by hardware only", func(d *phone.KeyDescription) {
			d.Hardware.Set(applicationID, d.Software[1].DER)
			d.Software.Set(applicationID, nil)
		}, w.rules, "app"},
		{"another app", app(map[string]int{"org.example.evil": 7}, signer[:]), w.rules, "app"},
		{"an app beside ours", app(map[string]int{wallet.Package: 7, "org.example.evil": 7}, signer[:]), w.rules, "app"},
		{"signed by another", app(own, make([]byte, 32)), w.rules, "app"},
		{"signed by another as well", app(own, signer[:], make([]byte, 32)), w.rules, "app"},
		{"signed by nobody", app(own), w.rules, "app"},
		{"no package", app(nil, signer[:]), w.rules, "app"},
		{"an older app", app(map[string]int{wallet.Package: 6}, signer[:]), w.rules, "app"},
		{"half a digest", app(own, signer[:16]), w.rules, "app"},

		{"no user is asked for", func(d *phone.KeyDescription) {
			d.Hardware.Set(UserAuthType, nil)
			d.Hardware.Set(NoAuthRequired, phone.DERNull())
		}, auth(Auth{Required: true}), "auth"},
		{"both", set(NoAuthRequired, phone.DERNull()), auth(Auth{Required: true}), "auth"},
		{"a user, says software", moved(UserAuthType), auth(Auth{Required: true}), "auth"},
		{"each use by itself", nil, auth(Auth{Required: true, Types: AuthBiometric}), ""},
		{"a password will do", set(UserAuthType, phone.DERInt(3)), auth(Auth{Required: true, Types: AuthBiometric}), "auth"},
		{"for a minute", set(AuthTimeout, phone.DERInt(60)), auth(Auth{Required: true, Timeout: time.Minute}), ""},
		{"for too long", set(AuthTimeout, phone.DERInt(61)), auth(Auth{Required: true, Timeout: time.Minute}), "auth"},
		{"for ever", set(AuthTimeout, phone.DERInt(1<<62)), auth(Auth{Required: true, Timeout: time.Minute}), "auth"},
		{"while locked", nil, auth(Auth{UnlockedDevice: true}), "auth"},
		{"not while locked", set(UnlockedDeviceRequired, phone.DERNull()), auth(Auth{UnlockedDevice: true}), ""},
		{"nobody present", nil, auth(Auth{UserPresence: true}), "auth"},

		{"the patch level asked for", nil, rules(func(r *Rules) { r.OSPatch, r.VendorPatch, r.BootPatch = 202605, 20260505, 202605 }), ""},
		{"system a month behind", nil, rules(func(r *Rules) { r.OSPatch = 202606 }), "patch_low"},
		{"vendor a day behind", nil, rules(func(r *Rules) { r.VendorPatch = 20260506 }), "patch_low"},
		{"boot a year behind", set(BootPatchLevel, phone.DERInt(20250505)), rules(func(r *Rules) { r.BootPatch = 20260101 }), "patch_low"},
		{"no boot level", set(BootPatchLevel, nil), rules(func(r *Rules) { r.BootPatch = 20200101 }), "patch_unknown"},
		{"a level that is no date", set(BootPatchLevel, phone.DERInt(20261301)), rules(func(r *Rules) { r.BootPatch = 20200101 }), "patch_unknown"},
		{"level zero", set(OSPatchLevel, phone.DERInt(0)), rules(func(r *Rules) { r.OSPatch = 202001 }), "patch_unknown"},
		{"level said by software", moved(OSPatchLevel), rules(func(r *Rules) { r.OSPatch = 202001 }), "patch_unknown"},
		{"young enough", nil, rules(func(r *Rules) { r.PatchAge = now.Sub(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)) }), ""},
		{"a second too old", nil, rules(func(r *Rules) { r.PatchAge = now.Sub(time.Date(2026, 5, 1, 0, 0, 1, 0, time.UTC)) }), "patch_age"},
		{"of unknown age", set(OSPatchLevel, nil), rules(func(r *Rules) { r.PatchAge = 1 << 62 }), "patch_unknown"},

		{"no model", set(IDModel, nil), rules(func(r *Rules) { r.RequireModel = true }), "model_unknown"},
		{"no model, none asked for", set(IDModel, nil), w.rules, ""},
		{"a model said by software", moved(IDModel), rules(func(r *Rules) { r.RequireModel = true }), "model_unknown"},
		{"model switched off", nil, rules(func(r *Rules) { r.Blocked.Devices = []Device{{Manufacturer: "Google", Model: "Pixel 8a"}} }), "blocked_device"},
		{"another model switched off", nil, rules(func(r *Rules) { r.Blocked.Devices = []Device{{Manufacturer: "Google", Model: "Pixel 8"}} }), ""},
		{"a model switched off, ours not said", set(IDModel, nil), rules(func(r *Rules) { r.Blocked.Devices = []Device{{Model: "Pixel 8"}} }), "model_unknown"},
		{"model switched off below a level", nil, rules(func(r *Rules) { r.Blocked.Devices = []Device{{Model: "Pixel 8a", Before: 202606}} }), "blocked_device"},
		{"model good from this level on", nil, rules(func(r *Rules) { r.Blocked.Devices = []Device{{Model: "Pixel 8a", Before: 202605}} }), ""},
		{"patch level switched off", nil, rules(func(r *Rules) { r.Blocked.Patches = []Patch{202605} }), "blocked_patch"},
		{"boot patch level switched off", nil, rules(func(r *Rules) { r.Blocked.Patches = []Patch{20260505} }), "blocked_patch"},
		{"boot key switched off", nil, rules(func(r *Rules) { r.Blocked.BootKeys = [][]byte{make([]byte, 32)} }), "blocked_device"},

		{"another size than the key's", set(KeySize, phone.DERInt(384)), w.rules, "key_mismatch"},
		{"another curve than the key's", set(ECCurve, phone.DERInt(2)), w.rules, "key_mismatch"},
		{"another algorithm than the key's", set(Algorithm, phone.DERInt(1)), w.rules, "key_mismatch"},
		{"algorithm said by software", moved(Algorithm), w.rules, "key_mismatch"},
		{"a tag nobody knows", set(799, phone.DEROctets(nil)), w.rules, ""},
	} {
		w.expect(t, v.what, v.want, w.chain(w.remote, v.bend), v.rules)
	}
}

// What is not DER is refused, whoever signed it: otherwise two readers could see two statements in one extension.
func TestOnlyDERIsRead(t *testing.T) {
	w := newWorld(t)
	good := w.description().Encode()
	if _, err := ParseDescription(good); err != nil {
		t.Fatal(err)
	}
	bent := func(bend func(d *phone.KeyDescription)) []byte {
		d := w.description()
		bend(d)
		return d.Encode()
	}
	field := func(tag int, der []byte) []byte {
		return bent(func(d *phone.KeyDescription) { d.Hardware.Set(tag, der) })
	}
	replace := func(old, new string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("%x is not in the description", old)
		}
		b := bytes.Replace(good, []byte(old), []byte(new), 1)
		b[2], b[3] = byte((len(b)-4)>>8), byte(len(b)-4) // the outermost length fits again, when nothing else does
		return b
	}
	for what, b := range map[string][]byte{
		"nothing":                     nil,
		"too large":                   field(799, phone.DEROctets(make([]byte, maxDescription))),
		"a byte behind":               append(slices.Clone(good), 0),
		"a byte less":                 good[:len(good)-1],
		"a set":                       append([]byte{0x31}, good[1:]...),
		"indefinite length":           append(append([]byte{0x30, 0x80}, good[4:]...), 0, 0),
		"a long length":               append([]byte{0x30, 0x83, 0}, good[2:]...),
		"a version with zeros":        replace("\x02\x02\x01\x2c\x0a", "\x02\x03\x00\x01\x2c\x0a"),
		"tags out of order":           bent(func(d *phone.KeyDescription) { h := d.Hardware; h[0], h[1] = h[1], h[0] }),
		"a tag twice":                 bent(func(d *phone.KeyDescription) { d.Hardware = append(d.Hardware, d.Hardware[len(d.Hardware)-1]) }),
		"a high tag with zeros":       replace("\xbf\x85\x3e\x03", "\xbf\x80\x85\x3e\x03"),
		"a low tag in high form":      replace("\xaa\x03\x02\x01\x01", "\xbf\x0a\x03\x02\x01\x01"),
		"a field of another class":    replace("\xaa\x03\x02\x01\x01", "\x6a\x03\x02\x01\x01"),
		"a field that is primitive":   replace("\xaa\x03\x02\x01\x01", "\x8a\x03\x02\x01\x01"),
		"two values in a field":       field(Origin, append(phone.DERInt(0), phone.DERInt(0)...)),
		"no value in a field":         field(Origin, []byte{}),
		"a negative origin":           field(Origin, []byte{2, 1, 0xff}),
		"an origin without octets":    field(Origin, []byte{2, 0}),
		"an origin with zeros":        field(Origin, []byte{2, 2, 0, 0}),
		"an enumerated origin":        field(Origin, phone.DEREnum(0)),
		"an origin above 64 bits":     field(Origin, append([]byte{2, 10, 1}, make([]byte, 9)...)),
		"a null that holds something": field(NoAuthRequired, []byte{5, 1, 0}),
		"a flag that is a boolean":    field(NoAuthRequired, []byte{1, 1, 0xff}),
		"a purpose twice":             field(Purpose, phone.DERSet(phone.DERInt(2), phone.DERInt(2))),
		"a purpose that is a number":  field(Purpose, phone.DERInt(2)),
		"purposes in a sequence":      field(Purpose, phone.DERSequence(phone.DERInt(2))),
		"true that is 1":              field(rootOfTrust, bytes.Replace(phone.RootOfTrust(nil, true, 0), []byte{1, 1, 0xff}, []byte{1, 1, 1}, 1)),
		"a longer root of trust":      field(rootOfTrust, phone.DERSequence(phone.DEROctets(nil), []byte{1, 1, 0xff}, phone.DEREnum(0), phone.DEROctets(nil), phone.DERNull())),
		"a shorter root of trust":     field(rootOfTrust, phone.DERSequence(phone.DEROctets(nil), []byte{1, 1, 0xff})),
		"an app id with more behind": bent(func(d *phone.KeyDescription) {
			d.Software.Set(applicationID, phone.DEROctets(append(phone.ApplicationID(nil), 0)))
		}),
		"an app id that is text": bent(func(d *phone.KeyDescription) {
			d.Software.Set(applicationID, phone.DEROctets([]byte("org.example.wallet")))
		}),
		"an app id outside of octets": bent(func(d *phone.KeyDescription) { d.Software.Set(applicationID, phone.ApplicationID(nil)) }),
		"too many fields": bent(func(d *phone.KeyDescription) {
			for i := range maxFields {
				d.Hardware.Set(800+i, phone.DERNull())
			}
		}),
	} {
		if _, err := ParseDescription(b); code(err) != "description_malformed" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Whoever may use an attested key can sign certificates with it. Nothing of what they write is read.
func TestChainsThatWereExtended(t *testing.T) {
	w := newWorld(t)
	good, evil := w.chain(w.remote, nil), w.phone.PublicKey(1)
	forged := w.description().Encode()
	w.expect(t, "a forged attestation below an attested key", "chain_extended", w.phone.ExtendAndroidChain(0, good, evil, forged), w.rules)
	w.expect(t, "a key below an attested key", "chain_extended", w.phone.ExtendAndroidChain(0, good, evil, nil), w.rules)
	short := w.phone.ExtendAndroidChain(0, w.chain(w.factory, nil), evil, forged)
	w.expect(t, "the same on a factory's", "chain_extended", short, w.rules)
	w.expect(t, "the attested key's own certificate left out", "chain_order", append(short[:1], short[2:]...), w.rules)
	w.expect(t, "a key that was not attested", "extension_missing", w.remote.Chain(w.phone.PublicKey(0), nil, nil), w.rules)
	ca := w.factory.Chain(w.phone.PublicKey(0), nil, func(c *x509.Certificate) {
		c.KeyUsage, c.IsCA, c.BasicConstraintsValid = x509.KeyUsageCertSign, true, true
	})
	w.expect(t, "below a key that a factory certified without attesting it", "chain_length", w.phone.ExtendAndroidChain(0, ca, evil, forged), w.rules)
}

func TestChainsThatAreNone(t *testing.T) {
	w := newWorld(t)
	good := w.chain(w.remote, nil)
	swapped := slices.Clone(good)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	other := android(t, phone.AndroidBend{Remote: true})
	forgedRoot := slices.Clone(w.chain(other, nil))
	forgedRoot[len(forgedRoot)-1] = good[len(good)-1]
	broken := func(i int) [][]byte { // the last octet is the signature's
		c := slices.Clone(good)
		c[i] = slices.Clone(c[i])
		c[i][len(c[i])-1] ^= 1
		return c
	}
	key := func(at int, key crypto.Signer) [][]byte {
		return w.chain(android(t, phone.AndroidBend{Remote: true, Key: func(depth int) crypto.Signer {
			if depth == at {
				return key
			}
			return nil
		}, Root: w.factory}), nil)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(key crypto.PublicKey) [][]byte { return w.remote.Chain(key, w.description().Encode(), nil) }
	for _, v := range []struct {
		what, want string
		chain      [][]byte
	}{
		{"nothing", "chain_length", nil},
		{"two", "chain_length", good[:2]},
		{"seven", "chain_length", slices.Concat(good, good[:2])},
		{"a large one", "chain_size", [][]byte{good[0], good[1], make([]byte, MaxCertificate+1)}},
		{"large together", "chain_size", [][]byte{make([]byte, MaxCertificate), make([]byte, MaxCertificate), make([]byte, MaxCertificate), good[4]}},
		{"no certificate", "chain_malformed", [][]byte{good[0], good[1], {0x30, 0}, good[4]}},
		{"a byte behind", "chain_malformed", [][]byte{append(slices.Clone(good[0]), 0), good[1], good[2], good[3], good[4]}},
		{"serial number zero", "chain_malformed", w.remote.Chain(w.phone.PublicKey(0), w.description().Encode(), func(c *x509.Certificate) { c.SerialNumber = new(big.Int) })},
		{"without the root", "root_unknown", good[:4]},
		{"another root", "root_unknown", w.chain(other, nil)},
		{"our root on another's chain", "chain_signature", forgedRoot},
		{"root first", "root_unknown", func() [][]byte { c := slices.Clone(good); slices.Reverse(c); return c }()},
		{"out of order", "chain_order", swapped},
		{"one left out", "chain_order", append(slices.Clone(good[:2]), good[3:]...)},
		{"leaf's signature", "chain_signature", broken(0)},
		{"attestation key's signature", "chain_signature", broken(1)},
		{"intermediate's signature", "chain_signature", broken(3)},
		{"root's signature", "chain_signature", broken(4)},
		{"an RSA intermediate", "", key(3, weak)},
		{"a P-521 intermediate", "chain_key", key(3, p521)},
		{"an Ed25519 attestation key", "chain_key", key(1, ed)},
		{"an RSA key", "key_unsupported", leaf(weak.Public())},
		{"a P-521 key", "key_unsupported", leaf(p521.Public())},
		{"an Ed25519 key described as P-256", "key_mismatch", leaf(ed.Public())},
		{"an intermediate that is no CA", "chain_authority", w.chain(android(t, phone.AndroidBend{Remote: true, Root: w.factory, Certificate: func(depth int, c *x509.Certificate) { c.IsCA = depth != 2 }}), nil)},
		{"an attestation key that is no CA", "", w.chain(android(t, phone.AndroidBend{Root: w.factory, Certificate: func(depth int, c *x509.Certificate) { c.IsCA = depth != 1 }}), nil)},
		{"remote, not saying where", "level_certificate", w.chain(android(t, phone.AndroidBend{Remote: true, Root: w.factory, Certificate: func(depth int, c *x509.Certificate) {
			if depth == 1 {
				c.Subject.Organization = nil
			}
		}}), nil)},
		{"StrongBox's certificate, environment's statement", "level_certificate", w.chain(android(t, phone.AndroidBend{StrongBox: true, Root: w.factory}), nil)},
	} {
		w.expect(t, v.what, v.want, v.chain, w.rules)
	}
	r := w.rules
	r.RemoteOnly = true
	w.expect(t, "a factory's key where none is accepted", "provisioning", w.chain(w.factory, nil), r)
	w.expect(t, "a remote one", "", good, r)
}

// Factories' chains outlive their dates, remote ones don't; before its time no chain is good. The root's dates mean nothing.
func TestTimes(t *testing.T) {
	w := newWorld(t)
	old := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(-9, 0, 0), now.AddDate(-1, 0, 0) }
	at := func(remote bool, depth int, change func(c *x509.Certificate)) {
		a := android(t, phone.AndroidBend{Remote: remote, Certificate: func(d int, c *x509.Certificate) {
			if d == depth {
				change(c)
			}
		}})
		want := "" // the root
		switch rootDepth := len(a.Certificates()); {
		case depth < rootDepth && a.Certificates()[depth-1].NotBefore.After(now):
			want = "chain_not_yet_valid"
		case depth < rootDepth && remote:
			want = "chain_expired"
		}
		trust := w.trust
		trust.Roots = [][32]byte{a.Root()}
		if _, err := Verify(w.chain(a, nil), w.want, trust, w.rules); (want == "") != (err == nil) || want != "" && code(err) != want {
			t.Errorf("remote %v, certificate %d: %v, want %q", remote, depth, err, want)
		}
	}
	young := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(time.Second), now.AddDate(9, 0, 0) }
	for depth := range 3 {
		at(false, depth+1, old)
		at(false, depth+1, young)
	}
	for depth := range 4 {
		at(true, depth+1, old)
		at(true, depth+1, young)
	}
}

// No list, an old one, one of tomorrow, or one that names any certificate of the chain: refused.
func TestStatusFailsClosed(t *testing.T) {
	w := newWorld(t)
	chain := w.chain(w.remote, nil)
	check := func(what, want string, status *StatusList) {
		t.Helper()
		trust := w.trust
		trust.Status = status
		if _, err := Verify(chain, w.want, trust, w.rules); (want == "") != (err == nil) || want != "" && code(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	list := func(serial, status string) *StatusList {
		l, err := ParseStatusList(fmt.Appendf(nil, `{"entries":{"%s":{"status":"%s","reason":"KEY_COMPROMISE"}}}`, serial, status), now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	check("none", "status_missing", nil)
	check("as old as may be", "", emptyStatus(t, now.Add(-24*time.Hour)))
	check("a second older", "status_stale", emptyStatus(t, now.Add(-24*time.Hour-time.Second)))
	check("a minute ahead", "", emptyStatus(t, now.Add(time.Minute)))
	check("a second more", "status_from_future", emptyStatus(t, now.Add(time.Minute+time.Second)))
	check("about another", "", list("cc66e9a93713b6e643b26c15879786f7", "REVOKED"))
	for i, status := range []string{"REVOKED", "SUSPENDED", "REVOKED", "SUSPENDED", "REVOKED"} {
		cert, err := x509.ParseCertificate(chain[i])
		if err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("certificate %d", i), "revoked", list(cert.SerialNumber.Text(16), status))
		r := w.rules
		r.Blocked.Serials = []string{cert.SerialNumber.Text(16)}
		w.expect(t, "serial number switched off", "blocked_chain", chain, r)
		r.Blocked = Blocked{Keys: [][32]byte{sha256.Sum256(cert.RawSubjectPublicKeyInfo)}}
		want := "blocked_chain"
		if i == 0 {
			want = "" // a holder's key is switched off elsewhere
		}
		w.expect(t, "key switched off", want, chain, r)
	}
}

func TestStatusListsAreStrict(t *testing.T) {
	for what, doc := range map[string]string{
		"nothing":                  ``,
		"no entries":               `{}`,
		"entries that are null":    `{"entries":null}`,
		"entries twice":            `{"entries":{},"entries":{}}`,
		"a member beside":          `{"entries":{},"next":1}`,
		"more behind":              `{"entries":{}}{}`,
		"a serial twice":           `{"entries":{"1a":{"status":"REVOKED"},"1a":{"status":"SUSPENDED"}}}`,
		"a serial in capitals":     `{"entries":{"1A":{"status":"REVOKED"}}}`,
		"a serial with zeros":      `{"entries":{"01a":{"status":"REVOKED"}}}`,
		"a serial that is none":    `{"entries":{"0x1a":{"status":"REVOKED"}}}`,
		"an empty serial":          `{"entries":{"":{"status":"REVOKED"}}}`,
		"a serial of 21 octets":    `{"entries":{"` + strings.Repeat("a", 41) + `":{"status":"REVOKED"}}}`,
		"no status":                `{"entries":{"1a":{"reason":"KEY_COMPROMISE"}}}`,
		"a status of null":         `{"entries":{"1a":{"status":null}}}`,
		"another status":           `{"entries":{"1a":{"status":"VALID"}}}`,
		"a status in small":        `{"entries":{"1a":{"status":"revoked"}}}`,
		"another reason":           `{"entries":{"1a":{"status":"REVOKED","reason":"WHIM"}}}`,
		"a date that is none":      `{"entries":{"1a":{"status":"REVOKED","expires":"2026-02-30"}}}`,
		"a long comment":           `{"entries":{"1a":{"status":"REVOKED","comment":"` + strings.Repeat("ü", 141) + `"}}}`,
		"an unknown member":        `{"entries":{"1a":{"status":"REVOKED","scope":"all"}}}`,
		"an entry that is a text":  `{"entries":{"1a":"REVOKED"}}`,
		"an entry that is null":    `{"entries":{"1a":null}}`,
		"entries that are a array": `{"entries":[]}`,
	} {
		if _, err := ParseStatusList([]byte(doc), now); code(err) != "status_malformed" {
			t.Errorf("%s: %v", what, err)
		}
	}
	whole := `{"entries":{"1a":{"status":"REVOKED","reason":"SOFTWARE_FLAW","expires":"2026-02-28","comment":"` + strings.Repeat("ü", 140) + `"}}}`
	if _, err := ParseStatusList([]byte(whole), now); err != nil {
		t.Error(err)
	}
	if _, err := ParseStatusList([]byte(whole), time.Time{}); code(err) != "status_malformed" {
		t.Error("a list without its instant was taken")
	}
}

// Nothing is judged by half a configuration, and a value that no check made proves nothing.
func TestUnconfigured(t *testing.T) {
	w := newWorld(t)
	chain := w.chain(w.remote, nil)
	for what, bend := range map[string]func(e *Expected, trust *Trust, r *Rules){
		"challenge":       func(e *Expected, _ *Trust, _ *Rules) { e.Challenge = nil },
		"instant":         func(e *Expected, _ *Trust, _ *Rules) { e.At = time.Time{} },
		"roots":           func(_ *Expected, trust *Trust, _ *Rules) { trust.Roots = nil },
		"age of the list": func(_ *Expected, trust *Trust, _ *Rules) { trust.StatusMaxAge = 0 },
		"apps":            func(_ *Expected, _ *Trust, r *Rules) { r.Apps = nil },
	} {
		e, trust, r := w.want, w.trust, w.rules
		bend(&e, &trust, &r)
		if _, err := Verify(chain, e, trust, r); code(err) != "unconfigured" {
			t.Errorf("no %s: %v", what, err)
		}
	}
	if (*Attested)(nil).Valid() || (&Attested{}).Valid() {
		t.Error("nothing is valid")
	}
}

// Every refusal of the sources is explained, once, and the other way round.
func TestCodesAreComplete(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		} else if !strings.HasSuffix(f, "_test.go") {
			sources.Write(b)
		}
	}
	known := map[string]bool{}
	for _, c := range Codes {
		name, ok := strings.CutPrefix(c.Code, "evidence.android_")
		if !ok || known[name] || !strings.Contains(sources.String(), `refuse("`+name+`"`) || c.Explanation == "" {
			t.Errorf("%s is not a refusal's, or there twice", c.Code)
		}
		known[name] = true
	}
	for _, part := range strings.Split(sources.String(), `refuse("`)[1:] {
		if name, _, _ := strings.Cut(part, `"`); !known[name] {
			t.Errorf("%s is not explained", name)
		}
	}
}

// A memo never says more than a verification: after good chains a broken signature is still refused at each place, and nothing refused is kept.
func TestMemoKeepsWhatIsTrueForEver(t *testing.T) {
	w := newWorld(t)
	w.trust.Memo = NewMemo()
	for _, a := range []*phone.Android{w.factory, w.remote} {
		chain := w.chain(a, nil)
		for range 2 {
			if _, err := Verify(chain, w.want, w.trust, w.rules); err != nil {
				t.Fatal(err)
			}
		}
		known := len(w.trust.Memo.good)
		for i := range chain {
			bent := slices.Clone(chain)
			bent[i] = slices.Clone(chain[i])
			bent[i][len(bent[i])-1] ^= 1 // the signature's last octet
			if _, err := Verify(bent, w.want, w.trust, w.rules); code(err) != "chain_signature" {
				t.Errorf("certificate %d of %d, broken: %v", i, len(chain), err)
			}
		}
		if len(w.trust.Memo.good) != known {
			t.Error("a refused certificate is remembered")
		}
	}
	if n := len(w.trust.Memo.good); n != 3+3 { // each chain without its leaf; one root is both chains'
		t.Errorf("%d are remembered", n)
	}
	// What is known signed by one key is not known signed by another with its name.
	other := newWorld(t)
	other.trust.Memo = w.trust.Memo
	forged := append(slices.Clone(w.chain(w.factory, nil)[:3]), other.chain(other.factory, nil)[3])
	trust := w.trust
	trust.Roots = append(slices.Clone(trust.Roots), other.trust.Roots...)
	if _, err := Verify(forged, w.want, trust, w.rules); code(err) != "chain_signature" {
		t.Errorf("below another root of the same name: %v", err)
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	for _, v := range []struct {
		name  string
		chain [][]byte
		memo  *Memo
	}{{"factory", w.chain(w.factory, nil), nil}, {"remote", w.chain(w.remote, nil), nil},
		{"factory, of a known batch", w.chain(w.factory, nil), NewMemo()}, {"remote, of a known phone", w.chain(w.remote, nil), NewMemo()}} {
		b.Run(v.name, func(b *testing.B) {
			trust := w.trust
			trust.Memo = v.memo
			for b.Loop() {
				if _, err := Verify(v.chain, w.want, trust, w.rules); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("sony, RSA root", func(b *testing.B) {
		chain := readChain(b, "testdata/chains/sony-xperia10-iii/sdk33/TEE_EC.pem")
		at := time.Date(2026, 6, 4, 0, 0, 0, 0, time.UTC)
		d, err := ParseDescription(extensionOf(b, chain[0]))
		if err != nil {
			b.Fatal(err)
		}
		trust := Trust{Roots: GoogleRoots(), Status: emptyStatus(b, at), StatusMaxAge: time.Hour}
		rules := Rules{Apps: []App{{Package: "com.android.vending", Signers: [][32]byte{hash64(b, "8P1sW0EPJcslw7UzRsiXL64w+O50Ed+RBICtay1g24M=")}}}}
		for b.Loop() {
			if _, err := Verify(chain, Expected{Challenge: d.Challenge, At: at}, trust, rules); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParseDescription(b *testing.B) {
	der := newWorld(b).description().Encode()
	for b.Loop() {
		if _, err := ParseDescription(der); err != nil {
			b.Fatal(err)
		}
	}
}
