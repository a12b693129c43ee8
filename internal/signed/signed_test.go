package signed

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/internal/strict"
)

var limits = strict.Limits{Bytes: 64 << 10, Depth: 8}

const payload = "{\n  \"b\": [1.0, \"é\"],\n  \"a\": {\"z\": true, \"y\": null}\n}"

func signers(t testing.TB) (all []crypto.Signer, keys []Key) {
	t.Helper()
	a, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, c, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all = []crypto.Signer{a, b, c}
	for i, s := range all {
		keys = append(keys, Key{ID: string(rune('a' + i)), Public: s.Public()})
	}
	return all, keys
}

func sealed(t testing.TB, data string, kind string, all []crypto.Signer, ids ...string) []byte {
	t.Helper()
	out := []byte(data)
	for _, id := range ids {
		var err error
		if out, err = Sign(out, limits, kind, id, all[id[0]-'a'], rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func by(t testing.TB, data []byte, kind string, keys []Key) (string, error) {
	t.Helper()
	e, err := Parse(data, limits)
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	ids, err := e.By(kind, keys)
	return strings.Join(ids, " "), err
}

func TestEveryAlgorithmSigns(t *testing.T) {
	all, keys := signers(t)
	data := sealed(t, payload, "k", all, "c", "a", "b", "a")
	if ids, err := by(t, data, "k", keys); err != nil || ids != "a b c" {
		t.Errorf("%q %v", ids, err)
	}
	if !bytes.Contains(data, []byte(payload)) {
		t.Errorf("the payload was written anew: %s", data)
	}
	// What is signed is what it says, not how it is laid out.
	e, err := Parse(data, limits)
	if err != nil {
		t.Fatal(err)
	}
	e.Payload = []byte(`{"a":{"y":null,"z":true},"b":[1,"\u00e9"]}`)
	if ids, err := e.By("k", keys); err != nil || len(ids) != 3 {
		t.Errorf("in other words: %v %v", ids, err)
	}
}

func TestASignatureIsForItsPayloadAndKind(t *testing.T) {
	all, keys := signers(t)
	data := sealed(t, payload, "k", all, "a", "b", "c")
	var wrong *Error
	for name, c := range map[string]struct {
		kind     string
		old, new string
	}{
		"another kind":      {"l", "", ""},
		"kind runs over":    {"k\x00{", "", ""},
		"another value":     {"k", "1.0", "2.0"},
		"another member":    {"k", `"z"`, `"x"`},
		"one member more":   {"k", `"y": null`, `"y": null, "x": 1`},
		"another signature": {"k", `"kid": "a"`, `"kid": "d"`}, // a's own, under a name that is b's key
	} {
		keys := keys
		if name == "another signature" {
			keys = append([]Key{{ID: "d", Public: keys[1].Public}}, keys...)
		}
		if ids, err := by(t, bytes.Replace(data, []byte(c.old), []byte(c.new), 1), c.kind, keys); !errors.As(err, &wrong) {
			t.Errorf("%s: %q %v", name, ids, err)
		}
	}
}

// Two names of one key are one signer, and a stranger is none.
func TestSignersAreCountedByTheirKeys(t *testing.T) {
	all, keys := signers(t)
	two := []crypto.Signer{all[0], all[0], all[2]}
	data := sealed(t, payload, "k", two, "a", "b", "c")
	if ids, err := by(t, data, "k", []Key{keys[0], {ID: "b", Public: keys[0].Public}}); err != nil || ids != "a" {
		t.Errorf("%q %v", ids, err)
	}
}

func TestEnvelopesAreReadStrictly(t *testing.T) {
	all, _ := signers(t)
	good := string(sealed(t, payload, "k", all, "a", "b"))
	tail := `"signatures": [`
	for name, c := range map[string]struct{ old, new string }{
		"not JSON":          {`{`, `{{`},
		"unknown member":    {tail, `"x": 1, ` + tail},
		"payload twice":     {tail, `"payload": {}, ` + tail},
		"in the signature":  {`"kid": "a"`, `"kid": "a", "alg": "none"`},
		"kid twice":         {`"kid": "b"`, `"kid": "a"`},
		"no kid":            {`"kid": "a"`, `"kid": ""`},
		"no such kid":       {`"kid": "a"`, `"kid": "a b"`},
		"padded":            {`"sig": "`, `"sig": "====`},
		"empty sig":         {`"sig": "`, `"sig": "", "x": "`},
		"member twice":      {`"y": null`, `"z": null`},
		"something behind":  {"]\n}\n", "]\n}\n{}"},
		"no payload":        {`"payload": ` + payload + `,`, ``},
		"payload no object": {payload, `[1]`},
		"too deep":          {`null`, `[[[[[[[[1]]]]]]]]`},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Errorf("%s: nothing was changed", name)
		}
		if e, err := Parse([]byte(text), limits); err == nil {
			t.Errorf("%s: taken as %s", name, e.Payload)
		}
	}
	many := []byte(payload)
	for i := range MaxSignatures + 1 {
		var err error
		if many, err = Sign(many, limits, "k", string(rune('A'+i%26))+string(rune('a'+i/26)), all[2], rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Parse(many, limits); err == nil {
		t.Error("too many signatures")
	}
	for _, s := range []string{"{}", `{"signatures": [], "payload": {}}`, `{"payload": {}, "signatures": []}`} {
		if _, err := Parse([]byte(s), limits); err == nil {
			t.Errorf("%s was taken", s)
		}
	}
}

// The canonical form is the library's, made in less room, whether that has to grow or not. What has none has none.
func TestCanonical(t *testing.T) {
	for _, s := range []string{payload, ` {"b": [1.0, 1e21, 1e20, -0, "\u0041\u2028"], "a": {"d": null, "c": true}} `, `"a"`, "7", "[]", "[" + strings.Repeat("1e20,", 999) + "0]", strings.Repeat(`{"b":1,"a":`, 50) + "0" + strings.Repeat("}", 50),
		"", " ", "{", `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, "{} {}", `{"a":1}x`, "\"\xff\"", `"\ud800"`, "01"} {
		want := jsontext.Value(s)
		wrong := want.Canonicalize()
		got, err := Canonical([]byte(s))
		if (err == nil) != (wrong == nil) || err == nil && string(got) != string(want) || err != nil && (got != nil || err.Error() != wrong.Error()) {
			t.Errorf("%.80s: %q, %v; want %q, %v", s, got, err, want, wrong)
		}
	}
}

func FuzzParse(f *testing.F) {
	all, keys := signers(f)
	seeds := fuzzing.Strings(payload, string(sealed(f, payload, "k", all, "a")), string(sealed(f, payload, "k", all, "a", "b", "c")))
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, data []byte) bool {
		e, err := Parse(data, limits)
		if err != nil {
			return false
		}
		if !Is(data) {
			t.Error("an envelope that does not look like one")
		}
		ids, err := e.By("k", keys[:1])
		if err == nil && len(ids) == 1 {
			want, err1 := Canonical([]byte(payload))
			got, err2 := Canonical(e.Payload)
			if err1 != nil || err2 != nil || !bytes.Equal(want, got) {
				t.Errorf("a signature holds for %s", got)
			}
		}
		return true
	})
}
