package scenario

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	harness "sealkeeper/tests/appliance"
)

// ruled is an installation with an operator and three registered policy keys, of which two must sign.
type ruled struct {
	*appliance
	keys map[string]*ecdsa.PrivateKey
}

func installRuled(t *testing.T) *ruled {
	t.Helper()
	r := register(t, install(t))
	// The active bundle of the template is unsigned, which is no more enough.
	r.Write("policy.json", r.bundle(t, 2))
	if out := r.Command(2, "enrol", "--out", filepath.Join(r.Dir, "clients"), "operator-1"); !strings.Contains(out, "bundle.unsigned") {
		t.Errorf("an unsigned bundle after keys were registered: %s", out)
	}
	r.Write("policy.json", r.bundle(t, 2, "alice", "bob"))
	r.Command(0, "enrol", "--out", filepath.Join(r.Dir, "clients"), "operator-1")
	return r
}

// register gives an installation three policy keys, of which two must sign.
func register(t *testing.T, a *appliance) *ruled {
	t.Helper()
	r := &ruled{a, map[string]*ecdsa.PrivateKey{}}
	conf := string(read(t, r.appliance, "sealkeeper.yaml")) + "policy_signers:\n  threshold: 2\n  keys:\n"
	for _, id := range []string{"alice", "bob", "carol"} {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		r.Write(id+".pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
		r.Write(id+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})))
		conf += fmt.Sprintf("    - {kid: %s, file: %s.pub}\n", id, id)
		r.keys[id] = k
	}
	r.Write("sealkeeper.yaml", conf)
	return r
}

// bundle is the demonstration's with an operator, in a version, with pairs of old and new text replaced and then signed.
func (r *ruled) bundle(t testing.TB, version int, args ...string) string {
	t.Helper()
	data, err := os.ReadFile("../../deploy/policies/demo.json")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), `{"id": "auditor",`, `{"id": "operator-1", "role": "operator", "may": {}}, {"id": "auditor",`, 1)
	text = strings.Replace(text, `"version": 1`, fmt.Sprintf(`"version": %d`, version), 1)
	for len(args) > 0 && r.keys[args[0]] == nil {
		changed := strings.Replace(text, args[0], args[1], 1)
		if changed == text {
			t.Fatalf("%s is not in the bundle", args[0])
		}
		text, args = changed, args[2:]
	}
	out := []byte(text)
	for _, id := range args {
		if out, err = policy.Sign("b", out, id, r.keys[id], rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return string(out)
}

func (r *ruled) activate(t testing.TB, bundle string) (contract.Policy, error) {
	t.Helper()
	return r.As("operator-1").Activate(t.Context(), contract.PolicyRequest{Bundle: contract.File(bundle)})
}

// Without registered keys one operator's word would be the policy: it changes by the configuration and a restart, which takes the machine.
func TestNoKeysNoPolicyOverTheWire(t *testing.T) {
	t.Parallel()
	r := &ruled{install(t), nil}
	r.Write("policy.json", r.bundle(t, 2))
	r.Command(0, "enrol", "--out", filepath.Join(r.Dir, "clients"), "operator-1")
	r.start()
	if _, err := r.activate(t, r.bundle(t, 3)); client.Code(err) != "bundle.unsigned" {
		t.Errorf("an unsigned bundle was taken from one operator: %v", err)
	}
	if p, err := r.As("auditor").Policy(t.Context()); err != nil || p.Version != 2 {
		t.Errorf("%+v %v", p, err)
	}
}

func TestPolicyIsActivatedWithoutRestart(t *testing.T) {
	t.Parallel()
	r := installRuled(t)
	r.start()
	first, err := r.As("auditor").Policy(t.Context())
	if err != nil || first.Version != 2 || fmt.Sprint(first.Signers) != "[alice bob]" {
		t.Fatalf("%+v %v", first, err)
	}
	if _, err := r.As("auditor").Activate(t.Context(), contract.PolicyRequest{Bundle: contract.File("{}")}); client.Code(err) != "route.forbidden" {
		t.Errorf("an auditor: %v", err)
	}
	failing := []string{`"rules": [`, `"tests": [{"name": "x", "input": {"at": "2026-01-01T00:00:00Z", "client": "x", "operation": "lock", "type": "mdl"}, "expect": {"result": "allowed"}}], "rules": [`}
	for name, c := range map[string]struct{ bundle, code string }{
		"unsigned":         {r.bundle(t, 3), "bundle.unsigned"},
		"one signature":    {r.bundle(t, 3, "alice"), "bundle.under_signed"},
		"changed after":    {strings.Replace(r.bundle(t, 3, "alice", "bob"), `"version": 3`, `"version": 4`, 1), "bundle.signature"},
		"cut off":          {r.bundle(t, 3, "alice", "bob")[:5000], "bundle.malformed"},
		"older":            {r.bundle(t, 1, "alice", "bob"), "bundle.old"},
		"the same version": {r.bundle(t, 2, `"90d"`, `"89d"`, "alice", "bob"), "bundle.version_reused"},
		"its test fails":   {r.bundle(t, 3, append(failing, "alice", "bob")...), "bundle.test_failed"},
	} {
		if _, err := r.activate(t, c.bundle); client.Code(err) != c.code {
			t.Errorf("%s: %v, not %s", name, err, c.code)
		}
	}
	if s := fmt.Sprint(r.Operations().Conditions); !strings.Contains(s, "policy-refused") || !strings.Contains(s, "operator-1") || !strings.Contains(r.Metrics(), `sealkeeper_policy_activations_total{result="refused"} 7`) {
		t.Errorf("nobody is told of refused bundles: %s", s)
	}
	if again, err := r.activate(t, r.bundle(t, 2, "alice", "bob")); err != nil || again.Hash != first.Hash {
		t.Errorf("the active one again: %v", err)
	}
	if s := fmt.Sprint(r.Operations().Conditions); strings.Contains(s, "policy-refused") {
		t.Errorf("after the next bundle: %s", s)
	}
	if now, err := r.As("auditor").Policy(t.Context()); err != nil || now.Hash != first.Hash || now.Version != 2 {
		t.Errorf("after refusals %+v %v", now, err)
	}

	// Kill switches: the next request is refused.
	root := base64.StdEncoding.EncodeToString(harness.Provider.Anchor().Raw)
	request := r.Request(harness.NewPhone(t, 1), "900101-1000001")
	if _, err := r.activate(t, r.bundle(t, 3, `"rules": [`, `"wallet_providers": [{"id": "w", "certificate": "`+root+`", "off": true}], "rules": [`, "alice", "carol")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.As("ward-office-1").Issue(t.Context(), "", request); client.Code(err) != "evidence.attestation_untrusted" {
		t.Errorf("after its wallet provider's root was switched off: %v", err)
	}
	if _, err := r.activate(t, r.bundle(t, 4, `"id": "telecom-a"`, `"id": "telecom-b"`, "bob", "carol")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.As("telecom-a").WhoAmI(t.Context()); client.Code(err) != "client.unknown" {
		t.Errorf("a client that was switched off: %v", err)
	}
	r.Issue(harness.NewPhone(t, 1), "900101-1000002", false) // the root is on again, by a newer bundle

	// A restart keeps what was activated, whatever the older file of the configuration says.
	r.Stop()
	r.Start()
	if s := r.Operations(); s.PolicyVer != 4 || !strings.Contains(fmt.Sprint(s.Conditions), "policy-file") || strings.Contains(fmt.Sprint(s.Conditions), "policy-unsigned") {
		t.Errorf("after a restart version %d, %v", s.PolicyVer, s.Conditions)
	}
	r.Stop()
	r.Write("policy.json", r.bundle(t, 5, "alice", "bob"))
	r.Start()
	if s := r.Operations(); s.PolicyVer != 5 {
		t.Errorf("a newer file at start: version %d", s.PolicyVer)
	}
	r.Stop()
	r.Check()
}

// While bundles change under load every request is judged by one of them from its first check to its signature, none fails because of the
// change, and each answer names the bundle that its reservation was journalled with.
func TestPolicyChangesUnderLoad(t *testing.T) {
	t.Parallel()
	r := installRuled(t)
	r.start()
	hashes := map[string]uint64{}
	var mu sync.Mutex
	first, err := r.As("auditor").Policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hashes[first.Hash] = 2
	var answers []contract.IssueAnswer
	var stop atomic.Bool
	var load sync.WaitGroup
	for w := range 4 {
		load.Go(func() {
			for i := 0; !stop.Load(); i++ {
				request, err := r.TryRequest(harness.NewPhone(t, 1), fmt.Sprintf("9001%02d-%07d", w, i))
				if err != nil {
					t.Error(err)
					return
				}
				out, err := r.As("ward-office-1").Issue(t.Context(), "", request)
				if err != nil {
					t.Errorf("while the policy changed: %v", err)
					return
				}
				mu.Lock()
				answers = append(answers, out)
				mu.Unlock()
			}
		})
	}
	for v := 3; v < 13; v++ {
		p, err := r.activate(t, r.bundle(t, v, `"lifetime": "90d"`, fmt.Sprintf(`"lifetime": "%dd"`, 60+v), "alice", "bob"))
		if err != nil {
			t.Error(err)
			break
		}
		hashes[p.Hash] = p.Version
	}
	stop.Store(true)
	load.Wait()
	r.Stop()
	seen := map[string]bool{}
	for _, a := range answers {
		if hashes[a.Decision.Policy] != a.Decision.PolicyVersion {
			t.Errorf("an answer names version %d with the hash %s", a.Decision.PolicyVersion, a.Decision.Policy)
		}
		seen[a.Decision.Policy] = true
	}
	if len(seen) < 2 {
		t.Errorf("%d answers, all under one bundle: nothing was tried", len(answers))
	}
	journalled := r.policies(t)
	for _, a := range answers {
		if journalled[a.Issuance] != a.Decision.Policy {
			t.Errorf("reservation %s was journalled with %s and answered with %s", a.Issuance, journalled[a.Issuance], a.Decision.Policy)
		}
	}
	r.Check()
}

// policies are the bundles of all reservations, by the journal.
func (r *ruled) policies(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	store, err := ledger.OpenSQLite(t.Context(), filepath.Join(r.Dir, "data", "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for from := uint64(0); ; {
		leaves, err := store.Journal(t.Context(), from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, leaf := range leaves {
			var l ledger.Leaf
			if err := json.Unmarshal(leaf, &l); err != nil {
				t.Fatal(err)
			}
			if l.Kind == "reserve" {
				out[l.Reservation] = l.Policy
			}
		}
		if from += uint64(len(leaves)); len(leaves) == 0 {
			return out
		}
	}
}

// Killed at any point of an activation, there is the old bundle or the new one after the next start, never none.
func TestPolicyActivationSurvivesKills(t *testing.T) {
	t.Parallel()
	for point, want := range map[string]uint64{"ledger.policy.before-commit": 2, "ledger.policy.after-commit": 3} {
		r := installRuled(t)
		r.start("SEAL_CRASH=" + point)
		next := r.bundle(t, 3, "alice", "bob")
		if _, err := r.activate(t, next); err == nil {
			t.Errorf("%s: answered", point)
		}
		r.Wait()
		r.Start()
		if s := r.Operations(); s.PolicyVer != want {
			t.Errorf("%s: version %d, not %d", point, s.PolicyVer, want)
		}
		if p, err := r.activate(t, next); err != nil || p.Version != 3 {
			t.Errorf("%s: again: %v", point, err)
		}
		r.Stop()
		r.Check()
	}
}
