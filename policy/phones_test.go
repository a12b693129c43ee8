package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/evidence"
	"sealkeeper/evidence/android"
)

// bent is the demonstration's bundle with something changed.
func bent(t testing.TB, change func(b map[string]any)) (*Bundle, error) {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal([]byte(read(t, "demo.json")), &b); err != nil {
		t.Fatal(err)
	}
	change(b)
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return Parse("b", data)
}

func kind(b map[string]any, member string) map[string]any {
	t := b["types"].(map[string]any)["kr-resident"].(map[string]any)
	if t[member] == nil {
		t[member] = map[string]any{}
	}
	return t[member].(map[string]any)
}

func statusKey(t testing.TB) (*ecdsa.PrivateKey, map[string]any) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return key, map[string]any{"kid": "feed-1", "jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}}
}

func TestPhonesOfABundle(t *testing.T) {
	_, key := statusKey(t)
	digest := strings.Repeat("ab", 32)
	whole := func() map[string]any {
		return map[string]any{
			"status": map[string]any{"max_age": "24h", "keys": []any{key}},
			"android": map[string]any{
				"apps": []any{map[string]any{"package": "org.example.wallet", "signers": []any{digest}, "version": 7}}, "level": "strongbox", "attestation_version": 300,
				"remote_only": true, "os_patch": 202601, "vendor_patch": 20260105, "boot_patch": 20260105, "patch_age": "365d", "require_model": true,
				"self_signed_boot": []any{"ab"}, "auth": map[string]any{"types": []any{"biometric"}, "timeout": "5s", "unlocked_device": true, "user_presence": true},
				"blocked": map[string]any{"keys": []any{digest}, "serials": []any{"c35747a0"}, "boot_keys": []any{"00"}, "patches": []any{202512},
					"devices": []any{map[string]any{"model": "E1", "before": 202611}}}},
			"apple": map[string]any{"apps": []any{map[string]any{"team": "MURL8TA57X", "bundle": "org.example.wallet"}}},
		}
	}
	b, err := bent(t, func(b map[string]any) { b["phones"] = whole() })
	if err != nil {
		t.Fatal(err)
	}
	a, apple := b.Phones()
	r := a.Rules
	if fmt.Sprint(a.Roots) != fmt.Sprint(android.GoogleRoots()) || a.StatusMaxAge != 24*time.Hour || r.Level != android.StrongBox || r.AttestationVersion != 300 || !r.RemoteOnly || !r.RequireModel ||
		r.OSPatch != 202601 || r.VendorPatch != 20260105 || r.PatchAge != 365*24*time.Hour || r.Auth.Types != android.AuthBiometric || r.Auth.Timeout != 5*time.Second ||
		!r.Auth.Required || !r.Auth.UnlockedDevice || !r.Auth.UserPresence || len(r.Blocked.Keys) != 1 || len(r.Blocked.Serials) != 1 || len(r.Blocked.BootKeys) != 1 ||
		len(r.Blocked.Patches) != 1 || r.Blocked.Devices[0] != (android.Device{Model: "E1", Before: 202611}) || r.Apps[0].Version != 7 {
		t.Errorf("%+v", a)
	}
	if apple.Rules.Apps[0].String() != "MURL8TA57X.org.example.wallet" || apple.Root == nil {
		t.Errorf("%+v", apple)
	}
	part := func(p map[string]any, name string) map[string]any { return p[name].(map[string]any) }
	for name, c := range map[string]struct {
		want string
		bend func(p map[string]any)
	}{
		"Android without a status": {"add status beside", func(p map[string]any) { delete(p, "status") }},
		"no keys":                  {"0 keys that sign", func(p map[string]any) { part(p, "status")["keys"] = []any{} }},
		"a key twice":              {"is there twice", func(p map[string]any) { part(p, "status")["keys"] = []any{key, key} }},
		"no age":                   {"max_age", func(p map[string]any) { delete(part(p, "status"), "max_age") }},
		"too old an age":           {"max_age", func(p map[string]any) { part(p, "status")["max_age"] = "31d" }},
		"no apps":                  {"0 apps", func(p map[string]any) { part(p, "android")["apps"] = []any{} }},
		"an app of anybody": {"without signers", func(p map[string]any) {
			part(p, "android")["apps"] = []any{map[string]any{"package": "org.example", "signers": []any{}}}
		}},
		"no package": {"not a package name", func(p map[string]any) {
			part(p, "android")["apps"] = []any{map[string]any{"package": "x", "signers": []any{digest}}}
		}},
		"a short digest":  {"small hexadecimal", func(p map[string]any) { part(p, "android")["roots"] = []any{"ab"} }},
		"capital letters": {"small hexadecimal", func(p map[string]any) { part(p, "android")["roots"] = []any{strings.ToUpper(digest)} }},
		"level":           {"none of trusted_environment", func(p map[string]any) { part(p, "android")["level"] = "software" }},
		"patch":           {"no patch level", func(p map[string]any) { part(p, "android")["os_patch"] = 202613 }},
		"authentication":  {"none of biometric", func(p map[string]any) { part(part(p, "android"), "auth")["types"] = []any{"pattern"} }},
		"every phone blocked": {"would be every phone", func(p map[string]any) {
			part(part(p, "android"), "blocked")["devices"] = []any{map[string]any{"before": 202611}}
		}},
		"serial with a zero":  {"not a serial number", func(p map[string]any) { part(part(p, "android"), "blocked")["serials"] = []any{"0a"} }},
		"patch zero":          {"0 is no patch", func(p map[string]any) { part(part(p, "android"), "blocked")["patches"] = []any{0} }},
		"team":                {"team identifier", func(p map[string]any) { part(p, "apple")["apps"] = []any{map[string]any{"team": "x", "bundle": "y"}} }},
		"Apple's root":        {"not a certificate", func(p map[string]any) { part(p, "apple")["root"] = "AAAA" }},
		"a member of nothing": {"not a member that a bundle has", func(p map[string]any) { part(p, "android")["blocked_models"] = []any{} }},
	} {
		_, err := bent(t, func(b map[string]any) {
			p := whole()
			c.bend(p)
			b["phones"] = p
		})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "b:") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		want string
		bend func(b map[string]any)
	}{
		"attestations": {"none of key_attestation", func(b map[string]any) { kind(b, "evidence")["attestations"] = []any{"app_attest"} }},
		"apps":         {"none of android_key_attestation", func(b map[string]any) { kind(b, "evidence")["apps"] = []any{"key_attestation"} }},
		"status":       {"none of attestation", func(b map[string]any) { kind(b, "evidence")["status"] = []any{"client"} }},
		"twice":        {"is there twice", func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet", "wallet"} }},
		"nonce":        {"none of attestation and proof", func(b map[string]any) { kind(b, "profile")["attestation_nonce"] = "none" }},
		"typ":          {"none of key-attestation+jwt", func(b map[string]any) { kind(b, "profile")["attestation_type"] = "jwt" }},
		"proof key":    {"none of any and first", func(b map[string]any) { kind(b, "profile")["proof_key"] = "last" }},
		"proofs":       {"none of one and each", func(b map[string]any) { kind(b, "profile")["proofs"] = "none" }},
		"new old keys": {"choose one", func(b map[string]any) { kind(b, "refresh")["new_keys"] = true }},
	} {
		if _, err := bent(t, c.bend); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// What a type says of attestations, apps, statuses and keys, each way.
func TestPhonesAreJudgedByTheType(t *testing.T) {
	android := func(s *scene) {
		s.facts.Kinds, s.facts.App = []string{"android_key_attestation", "proof_of_possession"}, "org.example.wallet"
	}
	app := func(s *scene) { s.facts.Kinds = append(s.facts.Kinds, "app_attest") }
	known := func(name string, ends time.Time) func(*scene) {
		return func(s *scene) {
			s.facts.Statuses = append(s.facts.Statuses, evidence.Status{Name: name, Ends: ends, Known: true})
		}
	}
	unknown := func(s *scene) {
		s.facts.Statuses = append(s.facts.Statuses, evidence.Status{Name: evidence.StatusWallet, Ends: noon.Add(1000 * 24 * time.Hour)})
	}
	old := func(s *scene) { refresh(s, 50*24*time.Hour) }
	reused := func(s *scene) { s.facts.Reused = true }
	other := func(s *scene) { s.facts.keys = []evidence.Key{phone2} }
	former := func(s *scene) { s.facts.Previous = phone1.Thumbprint }
	until, short := noon.Add(90*24*time.Hour), noon.Add(90*24*time.Hour-time.Second)
	for name, c := range map[string]struct {
		bend func(b map[string]any) // nil: the bundle as it is
		do   []func(*scene)
		want string
	}{
		"Android where a wallet provider's is wanted": {nil, []func(*scene){android}, "evidence.missing"},
		"Android where nothing is said":               {func(b map[string]any) { kind(b, "evidence")["required"] = []any{"proof_of_possession"} }, []func(*scene){android}, "evidence.attestation_kind"},
		"Android where it is taken": {func(b map[string]any) {
			kind(b, "evidence")["required"], kind(b, "evidence")["attestations"] = []any{}, []any{"android_key_attestation"}
		}, []func(*scene){android}, ""},
		"a wallet provider's where Android is wanted": {func(b map[string]any) { kind(b, "evidence")["attestations"] = []any{"android_key_attestation"} }, nil, "evidence.attestation_kind"},
		"App Attest unasked":                          {nil, []func(*scene){app}, "evidence.unasked"},
		"App Attest asked":                            {func(b map[string]any) { kind(b, "evidence")["apps"] = []any{"app_attest"} }, []func(*scene){app}, ""},
		"a wallet unasked":                            {nil, []func(*scene){func(s *scene) { s.facts.Kinds = append(s.facts.Kinds, "wallet_attestation") }}, "evidence.unasked"},
		"no App Attest":                               {func(b map[string]any) { kind(b, "evidence")["apps"] = []any{"app_attest", "android_key_attestation"} }, nil, "evidence.app_missing"},
		"an Android chain names its app": {func(b map[string]any) {
			kind(b, "evidence")["apps"] = []any{"app_attest", "android_key_attestation"}
			kind(b, "evidence")["required"], kind(b, "evidence")["attestations"] = []any{}, []any{"android_key_attestation"}
		}, []func(*scene){android}, ""},
		"a rule of the app": {func(b map[string]any) {
			b["rules"] = append(b["rules"].([]any), map[string]any{"id": "no-evil", "cedar": `forbid(principal, action, resource) when { context.app == "org.evil" };`})
		}, []func(*scene){func(s *scene) { s.facts.App = "org.evil" }}, "rule.no-evil"},

		"no status":                      {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet"} }, nil, "evidence.status_missing"},
		"another status":                 {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet"} }, []func(*scene){known("key_storage", until)}, "evidence.status_missing"},
		"an unknown status":              {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet"} }, []func(*scene){unknown}, "evidence.status_unknown"},
		"a status for as long":           {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet"} }, []func(*scene){known("wallet", until)}, ""},
		"a status for less long":         {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet"} }, []func(*scene){known("wallet", short)}, "evidence.status_ends"},
		"a status without an end":        {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"wallet"} }, []func(*scene){known("wallet", time.Time{})}, "evidence.status_ends"},
		"of the attestation, no end":     {func(b map[string]any) { kind(b, "evidence")["status"] = []any{"attestation"} }, []func(*scene){known("attestation", time.Time{})}, ""},
		"an unasked one for less long":   {nil, []func(*scene){known("key_storage", short)}, "evidence.status_ends"},
		"an unasked one that is unknown": {nil, []func(*scene){unknown}, ""},

		"an old attestation for an issue":        {func(b map[string]any) { kind(b, "refresh")["reuse_attestation"] = true }, []func(*scene){reused}, "refresh.reused_attestation"},
		"an old attestation for a refresh":       {func(b map[string]any) { kind(b, "refresh")["reuse_attestation"] = true }, []func(*scene){old, reused}, ""},
		"an old attestation where it is refused": {nil, []func(*scene){old, reused}, "refresh.reused_attestation"},
		"an old attestation of other keys": {func(b map[string]any) {
			b["types"].(map[string]any)["kr-resident"].(map[string]any)["refresh"] = map[string]any{"same_key": false, "reuse_attestation": true}
		}, []func(*scene){old, reused, other}, "refresh.reused_attestation"},
		"old keys where new ones are wanted": {func(b map[string]any) {
			b["types"].(map[string]any)["kr-resident"].(map[string]any)["refresh"] = map[string]any{"same_key": false, "new_keys": true}
		}, []func(*scene){old}, "refresh.used_key"},
		"new keys where new ones are wanted": {func(b map[string]any) {
			b["types"].(map[string]any)["kr-resident"].(map[string]any)["refresh"] = map[string]any{"same_key": false, "new_keys": true}
		}, []func(*scene){old, other, former}, ""},
		"new keys of whichever phone": {func(b map[string]any) {
			b["types"].(map[string]any)["kr-resident"].(map[string]any)["refresh"] = map[string]any{"same_key": false, "new_keys": true}
		}, []func(*scene){old, other}, "refresh.other_device"},
		"old keys where either will do": {func(b map[string]any) {
			b["types"].(map[string]any)["kr-resident"].(map[string]any)["refresh"] = map[string]any{"same_key": false}
		}, []func(*scene){old}, ""},
	} {
		bend := c.bend
		if bend == nil {
			bend = func(map[string]any) {}
		}
		b, err := bent(t, bend)
		if err != nil {
			t.Fatal(name, err)
		}
		s := aScene("kr-resident")
		for _, do := range c.do {
			do(s)
		}
		if _, d := s.decide(b); d.Code != c.want || (d.Result == Allowed) != (c.want == "") {
			t.Errorf("%s: %s %s (%s), want %q", name, d.Result, d.Code, d.Detail, c.want)
		}
	}
}

// A bundle's own tests can say what phones say.
func TestPhonesInABundlesTests(t *testing.T) {
	s := aScene("kr-resident")
	test := func(name, code string, operation Operation, e map[string]any) any {
		expect := map[string]any{"result": "allowed"}
		if code != "" {
			expect = map[string]any{"result": "denied", "code": code}
		}
		e["key_storage"], e["user_authentication"] = []any{"iso_18045_high"}, []any{"iso_18045_high"}
		return map[string]any{"name": name, "expect": expect, "input": map[string]any{"at": noon, "client": "ward-office-1", "operation": operation, "type": "kr-resident",
			"claims": s.claims, "evidence": e, "slot": map[string]any{"bound": operation == OpRefresh, "live": 1, "msos": 1, "newest": noon.AddDate(0, 0, -50)}}}
	}
	status := func(ends time.Time, unknown bool) map[string]any {
		return map[string]any{"statuses": []any{map[string]any{"name": "wallet", "ends": ends, "unknown": unknown}}}
	}
	b, err := bent(t, func(b map[string]any) {
		kind(b, "evidence")["status"] = []any{"wallet"}
		b["rules"] = append(b["rules"].([]any), map[string]any{"id": "no-evil", "cedar": `forbid(principal, action, resource) when { context.app == "org.evil" };`})
		evil, old := status(noon.AddDate(1, 0, 0), false), status(noon.AddDate(1, 0, 0), false)
		evil["app"], old["reused"], old["same_device"] = "org.evil", true, true
		b["tests"] = []any{
			test("good", "", OpIssue, status(noon.AddDate(1, 0, 0), false)), test("none", "evidence.status_missing", OpIssue, map[string]any{}),
			test("short", "evidence.status_ends", OpIssue, status(noon.AddDate(0, 0, 1), false)), test("unknown", "evidence.status_unknown", OpIssue, status(noon.AddDate(1, 0, 0), true)),
			test("evil", "rule.no-evil", OpIssue, evil), test("reused", "refresh.reused_attestation", OpRefresh, old),
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Test("b"); err != nil || len(b.Tests()) != 6 {
		t.Error(err)
	}
}

func TestProfileOfAType(t *testing.T) {
	b, err := bent(t, func(b map[string]any) {
		p := kind(b, "profile")
		p["attestation_nonce"], p["attestation_type"], p["proof_key"], p["proofs"] = "proof", "keyattestation+jwt", "first", "each"
		kind(b, "refresh")["reuse_attestation"] = true
	})
	if err != nil {
		t.Fatal(err)
	}
	ts3 := evidence.Profile{ProofNonce: true, TS3Type: true, FirstKey: true, EachKey: true}
	if got := b.Profile("kr-resident", OpIssue); got != ts3 {
		t.Errorf("%+v", got)
	}
	ts3.Reuse = true
	if got := b.Profile("kr-resident", OpRefresh); got != ts3 {
		t.Errorf("%+v", got)
	}
	for _, name := range []string{"eu-pid", "none"} {
		if got := b.Profile(name, OpRefresh); got != (evidence.Profile{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A status is believed as long as the bundle in use lists its signer's key, whatever its name.
func TestStatusIsBelievedWithItsKey(t *testing.T) {
	key, jwk := statusKey(t)
	with := func(keys ...any) *Bundle {
		b, err := bent(t, func(b map[string]any) {
			b["phones"] = map[string]any{"status": map[string]any{"max_age": "24h", "keys": keys}}
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	changed := func(member string, v any) map[string]any {
		out := map[string]any{"kid": jwk["kid"], "jwk": jwk["jwk"]}
		out[member] = v
		return out
	}
	_, another := statusKey(t)
	text, err := SignPhoneStatus([]byte(`{"format":1,"as_of":"2026-03-14T03:00:00Z"}`), "feed-1", key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := with(jwk).OpenPhoneStatus(text)
	if err != nil || s.Kid != "feed-1" {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    *Bundle
		want bool
	}{
		"as signed":              {with(jwk), true},
		"under another name":     {with(changed("kid", "feed-2")), true},
		"switched off":           {with(changed("off", true), another1(another)), false},
		"off under another name": {with(jwk, func() any { m := changed("kid", "feed-2"); m["off"] = true; return m }()), false},
		"of another key":         {with(another), false},
	} {
		if got := c.b.StatusFor(s) != nil; got != c.want {
			t.Errorf("%s: believed %v", name, got)
		}
	}
	if load(t, "demo.json").StatusFor(nil) != nil {
		t.Error("nothing became something")
	}
	if _, err := load(t, "demo.json").OpenPhoneStatus(text); err == nil || err.(*BundleError).Code() != "phones.unconfigured" {
		t.Error(err)
	}
	if _, err := SignPhoneStatus([]byte(`{"format":1}`), "feed-1", key, rand.Reader); err == nil {
		t.Error("signed what can't be read")
	}
}

func another1(m map[string]any) map[string]any {
	return map[string]any{"kid": "feed-9", "jwk": m["jwk"]}
}
