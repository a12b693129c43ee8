// Package monitoring proves that operators are told: each alert rule by unit tests of promtool, and by a real Prometheus and a
// real fault, each page of docs/runbooks by running its commands on a demo installation.
package monitoring

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"sealkeeper/internal/metrics"
)

// need finds a program of Debian's package prometheus, or skips.
func need(t *testing.T, program string) string {
	t.Helper()
	p, err := exec.LookPath(program)
	if err == nil {
		return p
	}
	if os.Getenv("SEAL_REQUIRE_PROMETHEUS") == "1" {
		t.Fatalf("%s is missing; run scripts/require.sh monitoring", program)
	}
	t.Skipf("%s is missing (Debian package prometheus; scripts/require.sh monitoring installs it)", program)
	return ""
}

func TestPromtool(t *testing.T) {
	promtool := need(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "sealkeeper.rules.yml"}, {"test", "rules", "sealkeeper.test.yml", "sealkeeper-days.test.yml"}} {
		c := exec.Command(promtool, args...)
		c.Dir = "../../deploy/prometheus"
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var f struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/prometheus/sealkeeper.rules.yml")), &f); err != nil {
		t.Fatal(err)
	}
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no rules")
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every alert has a severity, sentences, a page, and a test of both its sides; every page has its alert.
func TestRules(t *testing.T) {
	tests := read(t, "deploy/prometheus/sealkeeper.test.yml")
	pages := map[string]bool{}
	for _, r := range rules(t) {
		severity := r.Labels["severity"]
		if severity != "critical" && severity != "warning" && severity != "info" {
			t.Errorf("%s: severity %q", r.Alert, severity)
		}
		for _, a := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[a], ".") {
				t.Errorf("%s: %s %q is no sentence", r.Alert, a, r.Annotations[a])
			}
		}
		url := r.Annotations["runbook_url"]
		pages[url] = true
		if page := read(t, url); !strings.Contains(page, "Alert `"+r.Alert+"`") {
			t.Errorf("%s: %s is not about it", r.Alert, url)
		}
		if name := filepath.Base(url); !strings.Contains(read(t, "docs/runbooks/README.md"), "("+name+")") {
			t.Errorf("docs/runbooks/README.md does not list %s", name)
		}
		for _, side := range []string{"fires", "does not"} {
			if want := "- name: " + strings.TrimPrefix(r.Alert, "Sealkeeper") + " (" + severity + ") " + side + "\n"; !strings.Contains(tests, want) {
				t.Errorf("sealkeeper.test.yml has no %q", want)
			}
		}
	}
	files, _ := filepath.Glob("../../docs/runbooks/*.md")
	for _, f := range files {
		if name := "docs/runbooks/" + filepath.Base(f); filepath.Base(f) != "README.md" && !pages[name] && !strings.Contains(read(t, name), "it has no alert") {
			t.Errorf("%s has no alert", name)
		}
	}
}

// exported are the names of all series: the daemon's, and those of the metrics files.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	ch := make(chan *client.Desc)
	go func() { metrics.New().Registry.Describe(ch); close(ch) }()
	for d := range ch {
		m := regexp.MustCompile(`fqName: "([a-z_]+)"`).FindStringSubmatch(d.String())
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			names[m[1]+suffix] = true
		}
	}
	dir := t.TempDir()
	if err := metrics.WriteExit(filepath.Join(dir, "exit.prom"), 3, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := metrics.WriteFsck(filepath.Join(dir, "fsck.prom"), map[string]int{"I1": 0}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"exit.prom", "fsck.prom"} {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^(sealkeeper_[a-z_]+)`).FindAllString(string(b), -1) {
			names[m] = true
		}
	}
	return names
}

var series = regexp.MustCompile(`sealkeeper_[a-z_]+`)

// What rules, tests, dashboard and pages ask for is there.
func TestMetricsExist(t *testing.T) {
	known := exported(t)
	ask := func(where, text string) {
		for _, name := range series.FindAllString(text, -1) {
			if !known[name] {
				t.Errorf("%s asks for %s, which nothing exports", where, name)
			}
		}
	}
	for _, r := range rules(t) {
		ask(r.Alert, r.Expr)
	}
	for _, s := range regexp.MustCompile(`\{series: [^}]*`).FindAllString(read(t, "deploy/prometheus/sealkeeper.test.yml"), -1) {
		ask("sealkeeper.test.yml", s)
	}
	queries := 0
	for title, all := range dashboard(t) {
		if len(all) == 0 {
			t.Errorf("panel %q asks for nothing", title)
		}
		for _, q := range all {
			queries++
			ask("panel "+title, q)
		}
	}
	if queries < 20 {
		t.Errorf("the dashboard has %d queries", queries)
	}
}

// A condition of doctor has the page that its alert has.
func TestConditionsHavePages(t *testing.T) {
	found := 0
	for _, f := range []string{"ca/status.go", "cmd/sealctl/doctor.go"} {
		for _, m := range regexp.MustCompile(`(?:note|wrong)\("([a-z-]+)"|Name: "([a-z-]+)"`).FindAllStringSubmatch(read(t, f), -1) {
			name := m[1] + m[2]
			if name == "tls-server" {
				continue
			}
			found++
			read(t, "docs/runbooks/"+name+".md")
		}
	}
	if found < 12 {
		t.Errorf("%d conditions found in the source; does this test still read it right?", found)
	}
}

// dashboard reads the queries by panel.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	var d struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "deploy/grafana/sealkeeper.json")), &d); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		if _, twice := all[p.Title]; twice {
			t.Errorf("two panels are called %q", p.Title)
		}
		all[p.Title] = []string{}
		for _, q := range p.Targets {
			all[p.Title] = append(all[p.Title], q.Expr)
		}
	}
	return all
}
