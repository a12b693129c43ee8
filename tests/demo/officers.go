package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"crypto/rand"
	"crypto/x509"

	"sealkeeper/contract"
	"sealkeeper/softhsm"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// governed is the story of the officers: three people with tokens of their own make an installation in a ceremony and govern it, while cards
// are issued without a pause.
type governed struct {
	story
	module  string
	keys    map[string]string // of officers, as registries take them
	root    *x509.Certificate
	load    *load
	phones  []*holder
	summary []string
}

// holder is somebody with a card.
type holder struct {
	subject string
	phone   *phone.Phone
	holds   refs
}

// officersStory tells it.
func officersStory() error {
	began := time.Now()
	g := &governed{story: story{bin: env("DEMO_BIN", "bin"), work: env("DEMO_WORK", ".demo/work") + "-officers", clients: map[string]*http.Client{}}, keys: map[string]string{}}
	var err error
	if g.bin, err = filepath.Abs(g.bin); err != nil {
		return err
	}
	if g.work, err = filepath.Abs(g.work); err != nil {
		return err
	}
	g.out = filepath.Join(g.work, "out")
	if err := os.RemoveAll(g.work); err != nil {
		return err
	}
	for _, d := range []string{"keep", "phrases", "shares"} {
		if err := os.MkdirAll(g.path(d), 0o700); err != nil {
			return err
		}
	}
	defer g.stop()
	defer func() { g.load.stop() }()
	for _, chapter := range []func() error{g.tokens, g.ceremony, g.opens, g.rotates, g.replaces, g.stops, g.drills, g.restores, g.ends} {
		if err := chapter(); err != nil {
			return fmt.Errorf("%s: %w", g.chapter, err)
		}
	}
	fmt.Printf("\nThe officers' story took %.1f s: %s.\n", time.Since(began).Seconds(), strings.Join(g.summary, "; "))
	return nil
}

func (g *governed) path(name string) string { return filepath.Join(g.work, name) }

func (g *governed) done(format string, args ...any) {
	g.summary = append(g.summary, fmt.Sprintf(format, args...))
}

// run runs a program where the installation is; of is whose token it may see.
func (g *governed) run(of string, want int, name string, args ...string) (stdout, stderr string, _ error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(g.bin, name), args...)
	c.Dir = g.work
	c.Env = append(os.Environ(), "SEALCTL_URL="+g.issuance, "SEALCTL_OPERATIONS="+g.operations, "SEALCTL_IDENTITY="+g.path("clients/officers"))
	if of != "" { // each officer's token is on a machine of their own
		c.Env = append(c.Env, softhsm.Env(g.path(of))...)
	}
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got, err = exit.ExitCode(), nil
	}
	if err == nil && got != want {
		err = fmt.Errorf("%s %s ended with %d, and not %d:\n%s%s", name, strings.Join(args, " "), got, want, out.String(), errs.String())
	}
	return out.String(), errs.String(), err
}

// key is how an officer names their key.
func (g *governed) key(id string) []string {
	return []string{"--officer", id, "--module", g.module, "--token", id, "--pin-file", g.path("pin-" + id)}
}

// daemon shows and runs a command of the daemon's program, and shows those of its lines that are wanted (all: "").
func (g *governed) daemon(want int, show func(string) bool, args ...string) (string, error) {
	g.say("$ sealkeeperd %s", strings.ReplaceAll(strings.Join(args, " "), g.work+"/", ""))
	out, errs, err := g.run("", want, "sealkeeperd", append(args, "--config", "sealkeeper.yaml")...)
	for _, line := range strings.Split(strings.TrimRight(out+errs, "\n"), "\n") {
		if line = strings.ReplaceAll(line, g.work+"/", ""); show(line) && strings.TrimSpace(line) != "" {
			g.say("    %s", line)
		}
	}
	return out + errs, err
}

func all(string) bool  { return true }
func none(string) bool { return false }

// officer has one of them run sealctl with their own key. What is not to be understood from the command line is left out of what is shown.
func (g *governed) officer(want int, id string, into any, args ...string) (string, error) {
	shown := slices.Clone(args)
	for i, a := range shown {
		shown[i] = strings.ReplaceAll(a, g.work+"/", "")
		if len(a) == 64 && !strings.ContainsAny(a, "/=") {
			shown[i] = a[:12]
		}
	}
	g.say("$ sealctl %s --officer %s", strings.Join(shown, " "), id)
	out, errs, err := g.run(id, want, "sealctl", append(append(args, "--yes", "--json"), g.key(id)...)...)
	if err == nil && into != nil {
		err = json.Unmarshal([]byte(out), into)
	}
	return out + errs, err
}

// together has officers propose and approve, and the appliance carry it out.
func (g *governed) together(ids []string, action string, parameters ...string) error {
	var p contract.Proposal
	if _, err := g.officer(0, ids[0], &p, append([]string{"propose", action}, parameters...)...); err != nil {
		return err
	}
	for _, line := range p.Text[1:min(3, len(p.Text))] {
		g.say("    │ %s", line)
	}
	for _, id := range ids[1:] {
		if _, err := g.officer(0, id, &p, "approve", p.ID); err != nil {
			return err
		}
	}
	return g.execute(0, p.ID, "")
}

// execute has a proposal carried out; code is why not, if it is to be refused.
func (g *governed) execute(want int, id, code string) error {
	g.say("$ sealctl execute %.12s", id)
	out, errs, err := g.run("", want, "sealctl", "execute", id, "--json")
	if err == nil && !strings.Contains(out+errs, code) {
		err = fmt.Errorf("%w: not refused with %s: %s", errStory, code, out+errs)
	}
	if err == nil && code != "" {
		g.say("  ✗ %s", code)
	}
	return err
}

// ---- 1

func (g *governed) tokens() (err error) {
	g.title("1. Three officers, each with a token")
	if g.module, err = softhsm.FindModule(""); err != nil {
		return err
	}
	for _, id := range []string{"kim", "lee", "park", "choi"} {
		if err := softhsm.Prepare(g.path(id)); err != nil {
			return err
		}
		if _, err := softhsm.RunInit(exec.Command(filepath.Join(g.bin, "sealkeeperd"), "token-init"), g.path(id), g.module, id, []byte("so-pin-of-"+id), []byte("pin-of-"+id)); err != nil {
			return err
		}
		for name, text := range map[string]string{"pin-" + id: "pin-of-" + id, "phrases/" + id: "four words of " + id} {
			if err := os.WriteFile(g.path(name), []byte(text), 0o600); err != nil {
				return err
			}
		}
		out, _, err := g.run(id, 0, "sealctl", append([]string{"officer", "key", "--json"}, g.key(id)...)...)
		if err != nil {
			return err
		}
		var made struct{ Key, Fingerprint string }
		if err := json.Unmarshal([]byte(out), &made); err != nil {
			return err
		}
		if g.keys[id] = made.Key; id != "choi" {
			g.say("✓ %-5s P-256 on a SoftHSM token, fingerprint %.39s…", id, made.Fingerprint)
		}
	}
	return g.registry("officers.json", "kim", "lee", "park")
}

// registry of officers for this story: whoever has time to watch it has none to wait for an hour until a change of officers is due.
func (g *governed) registry(file string, ids ...string) error {
	var people []map[string]string
	for _, id := range ids {
		people = append(people, map[string]string{"id": id, "name": strings.ToUpper(id[:1]) + id[1:], "role": "officer", "key": g.keys[id]})
	}
	data, err := json.MarshalIndent(map[string]any{"officers": people, "rules": map[string]any{"officers.change": map[string]any{"need": 2, "delay": "0s", "life": "1h0m0s"}}}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(g.path(file), data, 0o600)
}

// ---- 2

func (g *governed) ceremony() (err error) {
	g.title("2. The ceremony: nothing is made before all have shown their keys")
	if g.provider, err = phone.NewProvider(time.Now(), rand.Reader); err != nil {
		return err
	}
	bundle, err := os.ReadFile("deploy/policies/demo.json")
	if err != nil {
		return err
	}
	bundle = bytes.Replace(bundle, []byte(`{"id": "auditor",`), []byte(`{"id": "officers", "role": "officer", "may": {}}, {"id": "auditor",`), 1)
	listen, err := g.listen()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`installation: {name: Demo, country: KR, organization: Demo ministry}
data: data
high_water: witness/high-water.json
policy: policy.json
wallet_providers: [wallet-provider.pem]
public_url: %s
listen: %s
lists: {entries: 131072}
`, publicURL, listen)
	for name, data := range map[string][]byte{"wallet-provider.pem": g.provider.AnchorPEM(), "policy.json": bundle, "sealkeeper.yaml": []byte(conf)} {
		if err := os.WriteFile(g.path(name), data, 0o600); err != nil {
			return err
		}
	}
	step := func(line string) bool { // one line a step; the hashes are in the transcript
		return strings.HasPrefix(line, "  ✓") || len(line) > 13 && line[:3] != "   " && strings.Count(line[:13], ":") == 2
	}
	if _, err := g.daemon(0, func(s string) bool {
		return strings.HasPrefix(s, "  1") || strings.HasPrefix(strings.TrimLeft(s, " "), "9") || strings.Contains(s, "installation")
	}, "init", "--officers", "officers.json"); err != nil {
		return err
	}
	opening, transcript := g.path("data/ceremony/opening.json"), g.path("data/ceremony/transcript.json")
	for _, id := range []string{"kim", "lee"} {
		if _, err := g.officer(0, id, nil, "ceremony", "sign", opening); err != nil {
			return err
		}
	}
	if _, err := g.daemon(1, all, "init"); err != nil { // park is missing
		return err
	}
	if _, err := g.officer(0, "park", nil, "ceremony", "sign", opening); err != nil {
		return err
	}
	if _, err := g.daemon(0, step, "init", "--passphrases", "phrases", "--shares", "shares"); err != nil {
		return err
	}
	if _, err := g.officer(0, "kim", nil, "ceremony", "sign", transcript); err != nil {
		return err
	}
	if _, err := g.daemon(1, all, "init"); err != nil { // one is not enough
		return err
	}
	if _, err := g.officer(0, "park", nil, "ceremony", "sign", transcript); err != nil {
		return err
	}
	if _, err := g.daemon(0, step, "init"); err != nil {
		return err
	}
	data, err := os.ReadFile(transcript)
	if err != nil {
		return err
	}
	if err := os.WriteFile(g.path("keep/transcript.json"), data, 0o600); err != nil { // where the machine's root can't change it
		return err
	}
	return g.verify()
}

// verify checks the transcript with files alone.
func (g *governed) verify() error {
	args := []string{"ceremony", "verify", "keep/transcript.json", "--registry", "officers.json", "--ledger", "data/ledger.db", "--certificates", "keep/certificates"}
	if err := g.keepCertificates(); err != nil {
		return err
	}
	g.say("$ sealctl %s", strings.Join(args, " "))
	out, _, err := g.run("", 0, "sealctl", args...)
	for _, line := range strings.Split(strings.TrimRight(out, "\n"), "\n") {
		if strings.TrimSpace(line) != "" {
			g.say("  %s", line)
		}
	}
	return err
}

// keepCertificates copies what the ceremony published, once.
func (g *governed) keepCertificates() error {
	if _, err := os.Stat(g.path("keep/certificates")); err == nil {
		return nil
	}
	return os.CopyFS(g.path("keep/certificates"), os.DirFS(g.path("data/publish/certificates")))
}

// ---- 3

func (g *governed) opens() error {
	g.title("3. The appliance serves, and cards are issued without a pause until the end")
	clients := []string{"officers", "ward-office-1", "telecom-a", "auditor"}
	if _, err := g.daemon(0, none, append([]string{"enrol", "--out", "clients"}, clients...)...); err != nil {
		return err
	}
	var err error
	for _, id := range clients {
		if g.clients[id], err = mtls(g.path("clients/" + id)); err != nil {
			return err
		}
	}
	if err := g.serve(g.path("sealkeeper.yaml")); err != nil {
		return err
	}
	if err := g.fetchFile("/certificates/iaca.pem", filepath.Join("trust", "iaca.pem")); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(g.out, "trust", "iaca.pem"))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return errors.New("the root is no PEM")
	}
	if g.root, err = x509.ParseCertificate(block.Bytes); err != nil {
		return err
	}
	for i := range 6 { // who will be told that their cards have to be made anew
		p, err := phone.New(1)
		if err != nil {
			return err
		}
		g.phones = append(g.phones, &holder{subject: fmt.Sprintf("holder-%d", i), phone: p})
	}
	for _, h := range g.phones {
		if err := g.gives(h, "/v1/credentials"); err != nil {
			return err
		}
	}
	g.load = newLoad(g)
	if err := g.load.more(10); err != nil {
		return err
	}
	g.say("✓ %d phones have their cards, and more come all the time", len(g.phones))
	return nil
}

// gives a holder a card, or a new one for an old one.
func (g *governed) gives(h *holder, path string) error {
	nonce, err := g.nonce()
	if err != nil {
		return err
	}
	now := time.Now()
	r := contract.IssueRequest{DocumentType: documentType, Subject: h.subject, Claims: claims(), Proof: h.phone.Prove(0, g.audience(), nonce, now, ""), KeyAttestation: h.phone.Attest(g.provider, nonce, now)}
	var a contract.IssueAnswer
	if err := g.must("a card", "ward-office-1", path, idempotencyKey(), r, &a); err != nil {
		return err
	}
	for _, c := range a.Credentials {
		ref := c.Status
		if c.Format == "mso_mdoc" {
			h.holds.MDoc = &ref
		} else {
			h.holds.SDJWT = &ref
		}
	}
	return nil
}

// ---- a document signer is rotated

// second of UTC, as proposals say instants.
func second(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }

// plan has officers decide on a key for mdocs; a zero instant has it stand by.
func (g *governed) plan(ids []string, id, name, succeeds string, activate time.Time, reason string) error {
	now := time.Now()
	args := []string{"key=" + id, "purpose=mdoc", "token=online", "algorithm=ES256", "name=" + name, "announce=" + second(now), "use_until=" + second(now.Add(350*24*time.Hour)),
		"certificate_until=" + second(now.Add(450*24*time.Hour)), "reason=" + reason}
	if !activate.IsZero() {
		args = append(args, "activate="+second(activate), "succeeds="+succeeds)
	}
	return g.together(ids, "key.generate", args...)
}

// state of a key, as operators see it.
func (g *governed) state(id string) (string, error) {
	r, err := http.Get(g.operations + "/status")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	var st contract.Status
	if err := json.NewDecoder(r.Body).Decode(&st); err != nil {
		return "", err
	}
	for _, k := range st.Keys {
		if k.ID == id {
			return k.State, nil
		}
	}
	return "none", nil
}

func (g *governed) until(id, state string) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		is, err := g.state(id)
		if err != nil || is == state || state == "announced" && is == "active" { // a slow machine looked too late
			return err
		}
		if time.Since(began) > 30*time.Second {
			return fmt.Errorf("%w: key %s is %s, and not %s", errStory, id, is, state)
		}
	}
}

func (g *governed) rotates() error {
	g.title("4. A document signer is rotated under load")
	turn := time.Now().Add(5 * time.Second).Truncate(time.Second)
	if err := g.plan([]string{"kim", "lee"}, "ds-2", "Demo document signer 2", "ds-1", turn, "the yearly rotation"); err != nil {
		return err
	}
	if err := g.plan([]string{"kim", "park"}, "ds-3", "Demo document signer 3", "", time.Time{}, "it stands by, for a day that nobody wants"); err != nil {
		return err
	}
	for _, id := range []string{"ds-2", "ds-3"} {
		if err := g.until(id, "announced"); err != nil {
			return err
		}
	}
	g.say("✓ ds-2 and ds-3 are made, certified and published; ds-2 takes over at %s", turn.Format(time.TimeOnly))
	if err := g.until("ds-2", "active"); err != nil {
		return err
	}
	if err := g.load.by("Demo document signer 2"); err != nil {
		return err
	}
	old, err := g.state("ds-1")
	if err != nil {
		return err
	}
	g.say("✓ ds-2 is active, ds-1 %s: %s", old, g.load)
	g.done("ds-2 for ds-1 without a failed request")
	return nil
}

// ---- stop and resume

func (g *governed) stops() error {
	g.title("6. One officer stops issuing, two resume it")
	if err := g.load.more(5); err != nil {
		return err
	}
	var p contract.Proposal
	if _, err := g.officer(0, "choi", &p, "propose", "issuing.stop", "reason=wrong photographs"); err != nil {
		return err
	}
	if err := g.execute(0, p.ID, ""); err != nil {
		return err
	}
	stopped := time.Now()
	if err := g.load.refused(); err != nil {
		return err
	}
	g.say("✓ %d ms later a request is refused with issuing.stopped; it will be sent again", time.Since(stopped).Milliseconds())
	h := g.phones[0]
	if err := g.must("a lock", "telecom-a", "/v1/locks", "", contract.ChangeRequest{DocumentType: documentType, Subject: h.subject, Reason: "telecom_lost"}, nil); err != nil {
		return err
	}
	if err := g.awaitAll(map[*contract.StatusRef]byte{h.holds.MDoc: 1, h.holds.SDJWT: 2}); err != nil {
		return err
	}
	if err := g.tell("locks and lists go on: holder-0", h.holds); err != nil {
		return err
	}
	if _, err := g.officer(0, "choi", &p, "propose", "issuing.resume", "reason=repaired"); err != nil {
		return err
	}
	if err := g.execute(1, p.ID, "officer.short"); err != nil {
		return err
	}
	if _, err := g.officer(0, "park", &p, "approve", p.ID); err != nil {
		return err
	}
	if err := g.execute(0, p.ID, ""); err != nil {
		return err
	}
	if err := g.load.more(10); err != nil {
		return err
	}
	g.say("✓ what had been refused got its cards: %s", g.load)
	g.done("stopped by one and resumed by two")
	return nil
}

// ---- an officer is replaced

func (g *governed) replaces() error {
	g.title("5. Choi comes for Lee")
	if err := g.registry("next.json", "kim", "choi", "park"); err != nil {
		return err
	}
	var old contract.Proposal
	if _, err := g.officer(0, "lee", &old, "propose", "issuing.stop", "reason=begun before the change"); err != nil {
		return err
	}
	if err := g.together([]string{"kim", "park"}, "officers.change", "registry:=@"+g.path("next.json")); err != nil {
		return err
	}
	if err := g.execute(1, old.ID, "officer.epoch"); err != nil { // nothing that the old ones began is finished by the new ones
		return err
	}
	out, err := g.officer(2, "lee", nil, "propose", "issuing.stop", "reason=I am no officer any more")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "officer.unknown") {
		return fmt.Errorf("%w: lee was refused with %s", errStory, out)
	}
	g.say("  ✗ officer.unknown")
	var p contract.Proposal
	if _, err := g.officer(0, "choi", &p, "propose", "issuing.resume", "reason=it goes on, and this shows whose word counts"); err != nil {
		return err
	}
	if _, err := g.officer(0, "park", &p, "reject", p.ID); err != nil {
		return err
	}
	g.say("✓ choi proposed, park said no, and that was the end of it")
	g.done("Choi in Lee's place")
	return nil
}

// ---- a compromise

// pending is the proposal that waits for officers, if it is about an action.
func (g *governed) pending(action string) (string, error) {
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		out, _, err := g.run("", 0, "sealctl", "pending", "--json")
		if err != nil {
			return "", err
		}
		var list contract.Proposals
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return "", err
		}
		for _, p := range list.Proposals {
			if p.Action == action && p.State == "open" {
				return p.ID, nil
			}
		}
	}
	return "", fmt.Errorf("%w: nobody proposes %s", errStory, action)
}

func (g *governed) drills() error {
	g.title("7. ds-2 was seen outside: a drill")
	g.load.pause() // what a compromised key signs is believed by nobody, so nobody issues for a moment
	cards := g.load.of("Demo document signer 2")
	args := []string{"drill", "compromise", "ds-2", "--reason", "seen outside", "--crl", g.story.public + "/crl/iaca.crl", "--per-second", "500"}
	g.say("$ sealctl %s --officer park", strings.Join(args, " "))
	type ended struct {
		out, errs string
		err       error
	}
	drill := make(chan ended, 1)
	go func() { // ends within two minutes, as every command does
		out, errs, err := g.run("park", 0, "sealctl", append(append(args, "--yes", "--json"), g.key("park")...)...)
		drill <- ended{out, errs, err}
	}()
	for _, action := range []string{"key.compromise", "reissue.mass"} {
		id, err := g.pending(action)
		if err != nil {
			select {
			case e := <-drill:
				return errors.Join(err, e.err)
			default:
				return err
			}
		}
		var p contract.Proposal
		if _, err := g.officer(0, "kim", &p, "approve", id); err != nil {
			return err
		}
		for _, line := range p.Text[1:min(2, len(p.Text))] {
			g.say("    │ %s", line)
		}
		if action == "key.compromise" {
			if err := g.until("ds-3", "active"); err != nil {
				return err
			}
			g.load.goOn()
			if err := g.load.by("Demo document signer 3"); err != nil {
				return err
			}
			g.say("✓ ds-3, which stood by, signs")
		}
	}
	for _, h := range cards { // phones that ask for a new card until they are told that theirs is to be made anew
		if err := g.load.renew(h); err != nil {
			return err
		}
	}
	e := <-drill
	if e.err != nil {
		return e.err
	}
	var r struct {
		CRL   string `json:"crl_after"`
		Done  string `json:"done_after"`
		Cards contract.Campaign
	}
	if err := json.Unmarshal([]byte(e.out), &r); err != nil {
		return fmt.Errorf("%w: %s", err, e.out)
	}
	if r.Cards.Reissued != len(cards) || r.Cards.Total != len(cards) {
		return fmt.Errorf("%w: %d cards were by ds-2, and the drill says %+v", errStory, len(cards), r.Cards)
	}
	g.say("✓ the CRL had it after %s; %d of %d cards were made anew after %s, none failed", r.CRL, r.Cards.Reissued, r.Cards.Total, r.Done)
	g.done("a compromise drilled: CRL after %s, %d of %d cards made anew", r.CRL, r.Cards.Reissued, r.Cards.Total)
	return nil
}

// ---- backup and restore

// ctl shows and runs sealctl for an operator, and shows what it says.
func (g *governed) ctl(args ...string) (string, error) {
	g.say("$ sealctl %s", strings.Join(args, " "))
	out, errs, err := g.run("", 0, "sealctl", args...)
	for _, line := range strings.Split(strings.TrimRight(out+errs, "\n"), "\n") {
		if line = strings.TrimSpace(strings.ReplaceAll(line, g.work+"/", "")); line != "" {
			g.say("    %s", line)
		}
	}
	return out, err
}

func (g *governed) restores() error {
	g.title("8. The machine burns: a backup that two officers open")
	if _, err := g.daemon(0, all, "backup", "--out", "keep/noon.backup"); err != nil {
		return err
	}
	h := g.phones[1]
	if err := g.must("a lock", "telecom-a", "/v1/locks", "", contract.ChangeRequest{DocumentType: documentType, Subject: h.subject, Reason: "telecom_lost"}, nil); err != nil {
		return err
	}
	if err := g.awaitAll(map[*contract.StatusRef]byte{h.holds.MDoc: 1, h.holds.SDJWT: 2}); err != nil {
		return err
	}
	if err := g.tell("locked after the backup: holder-1", h.holds); err != nil {
		return err
	}
	if err := g.load.stop(); err != nil {
		return err
	}
	g.say("✓ until then: %s", g.load)
	g.stop()
	for _, lost := range []string{"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.reserve", "tokens", "pins", "tls"} {
		if err := os.RemoveAll(g.path("data/" + lost)); err != nil {
			return err
		}
	}
	g.say("  ledger, tokens, PINs and TLS keys are gone; what was published is still there")
	if _, err := g.ctl("restore", "--config", "sealkeeper.yaml", "--from", "keep/noon.backup", "--share", "shares/kim.share", "--share", "shares/park.share", "--passphrase-file", "phrases/kim", "--passphrase-file", "phrases/park"); err != nil {
		return err
	}
	out, err := g.daemon(3, none, "serve")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "FENCED") {
		return fmt.Errorf("%w: %s", errStory, out)
	}
	g.say("  ✗ FENCED: it signs nothing")
	if _, err := g.ctl("fence", "request", "--config", "sealkeeper.yaml", "--out", "request.json"); err != nil {
		return err
	}
	if _, err := g.officer(0, "kim", nil, "fence", "propose", "request.json", "--reason", "the machine burnt", "--out", "approvals.json"); err != nil {
		return err
	}
	if _, err := g.officer(0, "choi", nil, "fence", "approve", "approvals.json"); err != nil {
		return err
	}
	if _, err := g.daemon(0, all, "accept", "fence", "--approvals", "approvals.json"); err != nil {
		return err
	}
	if err := g.serve(g.path("sealkeeper.yaml")); err != nil {
		return err
	}
	if err := g.awaitAll(map[*contract.StatusRef]byte{h.holds.MDoc: 1, h.holds.SDJWT: 2}); err != nil {
		return err
	}
	if err := g.tell("its lock came back from what was published: holder-1", h.holds); err != nil {
		return err
	}
	p, err := phone.New(1)
	if err != nil {
		return err
	}
	if err := g.gives(&holder{subject: "after-the-fire", phone: p}, "/v1/credentials"); err != nil {
		return err
	}
	g.say("✓ cards are issued again, from new lists")
	g.done("backed up and restored by two of three, with a lock of after the backup")
	return nil
}

// ---- the end

func (g *governed) ends() error {
	g.title("9. The end: offline, with nothing but files")
	g.stop()
	if err := g.verify(); err != nil {
		return err
	}
	if err := g.fsck(); err != nil {
		return err
	}
	g.summary = append([]string{fmt.Sprintf("%s under load", g.load), "ceremony of 3 officers, its transcript verified offline"}, g.summary...)
	return nil
}

// load issues cards all the time, verifies each as a bank would, and counts. A request that is refused because officers stopped issuing is sent again.
type load struct {
	g     *governed
	end   context.CancelFunc
	ctx   context.Context
	tasks sync.WaitGroup

	mu      sync.Mutex
	cards   int
	stopped int            // refusals because officers stopped issuing
	signers map[string]int // cards by who signed the mdoc
	cardsOf map[string][]*holder
	failed  error

	turn sync.RWMutex // held for writing while nobody issues
}

// pause returns when nothing is under way, and nothing begins until goOn.
func (l *load) pause() { l.turn.Lock() }
func (l *load) goOn()  { l.turn.Unlock() }

// of is who has a card by a signer.
func (l *load) of(signer string) []*holder {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.cardsOf[signer])
}

// renew asks for a new card in the place of one whose key is compromised, until the appliance says that it is due.
func (l *load) renew(h *holder) error {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		code, err := l.get("/v1/credentials/refresh", h)
		if err != nil || code == "" {
			return err
		}
		if time.Since(began) > 30*time.Second {
			return fmt.Errorf("%w: %s gets no new card: %s", errStory, h.subject, code)
		}
	}
}

const loaders = 3

func newLoad(g *governed) *load {
	l := &load{g: g, signers: map[string]int{}, cardsOf: map[string][]*holder{}}
	l.ctx, l.end = context.WithCancel(context.Background())
	for i := range loaders {
		l.tasks.Go(func() {
			for n := 0; l.ctx.Err() == nil; n++ {
				err := l.one(fmt.Sprintf("load-%d-%d", i, n))
				l.mu.Lock()
				if l.failed == nil {
					l.failed = err
				}
				l.mu.Unlock()
				if err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // a load that leaves this machine room for the story
			}
		})
	}
	return l
}

func (l *load) post(path, key string, body, into any) (code string, _ error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequest(http.MethodPost, l.g.issuance+path, bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	r, err := l.g.clients["ward-office-1"].Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if r.StatusCode != http.StatusOK {
		var p contract.Problem
		if err := json.Unmarshal(answer, &p); err != nil {
			return "", fmt.Errorf("%s: %d %q", path, r.StatusCode, answer)
		}
		return p.Code, nil
	}
	return "", json.Unmarshal(answer, into)
}

func (l *load) one(subject string) error {
	l.turn.RLock()
	defer l.turn.RUnlock()
	p, err := phone.New(1)
	if err != nil {
		return err
	}
	h := &holder{subject: subject, phone: p}
	code, err := l.get("/v1/credentials", h)
	if err == nil && code != "" {
		err = fmt.Errorf("%s was refused: %s", subject, code)
	}
	return err
}

// get has a phone ask for a card, and verifies what it gets as a bank would that has the public trust bundle and nothing else.
func (l *load) get(path string, h *holder) (code string, err error) {
	var n contract.NonceAnswer
	if code, err := l.post("/v1/nonces", "", contract.NonceRequest{DocumentType: documentType}, &n); err != nil || code != "" {
		return code, err
	}
	now := time.Now()
	r := contract.IssueRequest{DocumentType: documentType, Subject: h.subject, Claims: claims(), Proof: h.phone.Prove(0, l.g.audience(), n.Nonce, now, ""), KeyAttestation: h.phone.Attest(l.g.provider, n.Nonce, now)}
	key := idempotencyKey()
	var a contract.IssueAnswer
	for {
		if code, err = l.post(path, key, r, &a); err != nil {
			return "", fmt.Errorf("%s: %w", h.subject, err)
		}
		if code != "issuing.stopped" {
			break
		}
		l.mu.Lock()
		l.stopped++
		l.mu.Unlock()
		if l.ctx.Err() != nil {
			return code, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	if code != "" {
		return code, nil
	}
	body, _, err := l.g.fetch("/trust.json")
	if err != nil {
		return "", err
	}
	trust, err := verifier.ParseTrust(body)
	if err != nil {
		return "", err
	}
	roots := trust.Roots([]*x509.Certificate{l.g.root}, time.Now())
	for _, c := range a.Credentials {
		if c.Format != "mso_mdoc" {
			s, err := verifier.VerifySDJWT([]byte(c.Credential), roots, time.Now())
			if err == nil {
				err = trust.Believes(s.Signer, "sd-jwt", time.Now())
			}
			if err != nil {
				return "", fmt.Errorf("%s: SD-JWT VC: %w", h.subject, err)
			}
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(c.Credential)
		if err != nil {
			return "", err
		}
		m, err := verifier.VerifyMDoc(raw, roots, time.Now())
		if err == nil {
			err = trust.Believes(m.Signer, "mdoc", time.Now())
		}
		if err != nil {
			return "", fmt.Errorf("%s: mdoc: %w", h.subject, err)
		}
		l.mu.Lock()
		l.signers[m.Signer.Subject.CommonName]++
		l.cardsOf[m.Signer.Subject.CommonName] = append(l.cardsOf[m.Signer.Subject.CommonName], h)
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cards++
	return "", nil
}

// wait until something is true of the load, and nothing failed.
func (l *load) wait(what string, is func() bool) error {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		ok, failed := is(), l.failed
		l.mu.Unlock()
		switch {
		case failed != nil:
			return failed
		case ok:
			return nil
		case time.Since(began) > 20*time.Second:
			return fmt.Errorf("%w: %s", errStory, what)
		}
	}
}

func (l *load) more(n int) error {
	l.mu.Lock()
	want := l.cards + n
	l.mu.Unlock()
	return l.wait("no more cards are issued", func() bool { return l.cards >= want })
}

// by waits for a card that a key signed.
func (l *load) by(signer string) error {
	l.mu.Lock()
	had := l.signers[signer]
	l.mu.Unlock()
	return l.wait("nothing is signed by "+signer, func() bool { return l.signers[signer] > had })
}

func (l *load) refused() error {
	l.mu.Lock()
	had := l.stopped
	l.mu.Unlock()
	return l.wait("issuing goes on after it was stopped", func() bool { return l.stopped > had })
}

func (l *load) stop() error {
	if l == nil {
		return nil
	}
	l.end()
	l.tasks.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var by []string
	for _, s := range slices.Sorted(maps.Keys(l.signers)) {
		by = append(by, fmt.Sprintf("%d by %s", l.signers[s], strings.TrimPrefix(s, "Demo ")))
	}
	return fmt.Sprintf("%d cards issued and verified (%s), none failed", l.cards, strings.Join(by, ", "))
}
