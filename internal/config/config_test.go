package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/fuzzing"
)

const name = "/etc/sealkeeper/sealkeeper.yaml"

// The smallest file that is complete; line 6 is the first that a test adds.
const minimal = `installation: {name: Test, country: KR}
data: /var/lib/sealkeeper
high_water: ../witness/high-water.json
policy: policy.json
wallet_providers: [wallet.pem]
public_url: https://cards.example/
`

func TestDefaults(t *testing.T) {
	got, err := Parse(name, []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File: name, Name: "Test", Country: "KR", Data: "/var/lib/sealkeeper", HighWater: "/etc/witness/high-water.json", Policy: "/etc/sealkeeper/policy.json",
		WalletProviders: []string{"/etc/sealkeeper/wallet.pem"}, PublicURL: "https://cards.example", CRLURL: "http://cards.example/crl/iaca.crl",
		Issuance: "127.0.0.1:8443", Public: "127.0.0.1:8080", Operations: "127.0.0.1:9464", Hosts: []string{"localhost", "127.0.0.1"},
		Embedded: true, Algorithm: "ES256", Workers: 2, Sessions: 1, Copies: true, Deadline: time.Second,
		Online: Token{Name: "online", Label: "sealkeeper-online", PINFile: "/var/lib/sealkeeper/pins/online", Dir: "/var/lib/sealkeeper/tokens/online",
			Marker: "/var/lib/sealkeeper/pin-refused-online"},
		IACA: Token{Name: "iaca", Label: "sealkeeper-iaca", PINFile: "/var/lib/sealkeeper/pins/iaca", Dir: "/var/lib/sealkeeper/tokens/iaca",
			Marker: "/var/lib/sealkeeper/pin-refused-iaca"},
		ListEntries: 1 << 20, ListTTL: time.Minute, ListLife: 12 * time.Hour, CRLLife: 720 * time.Hour, CRLParts: 1, TLSLife: 2160 * time.Hour, GiveUp: 24 * time.Hour,
		NonceLife: 5 * time.Minute, AttestationAge: 24 * time.Hour, Skew: 30 * time.Second, MaxKeys: 16, Concurrent: 256, Queue: 1024, Connections: 2048, Memory: 512, Reserve: 64, Drain: 10 * time.Second,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Every key reaches its field.
func TestEveryKey(t *testing.T) {
	got, err := Parse(name, []byte(`installation: {name: N, country: DE, state: S, organization: O}
data: d
high_water: h/w.json
policy: p.json
wallet_providers: [/a.pem, b.pem]
public_url: http://cards.example:8080/x
crl_url: http://crl.example/c.crl
listen: {issuance: ":1", public: "[::1]:2", operations: "localhost:0"}
tls: {hosts: [a.example, "::1"], life: 24h}
hsm:
  module: /usr/lib/hsm.so
  embedded: false
  algorithm: EdDSA
  workers: 64
  sessions: 2
  session_copies: false
  deadline: 50ms
  allow: [/opt/hsm, /run/hsm.sock]
  environment: ["HSM_SERVER=unix:/run/hsm-{worker}.sock"]
  online: {label: L, serial: 0123, pin_file: /run/pin}
  iaca: {label: L, serial: 4567, pin_file: /run/pin2}
lists: {entries: 1024, ttl: 5s, life: 10s, crl_life: 1h, client_crl_parts: 8}
evidence: {nonce_life: 1s, attestation_age: 744h, skew: 0s, max_keys: 64}
limits: {concurrent_issues: 1, queue: 1048576, connections: 8, memory_mib: 64, disk_reserve_mib: 1, drain: 5m, give_up_after: 1s}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File: name, Name: "N", Country: "DE", State: "S", Organization: "O", Data: "/etc/sealkeeper/d", HighWater: "/etc/sealkeeper/h/w.json", Policy: "/etc/sealkeeper/p.json",
		WalletProviders: []string{"/a.pem", "/etc/sealkeeper/b.pem"}, PublicURL: "http://cards.example:8080/x", CRLURL: "http://crl.example/c.crl",
		Issuance: ":1", Public: "[::1]:2", Operations: "localhost:0", Hosts: []string{"a.example", "::1"},
		Module: "/usr/lib/hsm.so", Algorithm: "EdDSA", Workers: 64, Sessions: 2, Deadline: 50 * time.Millisecond, Allow: []string{"/opt/hsm", "/run/hsm.sock"},
		Environment: []string{"HSM_SERVER=unix:/run/hsm-{worker}.sock"},
		Online:      Token{Name: "online", Label: "L", Serial: "0123", PINFile: "/run/pin", Marker: "/etc/sealkeeper/d/pin-refused-online"},
		IACA:        Token{Name: "iaca", Label: "L", Serial: "4567", PINFile: "/run/pin2", Marker: "/etc/sealkeeper/d/pin-refused-iaca"},
		ListEntries: 1024, ListTTL: 5 * time.Second, ListLife: 10 * time.Second, CRLLife: time.Hour, CRLParts: 8, TLSLife: 24 * time.Hour,
		NonceLife: time.Second, AttestationAge: 744 * time.Hour, MaxKeys: 64, Concurrent: 1, Queue: 1 << 20, Connections: 8, Memory: 64, Reserve: 1, Drain: 5 * time.Minute, GiveUp: time.Second,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// replace changes one line of the minimal file; add puts lines below it.
func replace(prefix, line string) string {
	lines := strings.SplitAfter(minimal, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, prefix) {
			lines[i] = line
			if line != "" {
				lines[i] += "\n"
			}
		}
	}
	return strings.Join(lines, "")
}

func add(lines string) string { return minimal + lines + "\n" }

func TestComplaints(t *testing.T) {
	long := strings.Repeat("x", 49)
	for _, c := range []struct {
		title, text string
		want        []string // without the file's name
	}{
		{"empty", "", []string{
			"1: data: is missing; set it", "1: high_water: is missing; set it", "1: installation.country: is missing; set it", "1: installation.name: is missing; set it",
			"1: policy: is missing; set it", "1: public_url: is missing; set it", "1: wallet_providers: is missing; name at least one PEM file with anchors of key attestations"}},
		{"a scalar", "hello", []string{"1: must hold keys of its own; see deploy/sealkeeper.example.yaml"}},
		{"a list", "- a", []string{"1: must hold keys of its own; see deploy/sealkeeper.example.yaml"}},
		{"no YAML", "data: [", []string{"1: did not find expected node content"}},
		{"a tab", "installation:\n\tname: x", []string{"2: found character that cannot start any token"}},
		{"unknown key", add("pubic_url: x"), []string{"7: pubic_url: is no key of this file; remove it, or see deploy/sealkeeper.example.yaml"}},
		{"unknown key below", add("hsm:\n  pin: 1234"), []string{"8: hsm.pin: is no key of this file; remove it, or see deploy/sealkeeper.example.yaml"}},
		{"case matters", add("Lists: {}"), []string{"7: Lists: is no key of this file; remove it, or see deploy/sealkeeper.example.yaml"}},
		{"an endless key", add(strings.Repeat("k", 200) + ": 1"), []string{"7: " + strings.Repeat("k", 60) + "…: is no key of this file; remove it, or see deploy/sealkeeper.example.yaml"}},
		{"duplicate key", add("data: /elsewhere"), []string{"7: data: stands there twice, first on line 2; remove one"}},
		{"duplicate key below", add("lists: {ttl: 1s, ttl: 2s}"), []string{"7: lists.ttl: stands there twice, first on line 7; remove one"}},
		{"second document", add("---\ndata: x"), []string{"7: a second YAML document begins; remove it"}},
		{"empty second document", add("---"), []string{"7: a second YAML document begins; remove it"}},
		{"anchor", replace("data:", "data: &here /var/lib"), []string{"2: data: anchors and aliases are refused; write the value out"}},
		{"alias", strings.Replace(replace("policy:", "policy: *here"), "data: ", "data: &here ", 1), []string{
			"2: data: anchors and aliases are refused; write the value out", "4: policy: anchors and aliases are refused; write the value out"}},
		{"merge key", add("evidence: &d {skew: 1s}\nlists: {<<: *d}"), []string{"7: evidence: anchors and aliases are refused; write the value out",
			"8: lists.<<: is no key of this file; remove it, or see deploy/sealkeeper.example.yaml"}},
		{"no value", replace("policy:", "policy:"), []string{"4: policy: has no value; write one, or remove the key"}},
		{"text for a list", replace("wallet_providers:", "wallet_providers: wallet.pem"), []string{"5: wallet_providers: must be a list; write [a, b]"}},
		{"text for keys", add("hsm: softhsm"), []string{"7: hsm: must hold keys of its own; see deploy/sealkeeper.example.yaml"}},
		{"text for a number", add("hsm: {workers: two}"), []string{`7: hsm.workers: "two" is no whole number`}},
		{"a fraction", add("hsm: {workers: 1.5}"), []string{`7: hsm.workers: "1.5" is no whole number`}},
		{"a negative size", add("lists: {entries: -1024}"), []string{`7: lists.entries: "-1024" is no whole number`}},
		{"text for a truth value", add("hsm: {embedded: perhaps}"), []string{`7: hsm.embedded: "perhaps" is no truth value; write true or false`}},
		{"keys for text", replace("data:", "data: {a: b}"), []string{"2: data: this is no text"}},
		{"binary", replace("data:", "data: !!binary aGVsbG8="), []string{`2: data: "aGVsbG8=" is no text`}},
		{"everything at once", add("hsm: {workers: 0, sesions: 1, deadline: soon}\nlimits: {queue: many}"), []string{
			`7: hsm.deadline: "soon" is no duration; write for example 90s, 15m or 24h`, "7: hsm.sesions: is no key of this file; remove it, or see deploy/sealkeeper.example.yaml",
			"7: hsm.workers: 0 is out of bounds; allowed is 1 to 64", `8: limits.queue: "many" is no whole number`}},

		{"no name", replace("installation:", "installation: {country: KR}"), []string{"1: installation.name: is missing; set it"}},
		{"no country", replace("installation:", "installation: {name: X}"), []string{"1: installation.country: is missing; set it"}},
		{"country", replace("installation:", "installation: {name: X, country: kr}"), []string{
			`1: installation.country: "kr" is no ISO 3166-1 alpha-2 code; write two upper case letters, for example KR`}},
		{"long names", replace("installation:", "installation: {name: "+long+", country: KR, state: "+long+", organization: "+long+"}"), []string{
			"1: installation.name: has 49 bytes; at most 48 fit into a certificate's name", "1: installation.organization: has 49 bytes; at most 48 fit into a certificate's name",
			"1: installation.state: has 49 bytes; at most 48 fit into a certificate's name"}},
		{"no data", replace("data:", ""), []string{"1: data: is missing; set it"}},
		{"no witness", replace("high_water:", ""), []string{"1: high_water: is missing; set it"}},
		{"witness inside data", replace("high_water:", "high_water: /var/lib/sealkeeper/hw.json"), []string{
			"3: high_water: lies inside data; put it elsewhere, better on another disk, or an old backup brings its old record along"}},
		{"no policy", replace("policy:", ""), []string{"1: policy: is missing; set it"}},
		{"no anchors", replace("wallet_providers:", "wallet_providers: []"), []string{"5: wallet_providers: is missing; name at least one PEM file with anchors of key attestations"}},
		{"an empty anchor", replace("wallet_providers:", `wallet_providers: [""]`), []string{"5: wallet_providers: is missing; set it"}},
		{"no URL", replace("public_url:", ""), []string{"1: public_url: is missing; set it"}},
		{"URL of another kind", replace("public_url:", "public_url: ftp://x"), []string{
			`6: public_url: "ftp://x" is no base URL; write https://host[:port][/path]: it becomes part of every credential`}},
		{"URL with a user", replace("public_url:", "public_url: https://u:p@x"), []string{
			`6: public_url: "https://u:p@x" is no base URL; write https://host[:port][/path]: it becomes part of every credential`}},
		{"URL with a query", replace("public_url:", "public_url: https://x/?a"), []string{
			`6: public_url: "https://x/?a" is no base URL; write https://host[:port][/path]: it becomes part of every credential`}},
		{"CRL over TLS", add("crl_url: https://x/c.crl"), []string{
			`7: crl_url: "https://x/c.crl" is no plain HTTP URL; a CRL is signed, and fetching it over TLS would need another CRL`}},
		{"addresses", add("listen:\n  issuance: localhost\n  public: :99999\n  operations: :http"), []string{
			`8: listen.issuance: "localhost" is no address; write host:port, for example 127.0.0.1:8443`,
			`9: listen.public: ":99999" is no address; write host:port, for example 127.0.0.1:8080`, `10: listen.operations: ":http" is no address; write host:port, for example 127.0.0.1:9464`}},
		{"one address twice", add(`listen: {public: "127.0.0.1:8443"}`), []string{"7: listen.public: 127.0.0.1:8443 is the address of another listener; each has its own"}},
		{"hosts", add(`tls: {hosts: ["https://x", "x:8443", ""]}`), []string{
			`7: tls.hosts: "https://x" is no host name or IP address; leave out scheme and port`, `7: tls.hosts: "x:8443" is no host name or IP address; leave out scheme and port`,
			`7: tls.hosts: "" is no host name or IP address; leave out scheme and port`}},
		{"HSM without module", add("hsm: {embedded: false}"), []string{"7: hsm.module: is missing; name the PKCS#11 library of your HSM, or set hsm.embedded: true"}},
		{"copies outside SoftHSM", add("hsm: {embedded: false, module: /m.so, session_copies: true}"), []string{"7: hsm.session_copies: is for the embedded SoftHSM only; remove it"}},
		{"a variable for SoftHSM", add("hsm: {environment: [A=b]}"), []string{"7: hsm.environment: is for modules of vendors; the embedded SoftHSM needs nothing more, remove it"}},
		{"no variable", add("hsm: {embedded: false, module: /m.so, iaca: {label: a}, environment: [A]}"), []string{
			`7: hsm.environment: "A" is no variable of a module; write NAME=value, and neither LD_… nor GO…`}},
		{"a variable of the loader", add("hsm: {embedded: false, module: /m.so, iaca: {label: a}, environment: [LD_PRELOAD=/m.so]}"), []string{
			`7: hsm.environment: "LD_PRELOAD=/m.so" is no variable of a module; write NAME=value, and neither LD_… nor GO…`}},
		{"one token for both", add("hsm: {embedded: false, module: /m.so, online: {label: a}, iaca: {label: a}}"), []string{
			"7: hsm.iaca.label: names the online token; the IACA has a token and a PIN of its own"}},
		{"algorithm", add("hsm: {algorithm: RS256}"), []string{`7: hsm.algorithm: "RS256" is not supported; use ES256, ES384 or EdDSA`}},
		{"workers", add("hsm: {workers: 65}"), []string{"7: hsm.workers: 65 is out of bounds; allowed is 1 to 64"}},
		{"sessions", add("hsm: {sessions: 0}"), []string{"7: hsm.sessions: 0 is out of bounds; allowed is 1 to 64"}},
		{"deadline", add("hsm: {deadline: 49ms}"), []string{"7: hsm.deadline: 49ms is out of bounds; allowed is 50ms to 1m0s"}},
		{"a number for a duration", add("hsm: {deadline: 10}"), []string{`7: hsm.deadline: "10" is no duration; write for example 90s, 15m or 24h`}},
		{"label", add("hsm: {online: {label: " + strings.Repeat("l", 33) + "}}"), []string{"7: hsm.online.label: has 33 bytes; a PKCS#11 label has at most 32"}},
		{"one PIN for both", add("hsm: {iaca: {pin_file: /var/lib/sealkeeper/pins/online}}"), []string{
			"7: hsm.iaca.pin_file: is the file of the online token; the IACA has a token and a PIN of its own"}},
		{"entries", add("lists: {entries: 1000000}"), []string{"7: lists.entries: 1000000 is no power of two from 1024 to 16777216; use 1048576 to let holders hide in a crowd"}},
		{"small lists", add("lists: {entries: 512}"), []string{"7: lists.entries: 512 is no power of two from 1024 to 16777216; use 1048576 to let holders hide in a crowd"}},
		{"large lists", add("lists: {entries: 33554432}"), []string{"7: lists.entries: 33554432 is no power of two from 1024 to 16777216; use 1048576 to let holders hide in a crowd"}},
		{"life", add("lists: {life: 745h}"), []string{"7: lists.life: 745h0m0s is out of bounds; allowed is 10s to 744h0m0s"}},
		{"ttl", add("lists: {ttl: 0s}"), []string{"7: lists.ttl: 0s is out of bounds; allowed is 1s to 24h0m0s"}},
		{"ttl over half of life", add("lists: {life: 1m, ttl: 31s}"), []string{"7: lists.ttl: 31s is more than half of lists.life (1m0s); readers would keep expired lists"}},
		{"parts of a second", add("lists: {life: 90500ms, ttl: 1500ms}"), []string{"7: lists.life: 1m30.5s is no whole number of seconds, as signed times are",
			"7: lists.ttl: 1.5s is no whole number of seconds, as signed times are"}},
		{"CRL", add("lists: {crl_life: 2161h}"), []string{"7: lists.crl_life: 2161h0m0s is out of bounds; allowed is 1h0m0s to 2160h0m0s"}},
		{"nonces", add("evidence: {nonce_life: 61m}"), []string{"7: evidence.nonce_life: 1h1m0s is out of bounds; allowed is 1s to 1h0m0s"}},
		{"attestations", add("evidence: {attestation_age: 745h}"), []string{"7: evidence.attestation_age: 745h0m0s is out of bounds; allowed is 1s to 744h0m0s"}},
		{"skew", add("evidence: {skew: -1s}"), []string{"7: evidence.skew: -1s is out of bounds; allowed is 0s to 5m0s"}},
		{"keys", add("evidence: {max_keys: 65}"), []string{"7: evidence.max_keys: 65 is out of bounds; allowed is 1 to 64"}},
		{"issues", add("limits: {concurrent_issues: 65537}"), []string{"7: limits.concurrent_issues: 65537 is out of bounds; allowed is 1 to 65536"}},
		{"queue", add("limits: {queue: 1048577}"), []string{"7: limits.queue: 1048577 is out of bounds; allowed is 1 to 1048576"}},
		{"drain", add("limits: {drain: 999ms}"), []string{"7: limits.drain: 999ms is out of bounds; allowed is 1s to 5m0s"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			_, err := Parse(name, []byte(c.text))
			if err == nil {
				t.Fatalf("was taken:\n%s", c.text)
			}
			for i := range c.want {
				c.want[i] = name + ":" + c.want[i]
			}
			if want := strings.Join(c.want, "\n"); err.Error() != want {
				t.Errorf("got\n%s\nwant\n%s", err, want)
			}
		})
	}
}

// A few hundred bytes that would expand to gigabytes are refused before anything is expanded.
func TestBombs(t *testing.T) {
	for _, where := range []string{"data", "unknown", "wallet_providers"} {
		bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
		for c := 'b'; c <= 'i'; c++ {
			bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ",") + "]\n"
		}
		if _, err := Parse(name, []byte(bomb+where+": *i\n")); err == nil {
			t.Errorf("%s: taken", where)
		}
	}
	if _, err := Parse(name, []byte(strings.Repeat("[", maxFile))); err == nil {
		t.Error("deep nesting was taken")
	}
	_, err := Parse(name, []byte(minimal+strings.Repeat("#", maxFile)))
	if want := name + ": the file is larger than 12288 bytes"; err == nil || err.Error() != want {
		t.Errorf("a huge file: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sealkeeper.yaml")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "configuration: open "+path) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || c.Policy != filepath.Join(dir, "policy.json") {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.WriteFile(path, []byte(minimal+strings.Repeat(" ", maxFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil {
		t.Error("a huge file was taken")
	}
}

// The example is valid as it stands, and again with everything uncommented; it mentions every key, and what it calls the default is the
// default.
func TestExample(t *testing.T) {
	b, err := os.ReadFile("../../deploy/sealkeeper.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	asIs, err := Parse(name, b)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(b), "\n\n") // the file's own comment
	all := head + "\n\n" + regexp.MustCompile(`(?m)^( *)# `).ReplaceAllString(rest, "$1")
	full, err := Parse(name, []byte(all))
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	if !reflect.DeepEqual(asIs, full) {
		t.Errorf("the commented values are not the defaults:\n%+v\n%+v", asIs, full)
	}
	var mentioned func(rt reflect.Type)
	mentioned = func(rt reflect.Type) {
		for i := range rt.NumField() {
			f := rt.Field(i)
			if !regexp.MustCompile(`(?m)^ *` + f.Tag.Get("yaml") + `:`).MatchString(all) {
				t.Errorf("%s is not in the example", f.Tag.Get("yaml"))
			}
			if f.Type.Kind() == reflect.Struct {
				mentioned(f.Type)
			}
		}
	}
	mentioned(reflect.TypeFor[file]())
}

// No file makes Parse panic; a refusal names the file, and a configuration keeps its promises.
func FuzzParse(f *testing.F) {
	seeds := fuzzing.Strings("", minimal, add("hsm: {workers: 0}"), add("data: x"), "a: &a [*a]", "<<: {data: x}", "? [a]\n: b", "!!binary x", "--- a\n--- b", "data: !!float 1", "\xff\xfe",
		"data: &x /var\npolicy: *x", add("lists: {entries: 0x400}"), add("limits: {drain: 1e9s}"))
	if b, err := os.ReadFile("../../deploy/sealkeeper.example.yaml"); err == nil {
		seeds = append(seeds, b)
	}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, b []byte) bool {
		c, err := Parse(name, b)
		if err != nil {
			if !strings.HasPrefix(err.Error(), name+":") {
				t.Errorf("which file? %v", err)
			}
			return false
		}
		if !filepath.IsAbs(c.Data) || !filepath.IsAbs(c.Policy) || c.Workers < 1 || c.Workers > 64 || c.ListTTL > c.ListLife/2 || c.ListEntries&(c.ListEntries-1) != 0 || c.Online.PINFile == c.IACA.PINFile {
			t.Errorf("%+v", c)
		}
		return true
	})
}

// systemd lends PINs to its service: their place is known at the start only.
func TestCredential(t *testing.T) {
	text := add(`hsm: {online: {pin_file: "credential:online"}}`)
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/sealkeeper.service")
	got, err := Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got.Online.PINFile != "/run/credentials/sealkeeper.service/online" || !got.Online.Lent || got.IACA.Lent {
		t.Errorf("got %+v and %+v", got.Online, got.IACA)
	}
	for _, bad := range []string{"credential:", "credential:..", "credential:a/b"} {
		if _, err := Parse(name, []byte(strings.Replace(text, "credential:online", bad, 1))); err == nil || !strings.Contains(err.Error(), "7: hsm.online.pin_file: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if got, err := Parse(name, []byte(text)); err != nil || got.Online.PINFile != "" || !got.Online.Lent {
		t.Errorf("without systemd, in a command that needs no PIN: %+v, %v", got, err)
	}
}
