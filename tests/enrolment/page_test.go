package enrolment

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sealkeeper/tests/appliance"
)

// block is what stands between fences on a page.
type block struct{ language, text string }

func section(t *testing.T, page, heading string) (blocks []block) {
	t.Helper()
	b, err := os.ReadFile(page)
	must(t, err)
	_, rest, found := strings.Cut(string(b), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no part %q", page, heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

// Acceptance 6.7: docs/clients.md brings the first client in, with `step` and with our client, to whoever types what stands there, in five minutes. What a person
// does meanwhile: officers type passphrases and yes, the token is carried to the office, and names stand for the machines of this test.
func TestTheFirstClientByThePage(t *testing.T) {
	step, ra := stock(t), build(t)
	desk := t.TempDir()
	t.Setenv("PATH", strings.Join([]string{desk, filepath.Dir(step), filepath.Dir(appliance.Sealctl), os.Getenv("PATH")}, ":"))
	must(t, os.WriteFile(filepath.Join(desk, "words"), []byte("correct horse battery staple\n"), 0o600))
	var people []map[string]string
	for _, id := range []string{"kim", "lee"} {
		c := exec.Command(appliance.Sealctl, "officer", "key", "--officer", id, "--out", filepath.Join(desk, id+".key"), "--passphrase-file", filepath.Join(desk, "words"), "--json")
		out, err := c.Output()
		must(t, err)
		var made struct {
			Key string `json:"key"`
		}
		must(t, json.Unmarshal(out, &made))
		people = append(people, person(id, made.Key))
	}
	o := founded(t, people)
	o.serve(ra)
	must(t, os.CopyFS(filepath.Join(desk, "clients"), os.DirFS(filepath.Join(o.Dir, "clients"))))
	for _, id := range []string{"office-11110", "own"} {
		must(t, os.MkdirAll(filepath.Join(desk, id), 0o700))
	}
	blocks := section(t, "../../docs/clients.md", "The first client in five minutes")
	words := strings.NewReplacer("https://ra.example:9443", o.ra, "https://sealkeeper.internal:8443", fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), "renew --daemon", "renew --force")
	const atTheDesk = `sealctl() { case "$1" in approve) set -- "$@" --passphrase-file words --yes ;; enrol) [ "$2" != propose ] || set -- "$@" --passphrase-file words --yes ;; esac; command sealctl "$@"; }` + "\n"
	var exports string
	run := func(dir, text string) string {
		t.Helper()
		c := exec.Command("sh", "-c", "set -e\n"+text)
		c.Dir, c.Env = dir, append(os.Environ(), "HOME="+dir, "STEPPATH="+filepath.Join(dir, ".step"))
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, out)
		}
		return string(out)
	}
	began := time.Now()
	// enrol types the first two blocks for a client, line by line, and returns what the last one says.
	enrol := func(id string) string {
		t.Helper()
		said, proposal := "", "3f2a91"
		for _, b := range blocks[:2] {
			for line := range strings.Lines(words.Replace(b.text)) {
				line = strings.ReplaceAll(strings.ReplaceAll(line, "3f2a91", proposal), "office-11110", id)
				if strings.HasPrefix(line, "export ") {
					exports = line
					continue
				}
				said = run(desk, exports+atTheDesk+line)
				if m := regexp.MustCompile(`(?m)^proposal +([0-9a-f]+)$`).FindStringSubmatch(said); m != nil {
					proposal = m[1][:6]
				}
			}
		}
		return said
	}
	var languages []string
	for _, b := range blocks {
		languages = append(languages, b.language)
	}
	if got := strings.Join(languages, " "); got != "sh sh sh go sh sh sh" {
		t.Fatalf("the page has other blocks than this test follows: %s", got)
	}
	said := enrol("office-11110")
	m := regexp.MustCompile(`(?m)^fingerprint of its root +([0-9a-f]{64})$`).FindStringSubmatch(said)
	if m == nil || !strings.Contains(said, o.ra) {
		t.Fatalf("what is printed beside the token: %s", said)
	}
	office := filepath.Join(desk, "office-11110")
	run(desk, "cp tokens/office-11110.token office-11110/")
	run(office, strings.ReplaceAll(words.Replace(blocks[2].text), "FINGERPRINT", m[1]))
	if said := run(office, words.Replace(blocks[4].text)); !strings.Contains(said, `"client":"office-11110"`) {
		t.Errorf("whoami: %s", said)
	}
	if said := run(desk, exports+blocks[5].text); !regexp.MustCompile(`(?m)^office-11110 .*active`).MatchString(said) {
		t.Errorf("sealctl clients: %s", said)
	}
	withStep := time.Since(began)
	run(office, words.Replace(blocks[6].text))
	if said := run(desk, exports+blocks[5].text); !regexp.MustCompile(`(?m)^office-11110 .*revoked`).MatchString(said) {
		t.Errorf("after the office closed: %s", said)
	}
	// The same with our client: the page's lines, in a program of their own.
	enrol("office-26440")
	program := strings.NewReplacer("/var/lib/office", filepath.Join(desk, "own")).Replace(words.Replace(blocks[3].text))
	source := filepath.Join(desk, "office.go")
	must(t, os.WriteFile(source, []byte(`package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"sealkeeper/client"
)

func office(ctx context.Context, token string) error {
`+program+`if err != nil {
	return err
}
w, err := c.WhoAmI(ctx)
fmt.Println(w.Client)
return err
}

func main() {
	if err := office(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}
`), 0o600))
	overlay, err := filepath.Abs("page")
	must(t, err)
	over, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(overlay, "main.go"): source}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(desk, "overlay.json"), over, 0o600))
	c := exec.Command("go", "build", "-overlay", filepath.Join(desk, "overlay.json"), "-o", filepath.Join(desk, "office"), "./page")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if said := run(desk, `./office "$(cat tokens/office-26440.token)"`); strings.TrimSpace(said) != "office-26440" {
		t.Errorf("our client: %s", said)
	}
	t.Logf("the first client by step after %s, without a person's time", withStep.Round(time.Millisecond))
}
