package scenario

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/programme"
)

// An integrator's first card by a method: keys and statements of test authorities, all made with sealctl.
func TestEvidenceByHand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, v any) string {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	algorithm := map[string]string{"register": "ES384", "telecom-a": "EdDSA"}
	a, by := installProgramme(t, func(b map[string]any) {
		for _, v := range b["authorities"].([]any) {
			v := v.(map[string]any)
			id := v["id"].(string)
			args := []string{"evidence", "key", "--out", filepath.Join(dir, id+".pem"), "--kid", id + "-hand"}
			if algorithm[id] != "" {
				args = append(args, "--algorithm", algorithm[id])
			}
			r := execute(t, harness.Sealctl, "", args...)
			var key any
			if err := json.Unmarshal([]byte(r.out), &key); err != nil || r.code != 0 {
				t.Fatalf("%s: %d %s %v", id, r.code, r.err, err)
			}
			v["keys"] = []any{key}
		}
	})
	if i, err := os.Stat(filepath.Join(dir, "register.pem")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", i.Mode(), err)
	}

	c := a.Open(by, "ward-office-1", "office_qr", newPhone(t, 1), "by-hand-1")
	session, claims := file("session.json", c.Session), file("claims.json", c.Request.Claims)
	make := func(kind string, more ...string) []string {
		id := programme.Authority(c.Client, kind)
		return append([]string{"evidence", "make", "--kind", kind, "--issuer", id, "--kid", id + "-hand", "--key", filepath.Join(dir, id+".pem"), "--session", session}, more...)
	}
	for kind, body := range map[string]string{
		evidence.KindInPerson:      `{"officer":"officer-3","office":"desk-1","district":"1111051500","method":"qr","card_seen":true}`,
		evidence.KindRegistryMatch: `{"district":"1111051500","epoch":1,"card_status":"valid","card_expiry":"2036-01-14"}`,
		evidence.KindFaceMatch:     `{"level":"high","liveness":2,"algorithm":"matcher-1","reference":"card_photo"}`,
		evidence.KindLineOwnership: `{"line":"line-1","subscriber":"self","line_kind":"personal"}`,
	} {
		args := make(kind)
		if kind == evidence.KindRegistryMatch {
			args = append(args, "--claims", claims)
		}
		r := execute(t, harness.Sealctl, body, args...)
		if r.code != 0 {
			t.Fatalf("%s: %d %s", kind, r.code, r.err)
		}
		c.Request.Evidence = append(c.Request.Evidence, contract.EvidenceItem{Kind: kind, Token: strings.TrimSpace(r.out)})
	}
	if _, err := a.ask(c); err != nil {
		t.Errorf("with statements made by hand: %v", err)
	}
	a.Stop()
	a.Check()

	for name, f := range map[string]struct {
		args  []string
		stdin string
		code  int
		want  string
	}{
		"which":                {[]string{"evidence"}, "", 2, "evidence key"},
		"key over another":     {[]string{"evidence", "key", "--out", filepath.Join(dir, "register.pem")}, "", 1, "exists"},
		"key without a file":   {[]string{"evidence", "key"}, "", 2, "out"},
		"key of RSA":           {[]string{"evidence", "key", "--out", filepath.Join(dir, "x.pem"), "--algorithm", "RS256"}, "", 2, "none of ES256"},
		"kind of nothing":      {append(make(evidence.KindFaceMatch)[:3], "blood_test", "--issuer", "register", "--key", filepath.Join(dir, "register.pem"), "--session", session), "{}", 2, "no kind of statement"},
		"member of nothing":    {make(evidence.KindFaceMatch), `{"level":"high","score":1}`, 1, "unknown"},
		"no JSON":              {make(evidence.KindFaceMatch), `level`, 1, "decoding"},
		"claims of a face":     {make(evidence.KindFaceMatch, "--claims", claims), `{}`, 2, "registry_match alone"},
		"for ever":             {make(evidence.KindFaceMatch, "--valid", "25h"), `{}`, 2, "1s to 24h"},
		"no key":               {slices.Replace(make(evidence.KindFaceMatch), 9, 10, filepath.Join(dir, "session.json")), `{}`, 1, "private key"},
		"an authority unasked": {slices.Replace(make(evidence.KindFaceMatch), 5, 6, "telecom-z"), `{}`, 1, "pseudonym"},
	} {
		r := execute(t, harness.Sealctl, f.stdin, f.args...)
		if r.code != f.code || !strings.Contains(r.err, f.want) || r.out != "" {
			t.Errorf("%s: %d %q %q, want %d %q", name, r.code, r.out, r.err, f.code, f.want)
		}
	}
	for _, help := range [][]string{{"evidence", "key", "--help"}, {"evidence", "make", "--help"}} {
		if r := execute(t, harness.Sealctl, "", help...); r.code != 0 || !strings.Contains(r.out, "Examples:") {
			t.Errorf("%v: %d %s", help, r.code, r.out)
		}
	}
}
