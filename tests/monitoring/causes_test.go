package monitoring

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/policy"
	"sealkeeper/softhsm"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
)

// signingKey is a key and its public half, in both forms that configuration and bundles take.
func signingKey(t *testing.T) (key *ecdsa.PrivateKey, publicPEM string, jwk map[string]any) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// rulesOfTheDay: what goes wrong with phones' status, carriers' events and the policy itself, on the resident card's real bundle.
func rulesOfTheDay(t *testing.T, were *seen) {
	ctx := t.Context()
	feed, _, feedJWK := signingKey(t)
	signer, signerPEM, _ := signingKey(t)
	android, err := phone.NewAndroid(time.Now(), phone.AndroidBend{})
	if err != nil {
		t.Fatal(err)
	}
	root := android.Root()
	var bundle map[string]any
	_, by, err := programme.Load("../../deploy/policies/kr-resident.json", func(b map[string]any) {
		b["phones"] = map[string]any{
			"status": map[string]any{"max_age": "1h", "keys": []any{map[string]any{"kid": "feed-1", "jwk": feedJWK}}},
			"android": map[string]any{"roots": []any{hex.EncodeToString(root[:])}, "patch_age": "400d", "auth": map[string]any{"types": []any{"biometric"}},
				"apps": []any{map[string]any{"package": "org.example.wallet", "signers": []any{strings.Repeat("ab", 32)}}}}}
		for _, v := range b["authorities"].([]any) {
			if v := v.(map[string]any); v["id"] == "telecom-a" {
				v["flood"] = 1
			}
		}
		for _, v := range b["budgets"].([]any) {
			if v := v.(map[string]any); v["id"] == "per-client" {
				v["hour"] = 4
			}
		}
		bundle = b
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := func() string {
		return string(must(policy.Sign("policy.json", must(json.Marshal(bundle)), "alice", signer, rand.Reader)))
	}
	in := install(t, setup{bundle: []byte(signed()), clients: "portal telecom-a card-system operator-1", config: "policy_signers: {keys: [{kid: alice, file: alice.pub}]}\n",
		prepared: func(in *installation) { in.write("alice.pub", signerPEM, 0o644) }})
	in.must("systemctl start sealkeeperd")
	w := were.watch(t, in)

	// Nobody fed what is revoked of phones; then somebody does, late.
	fed := func(asOf time.Time) {
		t.Helper()
		status := must(json.Marshal(map[string]any{"format": 1, "as_of": asOf.UTC(), "android": map[string]any{"entries": map[string]any{}}}))
		if _, err := in.as("operator-1").FeedPhones(ctx, contract.PhoneStatusRequest{Status: contract.File(must(policy.SignPhoneStatus(status, "feed-1", feed, rand.Reader)))}); err != nil {
			t.Fatal(err)
		}
	}
	w.fires("PhoneStatus critical")
	fed(time.Now().Add(-50 * time.Minute))
	w.fires("PhoneStatus warning")
	fed(time.Now())
	w.quiet()

	// Four people get cards: the client's budget of this hour is used up. A bundle with a higher one is the officers' answer.
	var people []*programme.Case
	card := func(i int) (*programme.Case, error) {
		p, err := phone.New(1)
		if err != nil {
			return nil, err
		}
		s, err := in.as("ward-office-1").Session(ctx, contract.SessionRequest{DocumentType: kr, Subject: fmt.Sprintf("900101-10000%02d", i), KeyThumbprint: p.Thumbprint(0), Authorities: by.IDs()})
		if err != nil {
			return nil, err
		}
		c := programme.New("ward-office-1", "ic_chip", s, p, in.provider, person())
		for _, kind := range programme.Asked("ic_chip") {
			c.Request.Evidence = append(c.Request.Evidence, must(by.Say(c, must(c.Good(kind, programme.Jongno)), nil)))
		}
		_, err = in.as("ward-office-1").Issue(ctx, client.NewKey(), c.Request)
		return c, err
	}
	programme.Left(time.Hour, 2*time.Minute)
	for i := range 4 {
		c, err := card(i)
		if err != nil {
			t.Fatal(err)
		}
		people = append(people, c)
	}
	version := int(bundle["version"].(float64))
	activate := func(text string) error {
		_, err := in.as("operator-1").Activate(ctx, contract.PolicyRequest{Bundle: contract.File(text)})
		return err
	}
	next := func() {
		t.Helper()
		version++
		bundle["version"] = version
		if err := activate(signed()); err != nil {
			t.Fatal(err)
		}
	}
	w.fires("BudgetFilling")
	old := signed()
	for _, v := range bundle["budgets"].([]any) {
		if v := v.(map[string]any); v["id"] == "per-client" {
			v["hour"] = 50_000
		}
	}
	next()
	w.quiet()

	// The bundle of before is offered again.
	if err := activate(old); client.Code(err) == "" {
		t.Fatalf("an old bundle: %v", err)
	}
	w.fires("PolicyRefused")
	w.quiet()

	// A carrier reports more lost lines than is usual for it; asked, it says that this was a mistake.
	programme.Left(time.Hour, 2*time.Minute)
	for _, c := range people {
		e := must(by.Event(c.Line(), 1, evidence.LineLost, time.Now()))
		if _, err := in.as("telecom-a").Event(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	w.fires("CarrierFlood")
	in.must(`for hour in $(date -u -d '-1 hour' +%Y-%m-%dT%H:00:00Z) $(date -u +%Y-%m-%dT%H:00:00Z); do sealctl floods undo telecom-a $hour --identity clients/operator-1 || true; done`)
	w.quiet()

	// The carrier's report comes through somebody else, who may not say that; then it comes from the carrier.
	e := must(by.Event(people[0].Line(), 2, evidence.LineFound, time.Now()))
	if _, err := in.as("card-system").Event(ctx, e); client.Code(err) != "reason.forbidden" {
		t.Fatalf("an event through another: %v", err)
	}
	w.fires("DeadEvents")
	if _, err := in.as("telecom-a").Event(ctx, e); err != nil {
		t.Fatal(err)
	}
	w.quiet()

	// Somebody changes a rule into one that can't be evaluated: nothing is decided, so nothing is issued.
	rule := bundle["rules"].([]any)[0].(map[string]any)
	good := rule["cedar"]
	rule["cedar"] = strings.Replace(good.(string), "when {", "when { context.copies + 9223372036854775807 > 0 &&", 1)
	next()
	end := during(1, func(n int) { _, _ = card(10 + n); time.Sleep(100 * time.Millisecond) })
	w.fires("IssuingFails")
	end()
	rule["cedar"] = good
	next()
	w.quiet()
	if _, err := card(99); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// token: what goes wrong with the module and the token behind it.
func token(t *testing.T, were *seen) {
	in := install(t, setup{})
	s := newShim(t, in, "deadline: 5s")
	s.set("C_Sign of=sign fault=flip")
	in.must("systemctl start sealkeeperd")
	w := were.watch(t, in)

	// A token that signs wrongly from the start: the self test tells. It is repeated half a minute later.
	w.fires("SelftestFailed", "BadSignature")
	s.set()
	w.quiet()
	if err := in.issue("900101-1000001"); err != nil {
		t.Fatal(err)
	}

	// It signs correctly, and slowly.
	s.set("C_Sign of=sign fault=slow ms=1500")
	end := during(1, func(int) {
		_ = in.lock("900101-1000001")
		_, _ = in.as("loss-desk").Unlock(context.Background(), contract.ChangeRequest{DocumentType: kr, Subject: "900101-1000001", Reason: "self_lost"})
	})
	w.fires("LockSlow")
	end()
	s.set()
	w.quiet()

	// A worker dies and its successor can't log in again, while the other one goes on.
	s.set("C_OpenSession fault=error rv=0x30")
	in.must(`pkill -KILL -o -P "$(cat "$RUN/pid")"`)
	w.fires("HSMDegraded")
	s.set()
	w.quiet()
}

// officers: what they stop, and what they did not sign.
func officers(t *testing.T, were *seen) {
	bundle := strings.Replace(string(must(os.ReadFile("../../deploy/policies/demo.json"))), `{"id": "auditor",`, `{"id": "officers", "role": "officer", "may": {}}, {"id": "auditor",`, 1)
	in := install(t, setup{bundle: []byte(bundle), clients: "officers", init: "--officers officers.json", prepared: func(in *installation) {
		in.write("passphrase", "four words are enough", 0o600)
		var all []map[string]string
		for _, id := range []string{"kim", "lee", "park"} {
			var key struct{ Key string }
			if err := json.Unmarshal([]byte(in.must("sealctl officer key --json --officer "+id+" --out "+id+".key --passphrase-file passphrase")), &key); err != nil {
				t.Fatal(err)
			}
			all = append(all, map[string]string{"id": id, "name": id, "role": "officer", "key": key.Key})
		}
		in.write("officers.json", string(must(json.Marshal(map[string]any{"officers": all}))), 0o600)
	}})
	in.must("systemctl start sealkeeperd")
	w := were.watch(t, in)
	signs := func(id, what string) (contract.Proposal, error) {
		t.Helper()
		out, err := in.sh("sealctl " + what + " --json --yes --identity clients/officers --officer " + id + " --key " + id + ".key --passphrase-file passphrase 2>said || { r=$?; cat said; exit $r; }")
		var p contract.Proposal
		if err == nil {
			err = json.Unmarshal([]byte(out), &p)
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return p, err
	}

	// One of them stops issuing, two resume it.
	p, err := signs("lee", "propose issuing.stop reason='wrong photographs'")
	if err != nil {
		t.Fatal(err)
	}
	in.must("sealctl execute --identity clients/officers " + p.ID)
	w.fires("IssuingStopped")
	if p, err = signs("kim", "propose issuing.resume reason=repaired"); err != nil {
		t.Fatal(err)
	}

	// Meanwhile somebody approves twice.
	if _, err := signs("kim", "approve "+p.ID); err == nil || !strings.Contains(err.Error(), "officer.duplicate") {
		t.Fatalf("a second approval: %v", err)
	}
	w.fires("OfficersRefused")
	if _, err := signs("park", "approve "+p.ID); err != nil {
		t.Fatal(err)
	}
	in.must("sealctl execute --identity clients/officers " + p.ID)
	w.quiet()

	// Two of them plan a key whose use ends within the month; then its successor.
	successor := func(id, succeeds string, use time.Duration, more string) {
		t.Helper()
		now := time.Now().UTC()
		at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
		p, err := signs("kim", fmt.Sprintf("propose key.generate key=%s purpose=mdoc token=online algorithm=ES256 'name=Test %s' succeeds=%s announce=%s activate=%s use_until=%s certificate_until=%s reason=rotation%s",
			id, id, succeeds, at(0), at(15*time.Second), at(use), at(use+95*24*time.Hour), more))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signs("lee", "approve "+p.ID); err != nil {
			t.Fatal(err)
		}
		in.must("sealctl execute --identity clients/officers " + p.ID)
	}
	successor("ds-2", "ds-1", 20*24*time.Hour, " uses:=20")
	w.fires("KeyUseEnding info")
	for i := range 16 { // four fifths of what it may sign
		if err := in.issue(fmt.Sprintf("900101-10000%02d", i)); err != nil {
			t.Fatal(err)
		}
	}
	w.fires("KeyLimitNear")
	successor("ds-3", "ds-2", 300*24*time.Hour, "")
	w.quiet()

	// A client does not renew its certificate; then two of them revoke it.
	in.must(`systemctl stop sealkeeperd; sealkeeperd enrol --config "$SEALKEEPER_CONFIG" --out clients --life 30s telecom-a; systemctl start sealkeeperd`)
	w.fires("ClientExpiring critical")
	if p, err = signs("kim", `propose client.revoke 'clients:=["telecom-a"]' reason=gone`); err != nil {
		t.Fatal(err)
	}
	if _, err := signs("lee", "approve "+p.ID); err != nil {
		t.Fatal(err)
	}
	in.must("sealctl execute --identity clients/officers " + p.ID)
	w.quiet()

	// Somebody has the PIN, and makes a key on the online token without the appliance; the alert ends when it is off the token.
	key, err := x509.MarshalPKCS8PrivateKey(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	if err != nil {
		t.Fatal(err)
	}
	in.write("stranger.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), 0o600)
	objects := func() []string { return must(filepath.Glob(in.path("data/tokens/online/tokens/*/*.object"))) }
	in.must("systemctl stop sealkeeperd")
	before := objects()
	in.must(`SOFTHSM2_CONF="$SEALKEEPER_DATA/tokens/online/softhsm2.conf" softhsm2-util --import stranger.pem --token sealkeeper-online --label stranger --id 5a5a --pin "$(cat "$SEALKEEPER_DATA/pins/online")"`)
	strange := slices.DeleteFunc(objects(), func(o string) bool { return slices.Contains(before, o) })
	in.must("systemctl start sealkeeperd")
	w.fires("OrphanKey")
	if out := in.must("sealctl keys"); !strings.Contains(out, "5a5a") {
		t.Errorf("sealctl keys does not name it: %s", out)
	}
	in.must("systemctl stop sealkeeperd")
	for _, o := range strange { // a key's private and public half
		for _, name := range []string{o, strings.TrimSuffix(o, "object") + "lock"} {
			if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	in.must("systemctl start sealkeeperd")
	w.quiet()
}

// root: a new CRL is due, and the root's token is not there.
func root(t *testing.T, were *seen) {
	in := install(t, setup{config: "lists: {crl_life: 1h}\n"})
	in.must(`sed -i 's/crl_life: 1h/crl_life: 2160h/' sealkeeper.yaml; mv "$SEALKEEPER_DATA/tokens/iaca" iaca-away`)
	in.must("systemctl start sealkeeperd")
	w := were.watch(t, in)
	w.fires("CRLExpiring critical")
	in.must(`curl -s "$PUBLIC_URL/crl/iaca.crl" | openssl crl -inform DER -noout -nextupdate`) // the old one is good until then
	in.must(`mv iaca-away "$SEALKEEPER_DATA/tokens/iaca"; systemctl restart sealkeeperd`)
	w.quiet()
}

// timeAndDisk: what goes wrong with the machine.
func timeAndDisk(t *testing.T, were *seen) {
	const size = 256
	disk := false
	in := install(t, setup{config: "lists: {entries: 131072, life: 10s, ttl: 1s}\nlimits: {disk_reserve_mib: 1}\n", clients: "ministry", prepared: func(in *installation) {
		if err := os.Mkdir(in.path("data"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := in.mount("data", size)
		if disk = err == nil; !disk {
			t.Logf("a small disk can't be mounted here: %v", err)
		}
	}})
	in.must("systemctl start sealkeeperd")
	w := were.watch(t, in)
	if err := in.issue("900101-1000001"); err != nil {
		t.Fatal(err)
	}
	w.quiet()

	// The disk fills up, and is full.
	if disk {
		fill := func(left int) {
			in.must(fmt.Sprintf(`fallocate -l $(( ($(df --output=avail -k "$SEALKEEPER_DATA" | tail -n 1) - %d) * 1024 )) "$SEALKEEPER_DATA/ballast-%d"`, left, left))
		}
		fill(size << 10 * 6 / 100)
		w.fires("DiskFilling warning")
		fill(size << 10 * 2 / 100)
		w.fires("DiskFilling critical")
		in.must(`rm "$SEALKEEPER_DATA"/ballast-*`)
		w.quiet()
	} else {
		were.add("DiskFilling")
	}

	// Every sync takes 0.4 s; then one takes as long as an order may be late.
	order := contract.ScheduleRequest{DocumentType: kr, Subject: "900101-1000001", Schedule: "order-1", Operation: "lock", Reason: "admin_hold", From: time.Now().Add(8 * time.Second).Truncate(time.Second)}
	if _, err := in.as("ministry").Schedule(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	if faster := slowed(t, in, 400*time.Millisecond); faster != nil {
		w.fires("LedgerSlow")
		faster()
		w.quiet()
		// However early strace is there, the sync of what the order does comes after its time, and takes a minute.
		order.Schedule, order.From = "order-2", time.Now().Add(12*time.Second).Truncate(time.Second)
		if _, err := in.as("ministry").Schedule(t.Context(), order); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(order.From) - 8*time.Second)
		faster = slowed(t, in, time.Minute)
		w.fires("ScheduleLate")
		faster()
		w.quiet("LockNotPublished", "LockSlow", "LedgerSlow", "ListAgeing", "ListExpired")
		w.quiet()
	} else {
		were.add("LedgerSlow")
		were.add("ScheduleLate")
	}

	// Nobody checks the ledger for long; then somebody does.
	in.must(`sqlite3 "$SEALKEEPER_DATA/ledger.db" ".backup copy.db"; sealctl fsck --ledger copy.db --textfile "$SEALKEEPER_TEXTFILES/fsck.prom"`)
	in.must(`sed -i "s/^\(sealkeeper_fsck_timestamp_seconds\) .*/\1 $(( $(date +%s) - 37 * 3600 ))/" "$SEALKEEPER_TEXTFILES/fsck.prom"`) // as it will stand there
	w.fires("FsckStale")
	in.must(`sqlite3 "$SEALKEEPER_DATA/ledger.db" ".backup copy.db"; sealctl fsck --ledger copy.db --textfile "$SEALKEEPER_TEXTFILES/fsck.prom"`)
	w.quiet()

	// The machine was off for longer than a list lives.
	in.must("systemctl stop sealkeeperd")
	time.Sleep(11 * time.Second)
	in.must("systemctl start sealkeeperd")
	w.fires("ClockUntrusted")
	in.must(`systemctl stop sealkeeperd; sealkeeperd accept clock --config "$SEALKEEPER_CONFIG"; systemctl start sealkeeperd`)
	w.quiet()
}

// slowed makes every sync of the daemon take longer, until it is called off; nil where strace may not attach to the daemon.
func slowed(t *testing.T, in *installation, by time.Duration) (off func()) {
	t.Helper()
	says := must(os.Create(filepath.Join(t.TempDir(), "strace")))
	c := exec.Command("strace", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", by.Microseconds()), "-p", strings.TrimSpace(in.must(`cat "$RUN/pid"`)))
	c.Stderr = says
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	off = func() {
		// strace lets go when the call that it holds up is over, and the kernel at once.
		_ = c.Process.Kill()
		_ = c.Wait()
		says.Close()
	}
	t.Cleanup(off)
	forbidden := false
	in.eventually("strace attaches", func() (string, bool) {
		b, err := os.ReadFile(says.Name())
		forbidden = strings.Contains(string(b), "not permitted")
		return string(b), err == nil && (forbidden || strings.Contains(string(b), "attached"))
	})
	if forbidden {
		t.Log("strace may not attach here")
		return nil
	}
	return off
}

// shim is the module with faults, between an installation's workers and SoftHSM (tests/faults/p11shim).
type shim struct {
	t          *testing.T
	control    *os.File
	module     string
	generation int
}

func newShim(t *testing.T, in *installation, hsm string) *shim {
	t.Helper()
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(in.path("shim"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-I"+strings.TrimSpace(string(headers)), "-o", in.path("shim/p11shim.so"),
		"../faults/p11shim/p11shim.c", "-ldl", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := &shim{t: t, control: must(os.Create(in.path("shim/control")))}
	t.Cleanup(func() { s.control.Close() })
	if s.module, err = softhsm.FindModule(""); err != nil {
		t.Fatal(err)
	}
	s.set()
	// Its counters are where the sandbox lets a worker write: beside the token.
	in.must(`: >shim/counters; for token in online iaca; do ln shim/counters "$SEALKEEPER_DATA/tokens/$token/counters"; done`)
	in.must(fmt.Sprintf(`echo 'hsm: {module: "%s", %s}' >>sealkeeper.yaml`, in.path("shim/p11shim.so"), hsm))
	return s
}

// set makes these the faults from now on; none: the module is well.
func (s *shim) set(rules ...string) {
	s.t.Helper()
	s.generation++
	text := fmt.Sprintf("generation %d\nmodule %s\n%s\nend %d\n", s.generation, s.module, strings.Join(rules, "\n"), s.generation)
	if _, err := s.control.WriteAt([]byte(text+strings.Repeat("#", max(0, 2048-len(text)))), 0); err != nil {
		s.t.Fatal(err)
	}
}
