package monitoring

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/tests/port"
)

// asked is the switch of the tests that take a minute and start a real Prometheus: make monitoring.
func asked(t *testing.T) {
	t.Helper()
	if os.Getenv("SEAL_MONITORING") != "1" {
		t.Skip("set SEAL_MONITORING=1, or run make monitoring")
	}
}

// prometheus is a real one that scrapes the daemon, and the textfiles as node_exporter would hand them out.
type prometheus struct {
	t   *testing.T
	url string
}

var (
	waits   = regexp.MustCompile(`(?m)^(\s+for:) .*$`)
	windows = regexp.MustCompile(`\[\d+[hm]\]|offset \d+[hm]`)
)

// hastened are the same rules for somebody in a hurry: every fault is an alert at once, what happened is forgotten after eight seconds, and a
// CRL of an hour (the shortest there is) is old after eight, and very old after ten.
func hastened(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../deploy/prometheus/sealkeeper.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	s := waits.ReplaceAllString(string(b), "$1 0s")
	for share, of := range map[string]string{"0.25": "0.9977", "0.10": "0.9972"} {
		for _, sign := range []string{"<", ">="} {
			s = strings.ReplaceAll(s, "sealkeeper_crl_issued_timestamp_seconds) "+sign+" "+share, "sealkeeper_crl_issued_timestamp_seconds) "+sign+" "+of)
		}
	}
	return windows.ReplaceAllStringFunc(s, func(w string) string {
		if strings.HasPrefix(w, "offset") {
			return "offset 8s"
		}
		return "[8s]"
	})
}

func watch(t *testing.T, in *installation) *prometheus {
	t.Helper()
	program := need(t, "prometheus")
	in.must(`sqlite3 "$SEALKEEPER_DATA/ledger.db" ".backup copy.db"; sealctl fsck --ledger copy.db --textfile "$SEALKEEPER_TEXTFILES/fsck.prom"`) // whoever is never checked has an alert
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		names, _ := filepath.Glob(in.path("textfiles/*.prom"))
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil {
				_, _ = w.Write(b)
			}
		}
	}))
	t.Cleanup(files.Close)
	in.write("rules.yml", hastened(t), 0o600)
	in.write("prometheus.yml", fmt.Sprintf(`global: {scrape_interval: 500ms, scrape_timeout: 450ms, evaluation_interval: 500ms}
rule_files: [rules.yml]
scrape_configs:
  - {job_name: sealkeeper, static_configs: [{targets: ["127.0.0.1:%d"]}]}
  - {job_name: node, static_configs: [{targets: ["%s"]}]}
`, in.ports[2], strings.TrimPrefix(files.URL, "http://")), 0o600)
	ports, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(in.path("prometheus.log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "--config.file="+in.path("prometheus.yml"), "--storage.tsdb.path="+in.path("tsdb"), fmt.Sprintf("--web.listen-address=127.0.0.1:%d", ports[0]))
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(in.path("prometheus.log"))
			t.Logf("Prometheus:\n%s", b[max(0, len(b)-2000):])
		}
	})
	p := &prometheus{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	in.eventually("Prometheus scrapes both targets", func() (string, bool) { r := p.query("sum(up)"); return fmt.Sprint(r), len(r) == 1 && r[0].Value == "2" })
	return p
}

type sample struct {
	Labels map[string]string
	Value  string
}

func (p *prometheus) query(q string) []sample {
	r, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(q))
	if err != nil {
		return nil
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	var a struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  []any             `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if json.Unmarshal(b, &a) != nil {
		return nil
	}
	out := make([]sample, 0, len(a.Data.Result))
	for _, s := range a.Data.Result {
		if len(s.Value) == 2 {
			out = append(out, sample{s.Metric, fmt.Sprint(s.Value[1])})
		}
	}
	return out
}

// empty asks every query of the dashboard, as Grafana would, and names the panels with one that has no answer.
func (p *prometheus) empty() (panels []string) {
	p.t.Helper()
	for title, queries := range dashboard(p.t) {
		for _, q := range queries {
			r, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(strings.NewReplacer("$__rate_interval", "10s", "$instance", ".*").Replace(q)))
			if err != nil {
				p.t.Fatal(err)
			}
			b, _ := io.ReadAll(r.Body)
			r.Body.Close()
			if r.StatusCode != http.StatusOK {
				p.t.Fatalf("panel %q: %s\n%s", title, q, b)
			}
			if strings.Contains(string(b), `"result":[]`) {
				panels = append(panels, title)
			}
		}
	}
	slices.Sort(panels)
	return slices.Compact(panels)
}

// firing are the alerts of now, without the prefix.
func (p *prometheus) firing() (names []string) {
	for _, s := range p.query(`ALERTS{alertstate="firing"}`) {
		names = append(names, strings.TrimPrefix(s.Labels["alertname"], "Sealkeeper"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// onlyAlerts are of files, and so known to Prometheus alone.
var onlyAlerts = map[string]bool{"FsckProblems": true, "FsckStale": true, "Fenced": true}

// watched is an installation that is watched.
type watched struct {
	*installation
	*prometheus
	pages map[string]string // of each alert
	were  *seen
}

// seen are the alerts that fired and were resolved, over all installations.
type seen struct {
	mu  sync.Mutex
	all map[string]bool
}

func (s *seen) add(name string) { s.mu.Lock(); defer s.mu.Unlock(); s.all[name] = true }

func (were *seen) watch(t *testing.T, in *installation) *watched {
	t.Helper()
	w := &watched{installation: in, pages: map[string]string{}, were: were}
	for _, r := range rules(t) {
		w.pages[strings.TrimPrefix(r.Alert, "Sealkeeper")] = strings.TrimPrefix(r.Annotations["runbook_url"], "docs/")
	}
	w.prometheus = watch(t, in)
	return w
}

// fires waits until these alerts fire, each with a severity where one is given (as in "PhoneStatus critical"), and doctor names them.
func (w *watched) fires(names ...string) {
	w.installation.t.Helper()
	fired := map[string]bool{} // not all at once: restarts get rarer while lists get older
	named := ""
	w.eventually(fmt.Sprint(names, " fire, and doctor names them"), func() (string, bool) {
		for _, s := range w.query(`ALERTS{alertstate="firing"}`) {
			name := strings.TrimPrefix(s.Labels["alertname"], "Sealkeeper")
			fired[name], fired[name+" "+s.Labels["severity"]] = true, true
		}
		out, _ := w.sh("sealctl doctor --over 500ms")
		named += out
		return fmt.Sprint("fired: ", fired, "\n", out), !slices.ContainsFunc(names, func(n string) bool {
			alert, _, _ := strings.Cut(n, " ")
			return !fired[n] || !onlyAlerts[alert] && !strings.Contains(named, w.pages[alert])
		})
	})
	for _, n := range names {
		alert, _, _ := strings.Cut(n, " ")
		w.installation.t.Logf("fired: %s", n)
		defer w.were.add(alert)
	}
}

// quiet waits until no alert fires, but these.
func (w *watched) quiet(but ...string) {
	w.installation.t.Helper()
	w.eventually("every alert is resolved", func() (string, bool) {
		now := slices.DeleteFunc(w.firing(), func(n string) bool { return slices.Contains(but, n) })
		return fmt.Sprint("firing: ", now), len(now) == 0 && len(w.query("up")) == 2
	})
}

// during does something again and again, so many at once, until it is ended.
func during(at int, do func(n int)) (end func()) {
	stop := make(chan struct{})
	var crowd sync.WaitGroup
	for n := range at {
		crowd.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					do(n*10_000 + i)
				}
			}
		})
	}
	return func() { close(stop); crowd.Wait() }
}

// A real Prometheus scrapes real daemons: every alert is raised by its fault, and resolved by its repair.
func TestAlerts(t *testing.T) {
	asked(t)
	t.Parallel()
	were := &seen{all: map[string]bool{}}
	t.Run("installations", func(t *testing.T) {
		for name, faults := range map[string]func(*testing.T, *seen){"locks and lists": locksAndLists, "rules": rulesOfTheDay, "token": token, "officers": officers, "root": root, "time and disk": timeAndDisk} {
			t.Run(name, func(t *testing.T) { t.Parallel(); faults(t, were) })
		}
	})
	if t.Failed() {
		return
	}
	for _, r := range rules(t) {
		if name := strings.TrimPrefix(r.Alert, "Sealkeeper"); !were.all[name] {
			t.Errorf("nothing raised %s", name)
		}
	}
}

func locksAndLists(t *testing.T, were *seen) {
	in := install(t, setup{config: "lists: {entries: 131072, life: 14s, ttl: 1s}\nlimits: {concurrent_issues: 2, queue: 64}\n"})
	in.must("systemctl start sealkeeperd")
	in.healthy()
	check := func(more string) {
		in.must(`sqlite3 "$SEALKEEPER_DATA/ledger.db" ".backup copy.db"; sealctl fsck --ledger copy.db --textfile "$SEALKEEPER_TEXTFILES/fsck.prom" ` + more + ` || [ $? = 5 ]`)
	}
	check("")
	w := were.watch(t, in)
	if err := in.issue("900101-1000001"); err != nil {
		t.Fatal(err)
	}
	w.quiet()
	in.eventually("every panel of the dashboard shows something; nothing is denied and no alert fires", func() (string, bool) {
		empty := w.empty()
		return fmt.Sprintf("empty: %q", empty), slices.Equal(empty, []string{"Alerts", "Denied by code"})
	})

	// Overload: more at once than two places.
	end := during(8, func(n int) { _ = in.issue(fmt.Sprintf("90010%d-2%06d", n/10_000, n%10_000)) })
	w.fires("Overload")
	end()

	// Fsck finds a published list that the ledger does not know. The HSM goes away under the workers; a lock waits, and the lists get old: they
	// are ageing for some seconds alone, so nothing that takes long comes between.
	in.must(`mkdir -p strange/status-lists; cp "$SEALKEEPER_DATA"/publish/status-lists/* strange/status-lists/; for f in strange/status-lists/*.json; do sed -i 's/"version":[0-9]*/"version":999999/' $f; done`)
	check("--publish strange")
	in.must(`mv "$SEALKEEPER_DATA/tokens" "$SEALKEEPER_DATA/tokens-away"`)
	in.killWorkers()
	if err := in.lock("900101-1000001"); err != nil {
		t.Fatal(err)
	}
	w.fires("HSMDown", "WorkerRestarts", "FsckProblems", "LockNotPublished", "ListAgeing", "ListExpired")
	check("")
	in.must(`mv "$SEALKEEPER_DATA/tokens-away" "$SEALKEEPER_DATA/tokens"`)
	w.quiet("LockSlow") // this one is right: a lock did take long

	// From the next start on lists live long: nothing below is about old ones, and a start that finds the newest older than lists live distrusts the clock.
	in.must(`sed -i 's/life: 14s/life: 10m/' sealkeeper.yaml; grep -q 'life: 10m' sealkeeper.yaml`)

	// A PIN that is wrong, then right.
	in.must(`cp -p "$SEALKEEPER_DATA/pins/online" pin.good; chmod 0600 "$SEALKEEPER_DATA/pins/online"; echo 000000 >"$SEALKEEPER_DATA/pins/online"; chmod 0400 "$SEALKEEPER_DATA/pins/online"`)
	in.killWorkers()
	w.fires("PINRefused")
	in.must(`cp -p pin.good "$SEALKEEPER_DATA/pins/online"; rm "$SEALKEEPER_DATA/pin-refused-online"; systemctl restart sealkeeperd`)
	w.quiet()

	// The daemon is gone; an old ledger is put back; it is FENCED.
	in.must(`systemctl stop sealkeeperd; cp "$SEALKEEPER_DATA/ledger.db" old.db`)
	w.fires("Down")
	in.must(`systemctl start sealkeeperd`)
	if err := in.issue("900101-1000002"); err != nil {
		t.Fatal(err)
	}
	in.must(`systemctl stop sealkeeperd; rm -f "$SEALKEEPER_DATA"/ledger.db-*; cp old.db "$SEALKEEPER_DATA/ledger.db"`)
	if out, err := in.sh("systemctl start sealkeeperd"); err == nil {
		t.Fatalf("the daemon started on an old ledger: %s", out)
	}
	w.fires("Fenced", "Down")
	in.must(`sealkeeperd accept fence --config "$SEALKEEPER_CONFIG"; systemctl start sealkeeperd`)
	w.quiet()

	// The listener's certificate ends within the day.
	good, err := os.ReadFile(in.path("data/tls/server.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(in.path("data/tls/server.key"))
	if err != nil {
		t.Fatal(err)
	}
	shortCert, shortKey := dying(t)
	in.write("data/tls/server.pem", shortCert, 0o644)
	in.write("data/tls/server.key", shortKey, 0o600)
	in.must("systemctl restart sealkeeperd")
	w.fires("CertificateExpiring")
	in.write("data/tls/server.pem", string(good), 0o644)
	in.write("data/tls/server.key", string(key), 0o600)
	in.must("systemctl restart sealkeeperd")
	w.quiet()
}

// dying makes a certificate with twelve hours to live.
func dying(t *testing.T) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
