// Package config reads the one configuration file of the daemon. It is strict: an unknown or doubled key, a wrong type or a value out of
// bounds is an error that names file and line, says which key it is, and what to do. After Load nobody checks again.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// file is the YAML as written. deploy/sealkeeper.example.yaml explains every key.
type file struct {
	Installation struct {
		Name         string `yaml:"name"`
		Country      string `yaml:"country"`
		State        string `yaml:"state"`
		Organization string `yaml:"organization"`
	} `yaml:"installation"`
	Data          string `yaml:"data"`
	HighWater     string `yaml:"high_water"`
	Policy        string `yaml:"policy"`
	PolicySigners struct {
		Threshold *int     `yaml:"threshold"`
		Keys      []signer `yaml:"keys"`
	} `yaml:"policy_signers"`
	WalletProviders []string `yaml:"wallet_providers"`
	PublicURL       string   `yaml:"public_url"`
	CRLURL          string   `yaml:"crl_url"`
	RAURL           string   `yaml:"ra_url"`
	Listen          struct {
		Issuance   string `yaml:"issuance"`
		Public     string `yaml:"public"`
		Operations string `yaml:"operations"`
	} `yaml:"listen"`
	TLS struct {
		Hosts []string `yaml:"hosts"`
		Life  string   `yaml:"life"`
	} `yaml:"tls"`
	HSM struct {
		Module    string   `yaml:"module"`
		Embedded  *bool    `yaml:"embedded"`
		Algorithm string   `yaml:"algorithm"`
		Workers   *int     `yaml:"workers"`
		Sessions  *int     `yaml:"sessions"`
		Copies    *bool    `yaml:"session_copies"`
		Deadline  string   `yaml:"deadline"`
		Allow     []string `yaml:"allow"`
		Environ   []string `yaml:"environment"`
		Online    token    `yaml:"online"`
		IACA      token    `yaml:"iaca"`
	} `yaml:"hsm"`
	Lists struct {
		Entries *uint64 `yaml:"entries"`
		TTL     string  `yaml:"ttl"`
		Life    string  `yaml:"life"`
		CRLLife string  `yaml:"crl_life"`
		CRLPart *int    `yaml:"client_crl_parts"`
	} `yaml:"lists"`
	Evidence struct {
		NonceLife      string `yaml:"nonce_life"`
		AttestationAge string `yaml:"attestation_age"`
		Skew           string `yaml:"skew"`
		MaxKeys        *int   `yaml:"max_keys"`
	} `yaml:"evidence"`
	Limits struct {
		Concurrent  *int   `yaml:"concurrent_issues"`
		Queue       *int   `yaml:"queue"`
		Connections *int   `yaml:"connections"`
		Memory      *int   `yaml:"memory_mib"`
		Reserve     *int   `yaml:"disk_reserve_mib"`
		Drain       string `yaml:"drain"`
		GiveUp      string `yaml:"give_up_after"`
	} `yaml:"limits"`
}

type signer struct {
	ID   string `yaml:"kid"`
	File string `yaml:"file"`
}

type token struct {
	Label   string `yaml:"label"`
	Serial  string `yaml:"serial"`
	PINFile string `yaml:"pin_file"`
}

// Signer is a registered policy key.
type Signer struct{ ID, File string }

var kidForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}$`)

// Config is what the rest of the program sees: absolute paths, parsed durations, checked bounds.
type Config struct {
	File            string
	Name            string
	Country         string
	State           string
	Organization    string
	Data            string // directory of ledger, tokens, TLS keys and publish directory
	HighWater       string
	Policy          string
	PolicySigners   []Signer // registered policy keys; none: bundles need no signature
	PolicyThreshold int      // how many of them must sign
	WalletProviders []string
	PublicURL       string // without trailing slash
	CRLURL          string // distribution point in certificates: plain HTTP (RFC 5280 section 8: TLS would need the CRL to be checked)
	RAURL           string // of the registration authority at which clients enrol; empty: there is none
	Issuance        string
	Public          string
	Operations      string
	Hosts           []string
	TLSLife         time.Duration // of the issuance listener's certificate
	Module          string
	Embedded        bool // SoftHSM token directories under Data
	Algorithm       string
	Workers         int
	Sessions        int
	Copies          bool
	Deadline        time.Duration
	Allow           []string // what a vendor's module reads and writes: left open by the sandbox
	Environment     []string // NAME=value for a vendor's module; {token} and {worker} stand for the token's name and the worker's place, 1 to Workers
	Online, IACA    Token
	ListEntries     uint64
	ListTTL         time.Duration
	ListLife        time.Duration
	CRLLife         time.Duration
	CRLParts        int           // of the client CA's revocation list, beside the whole; 1: none
	GiveUp          time.Duration // when a reservation that nobody finished is given up
	NonceLife       time.Duration
	AttestationAge  time.Duration
	Skew            time.Duration
	MaxKeys         int
	Concurrent      int
	Queue           int
	Connections     int // of each listener
	Reserve         int // MiB of the ledger's disk, kept for locks
	Memory          int // MiB: where Go's garbage collector begins to work hard
	Drain           time.Duration
}

// Token of the HSM.
type Token struct {
	Name    string
	Label   string
	Serial  string
	PINFile string // 0400; read at each worker start; empty: systemd lends it to its service, and this process is another
	Lent    bool   // PINFile is a systemd credential
	Dir     string // embedded SoftHSM: its directory
	Marker  string // left by a refused PIN
}

// Paths under Data.
func (c *Config) Ledger() string     { return filepath.Join(c.Data, "ledger.db") }
func (c *Config) PublishDir() string { return filepath.Join(c.Data, "publish") }
func (c *Config) TLSDir() string     { return filepath.Join(c.Data, "tls") }
func (c *Config) ServerCert() string { return filepath.Join(c.TLSDir(), "server.pem") }
func (c *Config) ServerKey() string  { return filepath.Join(c.TLSDir(), "server.key") }

// Error is one complaint about one line.
type Error struct {
	File string
	Line int
	Key  string
	What string
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.What)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Key, e.What)
}

const maxFile = 12 << 10 // three times the commented example; YAML takes up to 70 times its size in memory

// Load reads and checks a file. All complaints are joined, so that one run shows everything.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return Parse(path, data)
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// Parse checks the bytes of a configuration file; path is used for messages and as the base of relative paths.
//
// The tree of nodes is compared with the known keys before anything is decoded: only so does every complaint have its line and its key,
// and nothing is expanded that an alias points to.
func Parse(path string, data []byte) (*Config, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: the file is larger than %d bytes", path, maxFile)
	}
	var root, second yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, syntax(path, err)
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, &Error{File: path, Line: max(second.Line, 1), What: "a second YAML document begins; remove it"}
	case !errors.Is(err, io.EOF):
		return nil, syntax(path, err)
	}
	c := checker{file: path, root: &root, base: filepath.Dir(path), bad: map[string]bool{}}
	if root.Kind == yaml.DocumentNode {
		c.root = root.Content[0]
	}
	var raw file
	if c.root.Kind != 0 && c.root.Tag != "!!null" && c.shape(c.root, reflect.TypeFor[file](), "") { // else the file says nothing
		if err := c.root.Decode(&raw); err != nil {
			return nil, syntax(path, err)
		}
	}
	out := c.config(&raw)
	if len(c.errs) > 0 {
		slices.SortStableFunc(c.errs, func(a, b *Error) int { return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.Key, b.Key)) })
		errs := make([]error, len(c.errs))
		for i, e := range c.errs {
			errs[i] = e
		}
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// syntax gives the YAML library's complaint our form.
func syntax(path string, err error) error {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("%s:%s: %s", path, m[1], m[2])
	}
	return fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
}

// variable is the name of an environment variable.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

type checker struct {
	file string
	root *yaml.Node
	base string
	errs []*Error

	bad map[string]bool // keys that were complained about: one complaint each
}

// shape compares a node with the type of its key: known keys, each once, of the right type, without anchors and aliases. What is wrong is
// complained about and taken out of the tree, so that the rest can be decoded and checked; false: n itself has to go.
func (c *checker) shape(n *yaml.Node, t reflect.Type, key string) bool {
	complain := func(n *yaml.Node, key, format string, args ...any) bool {
		c.errs = append(c.errs, &Error{File: c.file, Line: max(n.Line, 1), Key: key, What: fmt.Sprintf(format, args...)})
		c.bad[key] = true
		return false
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return complain(n, key, "anchors and aliases are refused; write the value out")
	case n.Tag == "!!null":
		return complain(n, key, "has no value; write one, or remove the key")
	case t.Kind() == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return complain(n, key, "must hold keys of its own; see deploy/sealkeeper.example.yaml")
		}
		seen := map[string]int{}
		var kept []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			full := strings.TrimPrefix(key+"."+printable(name.Value), ".")
			field, known := fieldOf(t, name)
			switch {
			case !known:
				complain(name, full, "is no key of this file; remove it, or see deploy/sealkeeper.example.yaml")
			case seen[name.Value] > 0:
				complain(name, full, "stands there twice, first on line %d; remove one", seen[name.Value])
			default:
				seen[name.Value] = name.Line
				if c.shape(value, field, full) {
					kept = append(kept, name, value)
				}
			}
		}
		n.Content = kept
		return true
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return complain(n, key, "must be a list; write [a, b]")
		}
		return !slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return !c.shape(e, t.Elem(), key) })
	}
	what, is := "text", n.Tag != "!!binary"
	switch t.Kind() {
	case reflect.Bool:
		what, is = "truth value; write true or false", n.Tag == "!!bool"
	case reflect.Int, reflect.Uint64:
		what, is = "whole number", n.Tag == "!!int"
	}
	if n.Kind != yaml.ScalarNode || !is || n.Decode(reflect.New(t).Interface()) != nil {
		return complain(n, key, "%s is no %s", quoted(n), what)
	}
	return true
}

func fieldOf(t reflect.Type, name *yaml.Node) (reflect.Type, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); name.Kind == yaml.ScalarNode && name.Anchor == "" && f.Tag.Get("yaml") == name.Value {
			return f.Type, true
		}
	}
	return nil, false
}

// printable bounds a foreign key for a person's eyes.
func printable(s string) string {
	s = strings.Trim(strconv.QuoteToASCII(s), `"`)
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return s
}

func quoted(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return "this"
	}
	return `"` + printable(n.Value) + `"`
}

// line finds where a key stands; a missing key is reported at its parent.
func (c *checker) line(key string) int {
	n := c.root
	line := max(n.Line, 1)
	for _, part := range strings.Split(key, ".") {
		found := false
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == part {
				line, n, found = n.Content[i].Line, n.Content[i+1], true
				break
			}
		}
		if !found {
			break
		}
	}
	return line
}

func (c *checker) fail(key, format string, args ...any) {
	for k := key; k != "."; k = parent(k) {
		if c.bad[k] {
			return
		}
	}
	c.errs = append(c.errs, &Error{File: c.file, Line: c.line(key), Key: key, What: fmt.Sprintf(format, args...)})
}

// parent of a.b is a, of a the root (""), of the root ".".
func parent(key string) string {
	if key == "" {
		return "."
	}
	return key[:max(0, strings.LastIndexByte(key, '.'))]
}

func (c *checker) required(key, v string) string {
	if v == "" {
		c.fail(key, "is missing; set it")
	}
	return v
}

func (c *checker) path(key, v, byDefault string) string {
	if v == "" {
		v = byDefault
	}
	if v == "" {
		c.fail(key, "is missing; set it")
		return ""
	}
	if !filepath.IsAbs(v) {
		v = filepath.Join(c.base, v)
	}
	abs, err := filepath.Abs(v)
	if err != nil {
		c.fail(key, "%v", err)
	}
	return abs
}

func (c *checker) duration(key, v string, byDefault, low, high time.Duration) time.Duration {
	if v == "" {
		return byDefault
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		c.fail(key, "%q is no duration; write for example 90s, 15m or 24h", v)
		return byDefault
	}
	if d < low || d > high {
		c.fail(key, "%s is out of bounds; allowed is %s to %s", d, low, high)
	}
	return d
}

func (c *checker) number(key string, v *int, byDefault, low, high int) int {
	if v == nil {
		return byDefault
	}
	if *v < low || *v > high {
		c.fail(key, "%d is out of bounds; allowed is %d to %d", *v, low, high)
	}
	return *v
}

func (c *checker) address(key, v, byDefault string) string {
	if v == "" {
		v = byDefault
	}
	_, port, err := net.SplitHostPort(v)
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil {
		c.fail(key, "%q is no address; write host:port, for example %s", v, byDefault)
	}
	return v
}

func (c *checker) config(f *file) *Config {
	o := &Config{File: c.file}
	o.Name = c.required("installation.name", f.Installation.Name)
	o.Country = c.required("installation.country", f.Installation.Country)
	if o.Country != "" && !regexp.MustCompile(`^[A-Z]{2}$`).MatchString(o.Country) {
		c.fail("installation.country", "%q is no ISO 3166-1 alpha-2 code; write two upper case letters, for example KR", o.Country)
	}
	for key, v := range map[string]string{"installation.name": o.Name, "installation.state": f.Installation.State, "installation.organization": f.Installation.Organization} {
		if len(v) > 48 {
			c.fail(key, "has %d bytes; at most 48 fit into a certificate's name", len(v))
		}
	}
	o.State, o.Organization = f.Installation.State, f.Installation.Organization
	o.Data = c.path("data", f.Data, "")
	o.HighWater = c.path("high_water", f.HighWater, "")
	if o.Data != "" && strings.HasPrefix(o.HighWater, o.Data+string(filepath.Separator)) {
		c.fail("high_water", "lies inside data; put it elsewhere, better on another disk, or an old backup brings its old record along")
	}
	o.Policy = c.path("policy", f.Policy, "")
	for i, k := range f.PolicySigners.Keys {
		if !kidForm.MatchString(k.ID) || slices.ContainsFunc(f.PolicySigners.Keys[:i], func(o signer) bool { return o.ID == k.ID }) {
			c.fail("policy_signers.keys", "%q is no kid or is there twice; use 1 to 64 letters, digits and _.:+-", k.ID)
		}
		o.PolicySigners = append(o.PolicySigners, Signer{ID: k.ID, File: c.path("policy_signers.keys", k.File, "")})
	}
	if n := len(o.PolicySigners); n > 0 {
		o.PolicyThreshold = c.number("policy_signers.threshold", f.PolicySigners.Threshold, n/2+1, 1, n)
	} else if t := f.PolicySigners.Threshold; t != nil && *t != 0 {
		c.fail("policy_signers.threshold", "has no keys to count; name them in policy_signers.keys, or remove it")
	}
	if len(f.WalletProviders) == 0 {
		c.fail("wallet_providers", "is missing; name at least one PEM file with anchors of key attestations")
	}
	for _, w := range f.WalletProviders {
		o.WalletProviders = append(o.WalletProviders, c.path("wallet_providers", w, ""))
	}
	o.PublicURL = strings.TrimSuffix(c.required("public_url", f.PublicURL), "/")
	u, err := url.Parse(o.PublicURL)
	based := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
	if o.PublicURL != "" && !based {
		c.fail("public_url", "%q is no base URL; write https://host[:port][/path]: it becomes part of every credential", f.PublicURL)
	}
	if o.RAURL = f.RAURL; o.RAURL != "" {
		if u, err := url.Parse(o.RAURL); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			c.fail("ra_url", "%q is not https://host or https://host:port", o.RAURL)
		}
	}
	if o.CRLURL = f.CRLURL; o.CRLURL == "" {
		o.CRLURL = "http" + strings.TrimPrefix(strings.TrimPrefix(o.PublicURL, "https"), "http") + "/crl/iaca.crl"
	}
	if u, err := url.Parse(o.CRLURL); (based || f.CRLURL != "") && (err != nil || u.Scheme != "http" || u.Host == "") {
		c.fail("crl_url", "%q is no plain HTTP URL; a CRL is signed, and fetching it over TLS would need another CRL", o.CRLURL)
	}
	o.Issuance = c.address("listen.issuance", f.Listen.Issuance, "127.0.0.1:8443")
	o.Public = c.address("listen.public", f.Listen.Public, "127.0.0.1:8080")
	o.Operations = c.address("listen.operations", f.Listen.Operations, "127.0.0.1:9464")
	for i, l := range [][2]string{{"listen.issuance", o.Issuance}, {"listen.public", o.Public}, {"listen.operations", o.Operations}} {
		if before := []string{o.Issuance, o.Public, o.Operations}[:i]; slices.Contains(before, l[1]) && !strings.HasSuffix(l[1], ":0") {
			c.fail(l[0], "%s is the address of another listener; each has its own", l[1])
		}
	}
	for _, h := range f.TLS.Hosts {
		if h == "" || strings.ContainsAny(h, "/ \t\r\n@") || strings.Contains(h, ":") && net.ParseIP(h) == nil {
			c.fail("tls.hosts", "%q is no host name or IP address; leave out scheme and port", h)
		}
	}
	if o.Hosts = f.TLS.Hosts; len(o.Hosts) == 0 {
		o.Hosts = []string{"localhost", "127.0.0.1"}
	}
	o.Module = f.HSM.Module
	o.Embedded = f.HSM.Embedded == nil || *f.HSM.Embedded
	if !o.Embedded && o.Module == "" {
		c.fail("hsm.module", "is missing; name the PKCS#11 library of your HSM, or set hsm.embedded: true")
	}
	switch o.Algorithm = f.HSM.Algorithm; o.Algorithm {
	case "":
		o.Algorithm = "ES256"
	case "ES256", "ES384", "EdDSA":
	default:
		c.fail("hsm.algorithm", "%q is not supported; use ES256, ES384 or EdDSA", o.Algorithm)
	}
	o.Workers = c.number("hsm.workers", f.HSM.Workers, 2, 1, 64)
	o.Sessions = c.number("hsm.sessions", f.HSM.Sessions, 1, 1, 64)
	o.Copies = o.Embedded && (f.HSM.Copies == nil || *f.HSM.Copies)
	if !o.Embedded && f.HSM.Copies != nil && *f.HSM.Copies {
		c.fail("hsm.session_copies", "is for the embedded SoftHSM only; remove it")
	}
	o.Deadline = c.duration("hsm.deadline", f.HSM.Deadline, time.Second, 50*time.Millisecond, time.Minute)
	for _, p := range f.HSM.Allow {
		o.Allow = append(o.Allow, c.path("hsm.allow", p, ""))
	}
	if o.Embedded && len(o.Allow) > 0 {
		c.fail("hsm.allow", "is for modules of vendors; the embedded SoftHSM needs nothing more, remove it")
	}
	for _, v := range f.HSM.Environ {
		// What the loader or Go's runtime obeys would change this program, not the module.
		if name, value, ok := strings.Cut(v, "="); !ok || !variable.MatchString(name) || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "GO") ||
			strings.ContainsRune(value, 0) {
			c.fail("hsm.environment", "%q is no variable of a module; write NAME=value, and neither LD_… nor GO…", printable(v))
		}
	}
	if o.Environment = append(o.Environment, f.HSM.Environ...); o.Embedded && len(o.Environment) > 0 {
		c.fail("hsm.environment", "is for modules of vendors; the embedded SoftHSM needs nothing more, remove it")
	}
	o.Online = c.token("online", f.HSM.Online, o)
	o.IACA = c.token("iaca", f.HSM.IACA, o)
	if o.Online.PINFile == o.IACA.PINFile && o.Online.PINFile != "" {
		c.fail("hsm.iaca.pin_file", "is the file of the online token; the IACA has a token and a PIN of its own")
	}
	if !o.Embedded && o.Online.Label == o.IACA.Label && o.Online.Serial == o.IACA.Serial {
		c.fail("hsm.iaca.label", "names the online token; the IACA has a token and a PIN of its own")
	}
	o.ListEntries = 1 << 20
	if e := f.Lists.Entries; e != nil {
		if o.ListEntries = *e; o.ListEntries < 1024 || o.ListEntries > 1<<24 || o.ListEntries&(o.ListEntries-1) != 0 {
			c.fail("lists.entries", "%d is no power of two from 1024 to 16777216; use 1048576 to let holders hide in a crowd", o.ListEntries)
		}
	}
	o.ListLife = c.duration("lists.life", f.Lists.Life, 12*time.Hour, 10*time.Second, 31*24*time.Hour)
	o.ListTTL = c.duration("lists.ttl", f.Lists.TTL, time.Minute, time.Second, 24*time.Hour)
	if o.ListTTL > o.ListLife/2 {
		c.fail("lists.ttl", "%s is more than half of lists.life (%s); readers would keep expired lists", o.ListTTL, o.ListLife)
	}
	o.CRLLife = c.duration("lists.crl_life", f.Lists.CRLLife, 30*24*time.Hour, time.Hour, 90*24*time.Hour)
	o.TLSLife = c.duration("tls.life", f.TLS.Life, 90*24*time.Hour, 10*time.Second, 397*24*time.Hour)
	if o.TLSLife%time.Second != 0 {
		c.fail("tls.life", "%s is no whole number of seconds, as signed times are", o.TLSLife)
	}
	o.CRLParts = c.number("lists.client_crl_parts", f.Lists.CRLPart, 1, 1, 64)
	for _, v := range []struct {
		key string
		d   time.Duration
	}{{"lists.life", o.ListLife}, {"lists.ttl", o.ListTTL}, {"lists.crl_life", o.CRLLife}} {
		if v.d%time.Second != 0 { // policy would refuse every list
			c.fail(v.key, "%s is no whole number of seconds, as signed times are", v.d)
		}
	}
	o.NonceLife = c.duration("evidence.nonce_life", f.Evidence.NonceLife, 5*time.Minute, time.Second, time.Hour)
	o.AttestationAge = c.duration("evidence.attestation_age", f.Evidence.AttestationAge, 24*time.Hour, time.Second, 31*24*time.Hour)
	o.Skew = c.duration("evidence.skew", f.Evidence.Skew, 30*time.Second, 0, 5*time.Minute)
	o.MaxKeys = c.number("evidence.max_keys", f.Evidence.MaxKeys, 16, 1, 64)
	o.Concurrent = c.number("limits.concurrent_issues", f.Limits.Concurrent, 256, 1, 1<<16)
	o.Queue = c.number("limits.queue", f.Limits.Queue, 1024, 1, 1<<20)
	o.Connections = c.number("limits.connections", f.Limits.Connections, 2048, 8, 1<<16)
	o.GiveUp = c.duration("limits.give_up_after", f.Limits.GiveUp, 24*time.Hour, time.Second, 24*time.Hour)
	o.Reserve = c.number("limits.disk_reserve_mib", f.Limits.Reserve, 64, 0, 1<<20)
	o.Memory = c.number("limits.memory_mib", f.Limits.Memory, 512, 64, 1<<20)
	o.Drain = c.duration("limits.drain", f.Limits.Drain, 10*time.Second, time.Second, 5*time.Minute)
	return o
}

func (c *checker) token(name string, t token, o *Config) Token {
	out := Token{Name: name, Label: t.Label, Serial: t.Serial}
	if out.Label == "" {
		out.Label = "sealkeeper-" + name
	}
	if len(out.Label) > 32 {
		c.fail("hsm."+name+".label", "has %d bytes; a PKCS#11 label has at most 32", len(out.Label))
	}
	byDefault := ""
	if o.Data != "" {
		byDefault = filepath.Join(o.Data, "pins", name)
	}
	if lent, ok := strings.CutPrefix(t.PINFile, "credential:"); ok {
		out.PINFile, out.Lent = c.credential("hsm."+name+".pin_file", lent), true
	} else if t.PINFile != "" || byDefault != "" { // without data only data is complained about
		out.PINFile = c.path("hsm."+name+".pin_file", t.PINFile, byDefault)
	}
	if o.Embedded {
		out.Dir = filepath.Join(o.Data, "tokens", name)
	}
	out.Marker = filepath.Join(o.Data, "pin-refused-"+name)
	return out
}

// credential is the path of what systemd lends to its service (LoadCredential= and LoadCredentialEncrypted=). Many commands in a shell read the same
// configuration and no PIN, so without systemd there is no path, and whoever needs one says so.
func (c *checker) credential(key, name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/'):
		c.fail(key, "credential:%s names no credential; write credential:NAME as in LoadCredential=NAME:…", name)
	case dir == "":
		return ""
	}
	return filepath.Join(dir, name)
}
