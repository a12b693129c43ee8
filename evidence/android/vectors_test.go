package android

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func code(err error) string {
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return strings.TrimPrefix(r.Code(), "evidence.android_")
	}
	return fmt.Sprint(err)
}

// readChain reads the certificates of PEM files, in order.
func readChain(t testing.TB, paths ...string) (chain [][]byte) {
	t.Helper()
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			chain = append(chain, block.Bytes)
		}
	}
	if len(chain) == 0 {
		t.Fatalf("no certificate in %v", paths)
	}
	return chain
}

func legacy(name string) (paths []string) {
	for i := range 4 {
		paths = append(paths, fmt.Sprintf("testdata/legacy/EC_SecurityLevel_%s_cert%d.pem", name, i))
	}
	return paths
}

func emptyStatus(t testing.TB, asOf time.Time) *StatusList {
	t.Helper()
	l, err := ParseStatusList([]byte(`{"entries":{}}`), asOf)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func hash64(t testing.TB, s string) [32]byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != 32 {
		t.Fatal(s, err)
	}
	return [32]byte(b)
}

// Every chain of the vectors, at an instant when it was in use, judged by the real roots and by the strictest rules that are not about the
// phone's age.
func TestVectors(t *testing.T) {
	const collector = "com.google.wireless.android.security.attestationverifier.collector"
	vending := App{Package: "com.android.vending", Signers: [][32]byte{hash64(t, "8P1sW0EPJcslw7UzRsiXL64w+O50Ed+RBICtay1g24M=")}}
	rules := Rules{Apps: []App{
		vending,
		{Package: collector, Signers: [][32]byte{hash64(t, "EDk47kU35Z6O55L2VFBPuDRvxrNG0LvEQV/DOfz8jsE=")}},
	}}
	seen := map[string]bool{}
	for _, v := range []struct {
		file  string
		paths []string // instead of file
		at    string
		want  string // code; empty: accepted
		why   string
	}{
		{file: "sony-xperia10-iii/sdk33/TEE_EC.pem", at: "2026-06-04", want: "", why: "locked and verified; two certificates and the root are past their dates, as a factory's may be; the attestation key's is no CA"},
		{file: "blueline/sdk28/TEE_EC_NONE.pem", at: "2019-10-01", want: "unlocked", why: "a factory's, bootloader unlocked"},
		{file: "blueline/sdk28/SB_RSA_NONE_USERAUTH.pem", at: "2020-08-29", want: "key_unsupported", why: "an RSA key in StrongBox"},
		{file: "akita/sdk34/TEE_EC_NONE.pem", at: "2024-09-26", want: "unlocked", why: "remotely provisioned, in its time, bootloader unlocked"},
		{file: "akita/sdk34/TEE_EC_NONE.pem", at: "2024-10-09", want: "chain_expired", why: "remotely provisioned chains are held to their dates"},
		{file: "akita/sdk34/TEE_EC_NONE.pem", at: "2024-09-10", want: "chain_not_yet_valid", why: "nor do they hold before"},
		{file: "tokay/sdk37/TEE_MLDSA_FACTORY.pem", at: "2026-06-10", want: "key_unsupported", why: "an ML-DSA key, factory's chain"},
		{file: "marlin/sdk29/TEE_EC_NONE.pem", at: "2019-10-29", want: "root_unknown", why: "the public software root"},
		{file: "p256_sha384_intermediate.pem", at: "2025-01-01", want: "root_unknown", why: "a test root; its extension is no KeyDescription"},
		{file: "invalid/malformed_rot_device_locked.pem", at: "2025-11-15", want: "description_malformed", why: "deviceLocked is 01, DER has ff for true"},
		{file: "invalid/tags_not_in_ascending_order.pem", at: "2024-08-14", want: "description_malformed", why: "algorithm before purpose; the leaf's signature is broken too"},
		{paths: legacy("TEE"), at: "2018-12-01", want: "purpose", why: "a key of the system itself, for verifying too; its bootloader is unlocked as well"},
		{paths: legacy("StrongBox"), at: "2019-07-08", want: "root_unknown", why: "a root of its own; the leaf names its issuer's issuer"},
	} {
		paths := v.paths
		if v.file != "" {
			paths = []string{"testdata/chains/" + v.file}
		}
		for _, p := range paths {
			seen[p] = true
		}
		t.Run(strings.TrimPrefix(paths[0], "testdata/")+" "+v.at, func(t *testing.T) {
			at, err := time.Parse(time.DateOnly, v.at)
			if err != nil {
				t.Fatal(err)
			}
			chain := readChain(t, paths...)
			trust := Trust{Roots: GoogleRoots(), Status: emptyStatus(t, at), StatusMaxAge: time.Hour}
			want := Expected{Challenge: challengeOf(t, chain[0]), At: at}
			a, err := Verify(chain, want, trust, rules)
			if v.want != "" {
				if code(err) != v.want {
					t.Errorf("%v, want %s: %s", err, v.want, v.why)
				}
				return
			}
			if err != nil || !a.Valid() {
				t.Fatalf("%v: %s", err, v.why)
			}
			f := a.Facts()
			if f.Level != TrustedEnvironment || f.Remote || f.OSPatch != 202307 || f.VendorPatch != 20230701 || f.App.Name != "com.android.vending" ||
				f.Device.Manufacturer != "Sony" || f.Device.Model != "SO-52B" || f.Serials[1] != "16580768335559031605" || f.BootState != Verified {
				t.Errorf("%+v", f)
			}
			if _, err := Verify(chain, Expected{Challenge: []byte("another"), At: at}, trust, rules); code(err) != "challenge" {
				t.Error(err)
			}
			fresh := rules
			fresh.PatchAge = 365 * 24 * time.Hour
			if _, err := Verify(chain, want, trust, fresh); code(err) != "patch_age" {
				t.Errorf("%v: the phone was patched last three years before", err)
			}
			strict := rules
			strict.Auth.Required = true
			if _, err := Verify(chain, want, trust, strict); code(err) != "auth" {
				t.Error(err)
			}
		})
	}
	// Every file of the vectors is a chain of this table, what another test of this file reads, or the description of such a chain.
	elsewhere := []string{"testdata/PROVENANCE.md", "testdata/roots.json", "testdata/legacy/status.json"}
	err := filepath.WalkDir("testdata", func(p string, d fs.DirEntry, err error) error {
		if d.IsDir() && d.Name() == "fuzz" {
			return fs.SkipDir
		}
		p = filepath.ToSlash(p)
		described, isDescription := strings.CutSuffix(p, ".json")
		if !d.IsDir() && !seen[p] && !slices.Contains(elsewhere, p) && !(isDescription && seen[described+".pem"]) {
			t.Errorf("%s is not classified", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The one phone of the vectors that is good is switched off by each of its certificates, its root, boot key, model and patch levels.
func TestARealPhoneIsSwitchedOff(t *testing.T) {
	at := time.Date(2026, 6, 4, 0, 0, 0, 0, time.UTC)
	ders := readChain(t, "testdata/chains/sony-xperia10-iii/sdk33/TEE_EC.pem")
	c, err := parseChain(ders)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDescription(extensionOf(t, ders[0]))
	if err != nil {
		t.Fatal(err)
	}
	app := App{Package: "com.android.vending", Signers: [][32]byte{hash64(t, "8P1sW0EPJcslw7UzRsiXL64w+O50Ed+RBICtay1g24M=")}}
	judged := func(l *StatusList, b Blocked) string {
		_, err := Verify(ders, Expected{Challenge: d.Challenge, At: at}, Trust{Roots: GoogleRoots(), Status: l, StatusMaxAge: time.Hour}, Rules{Apps: []App{app}, Blocked: b})
		return code(err)
	}
	empty := emptyStatus(t, at)
	if got := judged(empty, Blocked{Serials: []string{"1234"}, Patches: []Patch{202306}, Devices: []Device{{Model: "SO-52B", Before: 202307}}}); got != "<nil>" {
		t.Fatalf("while something else is switched off: %s", got)
	}
	for i, cert := range c {
		for _, word := range []string{"REVOKED", "SUSPENDED"} {
			l, err := ParseStatusList(fmt.Appendf(nil, `{"entries":{"%x":{"status":"%s"}}}`, cert.SerialNumber, word), at)
			if err != nil || judged(l, Blocked{}) != "revoked" {
				t.Errorf("certificate %d, %s: %v %s", i, word, err, judged(l, Blocked{}))
			}
		}
		if got := judged(empty, Blocked{Serials: []string{cert.SerialNumber.Text(16)}}); got != "blocked_chain" {
			t.Errorf("the serial number of certificate %d: %s", i, got)
		}
		if got := judged(empty, Blocked{Keys: [][32]byte{spki(cert)}}); got != "blocked_chain" && i > 0 {
			t.Errorf("the key of certificate %d: %s", i, got)
		}
	}
	for name, b := range map[string]struct {
		blocked Blocked
		want    string
	}{
		"its model":                      {Blocked{Devices: []Device{{Model: "SO-52B"}}}, "blocked_device"},
		"its model, below a later level": {Blocked{Devices: []Device{{Manufacturer: "Sony", Before: 202308}}}, "blocked_device"},
		"its boot key":                   {Blocked{BootKeys: [][]byte{d.Hardware.RootOfTrust().BootKey}}, "blocked_device"},
		"its system's patch level":       {Blocked{Patches: []Patch{202307}}, "blocked_patch"},
		"its vendor's patch level":       {Blocked{Patches: []Patch{20230701}}, "blocked_patch"},
	} {
		if got := judged(empty, b.blocked); got != b.want {
			t.Errorf("%s: %s, want %s", name, got, b.want)
		}
	}
}

// challengeOf is the challenge that a real phone's app chose; nothing if the extension can't be read.
func challengeOf(t *testing.T, leaf []byte) []byte {
	t.Helper()
	if d, err := ParseDescription(extensionOf(t, leaf)); err == nil {
		return d.Challenge
	}
	return []byte("challenge")
}

func extensionOf(t testing.TB, leaf []byte) []byte {
	t.Helper()
	cert, err := x509.ParseCertificate(leaf)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidAttestation) {
			return e.Value
		}
	}
	t.Fatal("no attestation extension")
	return nil
}

// The chains of real phones, unlocked ones and those with keys of kinds that no holder may have included, verify up to the rules.
func TestVectorChainsLeadToGoogle(t *testing.T) {
	for _, paths := range [][]string{
		{"testdata/chains/sony-xperia10-iii/sdk33/TEE_EC.pem"}, {"testdata/chains/blueline/sdk28/TEE_EC_NONE.pem"}, {"testdata/chains/blueline/sdk28/SB_RSA_NONE_USERAUTH.pem"},
		{"testdata/chains/akita/sdk34/TEE_EC_NONE.pem"}, {"testdata/chains/tokay/sdk37/TEE_MLDSA_FACTORY.pem"}, {"testdata/chains/invalid/malformed_rot_device_locked.pem"},
		legacy("TEE"),
	} {
		c, err := parseChain(readChain(t, paths...))
		if err != nil {
			t.Fatal(paths, err)
		}
		_, extension := c.extension()
		if err := errors.Join(c.known(GoogleRoots()), extension, c.signatures(nil)); err != nil {
			t.Error(paths, err)
		}
	}
	// Without its signature check this one would pass as far.
	c, err := parseChain(readChain(t, "testdata/chains/invalid/tags_not_in_ascending_order.pem"))
	if err != nil || c.known(GoogleRoots()) != nil || code(c.signatures(nil)) != "chain_signature" {
		t.Error(err, c.signatures(nil))
	}
}

func TestGoogleRootsAreThoseThatGooglePublishes(t *testing.T) {
	b, err := os.ReadFile("testdata/roots.json")
	if err != nil {
		t.Fatal(err)
	}
	var pems []string
	if err := json.Unmarshal(b, &pems); err != nil {
		t.Fatal(err)
	}
	var want [][32]byte
	for _, p := range pems {
		block, _ := pem.Decode([]byte(p))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	}
	if !slices.Equal(GoogleRoots(), want) {
		t.Errorf("%x, want %x", GoogleRoots(), want)
	}
}

// The decoder reads the same out of each KeyDescription as Google's does: expected values are the vectors' own.
func TestDescriptionsAsTheirAuthorsReadThem(t *testing.T) {
	files, err := filepath.Glob("testdata/chains/*/*/*.json")
	if err != nil || len(files) != 6 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		d, err := ParseDescription(extensionOf(t, readChain(t, strings.TrimSuffix(file, "json")+"pem")[0]))
		if err != nil {
			t.Fatal(file, err)
		}
		levels := map[SecurityLevel]string{Software: "SOFTWARE", TrustedEnvironment: "TRUSTED_ENVIRONMENT", StrongBox: "STRONG_BOX"}
		got := map[string]any{
			"attestationVersion": fmt.Sprint(d.AttestationVersion), "attestationSecurityLevel": levels[d.AttestationLevel],
			"keyMintVersion": fmt.Sprint(d.KeyMintVersion), "keyMintSecurityLevel": levels[d.KeyMintLevel],
			"attestationChallenge": base64.StdEncoding.EncodeToString(d.Challenge), "uniqueId": "",
			"softwareEnforced": asJSON(t, &d.Software), "hardwareEnforced": asJSON(t, &d.Hardware),
		}
		for _, l := range []string{"softwareEnforced", "hardwareEnforced"} {
			delete(want[l].(map[string]any), "areTagsOrdered") // always, here
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if !bytes.Equal(g, w) {
			t.Errorf("%s:\n%s, want\n%s", file, g, w)
		}
	}
}

// asJSON writes a list as the vectors do.
func asJSON(t *testing.T, l *AuthorizationList) map[string]any {
	names := map[uint32]string{
		Purpose: "purposes", Algorithm: "algorithms", KeySize: "keySize", Digest: "digests", Padding: "paddings", ECCurve: "ecCurve", MLDSAVariant: "mlDsaVariant",
		RSAPublicExponent: "rsaPublicExponent", NoAuthRequired: "noAuthRequired", UserAuthType: "userAuthType", AuthTimeout: "authTimeout",
		TrustedUserPresence: "trustedUserPresenceRequired", CreationDateTime: "creationDateTime", RollbackResistant: "rollbackResistant", OSVersion: "osVersion",
		OSPatchLevel: "osPatchLevel", IDBrand: "attestationIdBrand", IDDevice: "attestationIdDevice", IDProduct: "attestationIdProduct",
		IDManufacturer: "attestationIdManufacturer", IDModel: "attestationIdModel", VendorPatchLevel: "vendorPatchLevel", BootPatchLevel: "bootPatchLevel", ModuleHash: "moduleHash",
	}
	b64 := base64.StdEncoding.EncodeToString
	m := map[string]any{}
	for _, f := range l.fields {
		switch f.tag {
		case Origin:
			m["origin"] = []string{"GENERATED", "DERIVED", "IMPORTED"}[f.number]
			continue
		case rootOfTrust:
			r := l.RootOfTrust()
			m["rootOfTrust"] = map[string]any{
				"verifiedBootKey": b64(r.BootKey), "deviceLocked": r.DeviceLocked, "verifiedBootHash": b64(r.BootHash),
				"verifiedBootState": []string{"VERIFIED", "SELF_SIGNED", "UNVERIFIED", "FAILED"}[r.BootState],
			}
			continue
		case applicationID:
			var packages, signers []any
			for _, p := range l.ApplicationID().Packages {
				packages = append(packages, map[string]any{"name": p.Name, "version": fmt.Sprint(p.Version)})
			}
			for _, s := range l.ApplicationID().Signers {
				signers = append(signers, b64(s))
			}
			m["attestationApplicationId"] = map[string]any{"packages": packages, "signatures": signers}
			continue
		}
		name := names[f.tag]
		if name == "" {
			t.Errorf("tag %d has no name here", f.tag)
		}
		switch formOf(f.tag) {
		case integer:
			m[name] = strconv.FormatUint(f.number, 10)
		case integers:
			var s []string
			for _, n := range f.numbers {
				s = append(s, fmt.Sprint(n))
			}
			m[name] = s
		case null:
			m[name] = true
		case octets:
			m[name] = string(f.content)
			if f.tag == ModuleHash {
				m[name] = b64(f.content)
			}
		}
	}
	return m
}

func TestStatusListOfTheVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/legacy/status.json")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 6, 4, 12, 0, 0, 0, time.UTC)
	l, err := ParseStatusList(b, at)
	if err != nil || l.Len() != 5 || !l.AsOf().Equal(at) {
		t.Fatal(l, err)
	}
	for serial, want := range map[string]string{"6681152659205225093": "REVOKED", "cc66e9a93713b6e643b26c15879786f7": "SUSPENDED", "1": ""} {
		if l.state[serial] != want {
			t.Errorf("%s is %q, want %q", serial, l.state[serial], want)
		}
	}
}
