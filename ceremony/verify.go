package ceremony

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/internal/signed"
	"sealkeeper/officer"
)

// Problem is something that is not as it must be.
type Problem struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Check is one question put to a transcript.
type Check struct {
	What     string    `json:"what"`
	Checked  int       `json:"checked"`
	Skipped  string    `json:"skipped,omitempty"` // why it was not put
	Problems []Problem `json:"problems,omitempty"`
}

func (c *Check) fail(reason, format string, args ...any) {
	c.Problems = append(c.Problems, Problem{"ceremony." + reason, fmt.Sprintf(format, args...)})
}

func (c *Check) refused(err error) {
	var r *Refusal
	if errors.As(err, &r) {
		c.Problems = append(c.Problems, Problem{r.Code(), r.Detail()})
		return
	}
	c.fail("malformed", "%s", err)
}

// Report of a verification.
type Report struct {
	Transcript   string    `json:"transcript"` // SHA-256 of what was signed
	Installation string    `json:"installation,omitempty"`
	Opened       time.Time `json:"opened,omitzero"`
	Ended        time.Time `json:"ended,omitzero"`
	Runs         int       `json:"runs"` // of the program; more than one: the ceremony was interrupted
	Signed       []string  `json:"signed"`
	Need         int       `json:"need"`
	Head         Head      `json:"head"`
	Checks       []Check   `json:"checks"`
}

// Clean says whether nothing is wrong with what was checked.
func (r *Report) Clean() bool {
	return !slices.ContainsFunc(r.Checks, func(c Check) bool { return len(c.Problems) > 0 })
}

func (r *Report) first() string {
	for _, c := range r.Checks {
		for _, p := range c.Problems {
			return p.Code + ": " + p.Detail
		}
	}
	return ""
}

func (r *Report) check(what string) *Check {
	r.Checks = append(r.Checks, Check{What: what})
	return &r.Checks[len(r.Checks)-1]
}

// Outside is what a transcript can be compared with. What is nil is not compared.
type Outside struct {
	Registry     []byte            // as officers keep it, in whatever form ParseRegistry reads
	Certificates map[string][]byte // DER, by file name
	// Root of another copy of the log over its first entries; an error says why there is none.
	Root func(size uint64) (root [32]byte, err error)

	signatures bool
	envelope   *signed.Envelope
}

// Verify reads a transcript with its signatures, and holds it against itself and what is outside. An error is a paper that is no transcript.
func Verify(data []byte, o Outside) (*Report, error) {
	e, err := signed.Parse(data, limits)
	if err != nil {
		if !signed.Is(data) {
			if _, err := parse(bytes.TrimSpace(data)); err == nil {
				return nil, refuse("short", "nobody signed the transcript")
			}
		}
		return nil, refuse("malformed", err.Error())
	}
	t, err := parse(e.Payload)
	if err != nil {
		return nil, err
	}
	o.signatures, o.envelope = true, e
	return t.verify(o), nil
}

// Signed says whether as many officers signed a transcript as must, and who did. The transcript verifies, or it is an error.
func Signed(data []byte) (ids []string, err error) {
	r, err := Verify(data, Outside{})
	if err != nil {
		return nil, err
	}
	for _, c := range r.Checks {
		for _, p := range c.Problems {
			return r.Signed, &Refusal{p.Code, p.Detail}
		}
	}
	return r.Signed, nil
}

func (t *Transcript) verify(o Outside) *Report {
	r := &Report{Transcript: digest(t.payload), Head: t.file.Head, Signed: []string{}, Checks: make([]Check, 0, 10)}
	for _, e := range t.entries {
		if e.Step == StepBegun {
			r.Runs++
		}
		r.Ended = e.At
	}

	c := r.check("every officer signed the opening statement, with the key of the registry")
	opened, err := Open([]byte(t.file.Opening), []byte(t.file.Registry))
	if err != nil {
		c.refused(err)
		return r // nothing else means anything
	}
	c.Checked = len(opened.signers)
	r.Installation, r.Opened, r.Need = opened.opening.Installation, opened.opening.At, need(opened.registry)

	c = r.check("the entries are one chain that begins with the opening statement")
	chain := NewChain(opened)
	for i := range t.entries {
		if err := chain.follows(&t.entries[i]); err != nil {
			c.refused(err)
		}
		chain.entries, chain.raw = append(chain.entries, t.entries[i]), append(chain.raw, t.file.Entries[i])
		c.Checked++
	}

	t.steps(r.check("every step left its evidence, in the order of the script"), opened)
	t.evidence(r.check("certificates belong to the keys that were made, and to their issuers"))
	t.log(r.check("the ledger's log has each entry, and each key and certificate of the log has an entry"))

	c = r.check("the log's entries give the root that was written down")
	c.Checked = len(t.leaves)
	if root, err := merkle(t.file.Leaves); err != nil || uint64(len(t.leaves)) != t.file.Head.Size || hexOf(root[:]) != t.file.Head.Root {
		c.fail("log", "%d leaves do not give the root %.16s… of %d entries", len(t.leaves), t.file.Head.Root, t.file.Head.Size)
	}

	if o.signatures {
		c = r.check(fmt.Sprintf("%d officers or more signed the transcript", r.Need))
		t.signatures(c, r, o.envelope, opened.registry)
	}
	t.outside(r, o, opened)
	return r
}

// need is as many officers as the registry's strictest action.
func need(r *officer.Registry) (most int) {
	for _, rule := range r.Rules {
		most = max(most, rule.Need)
	}
	return most
}

func (t *Transcript) signatures(c *Check, r *Report, e *signed.Envelope, registry *officer.Registry) {
	ids, err := by(e, kindTranscript, registry)
	if err != nil {
		c.refused(err)
		return
	}
	r.Signed, c.Checked = ids, len(ids)
	officers := 0
	for _, p := range registry.Officers {
		if p.Role == officer.RoleOfficer && slices.Contains(ids, p.ID) {
			officers++
		}
	}
	if officers < r.Need {
		c.fail("short", "%d officers of at least %d signed the transcript: %s", officers, r.Need, some(ids))
	}
}

// steps: the first thing that is done is to register the officers, and nothing of the script is missing.
func (t *Transcript) steps(c *Check, o *Opened) {
	place := map[Step]int{} // of the first entry of each step
	for i, e := range t.entries {
		c.Checked++
		if _, seen := place[e.Step]; !seen {
			place[e.Step] = i
		}
		switch {
		case e.Step == StepBegun && (e.Again != (i > 0)):
			c.fail("chain", "entry %d says that the ceremony began, or that it went on, and it is not so", e.N)
		case e.Step == StepBegun && e.Program.SHA256 != o.opening.Program.SHA256:
			c.fail("other", "entry %d: the program that was used is not the one of the opening statement", e.N)
		case e.Step == StepOfficers && e.SHA256 != o.opening.Registry:
			c.fail("registry", "entry %d: the officers that were registered are not those of the opening statement", e.N)
		case e.Step == StepBackup:
			provenBackup(c, e, o)
		case i == 0 && e.Step != StepBegun:
			c.fail("incomplete", "the first entry does not say which program began")
		}
	}
	last := -1
	for _, s := range []Step{StepBegun, StepOfficers, StepToken, StepSecret, StepKey, StepCertificate, StepCRL, StepServer, StepBackup, StepEnd} {
		at, ok := place[s]
		switch {
		case !ok:
			c.fail("incomplete", "there is no entry of step %s", s)
		case at < last:
			c.fail("chain", "step %s came before its time", s)
		}
		last = max(last, at)
	}
	if at, ok := place[StepEnd]; ok && at != len(t.entries)-1 {
		c.fail("chain", "there are entries after the end")
	}
}

// provenBackup: each officer has a share, and as many of them as open a backup did.
func provenBackup(c *Check, e Entry, o *Opened) {
	var holders, officers []string
	for _, p := range e.Shares {
		holders = append(holders, p.ID)
	}
	for _, p := range o.registry.Officers {
		if p.Role == officer.RoleOfficer {
			officers = append(officers, p.ID)
		}
	}
	slices.Sort(holders)
	slices.Sort(officers)
	by := slices.Compact(slices.Sorted(slices.Values(e.By)))
	switch {
	case !slices.Equal(holders, officers):
		c.fail("incomplete", "entry %d: the shares of the backup key are for %s, and not for the officers", e.N, some(holders))
	case e.Need < 2 || len(by) < e.Need || slices.ContainsFunc(by, func(id string) bool { return !slices.Contains(officers, id) }):
		c.fail("incomplete", "entry %d: the backup was opened by %s; it takes %d officers, and 2 or more", e.N, some(by), e.Need)
	}
}

// evidence: the bytes are those of the hashes, keys and certificates fit, and each certificate is signed by one of the ceremony's.
func (t *Transcript) evidence(c *Check) {
	keys, certs := map[string]string{}, t.certificates()
	for _, e := range t.entries {
		if e.Step == StepKey {
			if keys[e.Name] != "" {
				c.fail("evidence", "entry %d: key %s was made before", e.N, e.Name)
			}
			keys[e.Name] = e.SHA256
		}
	}
	for _, e := range t.entries {
		if len(e.Certificate) == 0 {
			continue
		}
		c.Checked++
		cert, err := x509.ParseCertificate(e.Certificate)
		switch {
		case digest(e.Certificate) != e.SHA256:
			c.fail("evidence", "entry %d: the certificate has another SHA-256", e.N)
		case err != nil:
			c.fail("evidence", "entry %d: the certificate can't be read", e.N)
		case e.Step == StepCertificate && keys[e.Name] != digest(cert.RawSubjectPublicKeyInfo):
			c.fail("evidence", "entry %d: the certificate is for another key than %s, which was made", e.N, e.Name)
		case !e.Until.Equal(cert.NotAfter):
			c.fail("evidence", "entry %d: the certificate ends at %s", e.N, cert.NotAfter.Format(time.RFC3339))
		case !slices.ContainsFunc(certs, func(by *x509.Certificate) bool { return cert.CheckSignatureFrom(by) == nil }):
			c.fail("evidence", "entry %d: no certificate of this ceremony signed it", e.N)
		}
	}
}

// Names under which a ceremony stands in the ledger.
const (
	MetaOpening    = "ceremony/opening"
	MetaClosed     = "ceremony/closed"
	MetaTranscript = "ceremony/transcript"
	metaEntry      = "ceremony/entry/"
	metaSecret     = "domain-secret/"
	metaBackupKey  = "backup/key"
)

// MetaEntry names the n-th entry.
func MetaEntry(n int) string { return fmt.Sprintf("%s%04d", metaEntry, n) }

// log: what the ledger wrote down by itself and what the entries say are one story, in both directions.
func (t *Transcript) log(c *Check) {
	has := map[string]bool{} // step and hash of entries
	for _, e := range t.entries {
		has[string(e.Step)+" "+e.SHA256] = true
	}
	settled, keys, secrets := map[string]bool{}, map[string]bool{}, map[string]bool{}
	entries, officers, backupKey := 0, false, false
	if len(t.leaves) == 0 || t.leaves[0].Kind != "meta" || t.leaves[0].Name != MetaOpening || !bytes.Equal(t.leaves[0].Digest, sum([]byte(t.file.Opening))) {
		c.fail("log", "the log does not begin with this opening statement")
	}
	for i, l := range t.leaves {
		c.Checked++
		d := hexOf(l.Digest)
		switch {
		case l.Kind == "meta" && l.Name == MetaOpening:
			if i > 0 {
				c.fail("log", "leaf %d opens a ceremony again", i)
			}
		case l.Kind == "meta" && strings.HasPrefix(l.Name, metaEntry):
			if entries >= len(t.entries) || l.Name != MetaEntry(entries+1) || !bytes.Equal(l.Digest, sum(t.file.Entries[entries])) {
				c.fail("log", "leaf %d is %s, which is not the entry that comes next", i, l.Name)
			}
			entries++
		case l.Kind == "meta" && strings.HasPrefix(l.Name, "ceremony/"):
			c.fail("log", "leaf %d is %s, which comes after the head", i, l.Name)
		case l.Kind == "meta" && strings.HasPrefix(l.Name, metaSecret):
			secrets[d] = true
			if !has[string(StepSecret)+" "+d] {
				c.fail("log", "leaf %d: a domain secret that no entry tells of", i)
			}
		case l.Kind == "meta" && l.Name == metaBackupKey:
			backupKey = true
		case l.Kind == "officers":
			if officers || d != digest([]byte(t.file.Registry)) {
				c.fail("log", "leaf %d registers officers again, or others", i)
			}
			officers = true
		case l.Kind == "key":
			if !officers {
				c.fail("log", "leaf %d: a key before the officers were registered", i)
			}
			planned := l.State == "planned" && d == digest(nil) // it has a name, and is not made yet
			if planned && !slices.ContainsFunc(t.entries, func(e Entry) bool { return e.Step == StepKey && e.Name == l.Name }) {
				c.fail("log", "leaf %d: key %.40s was to be made, and no entry tells of it", i, l.Name)
			}
			if planned {
				break
			}
			keys[d] = true
			if !has[string(StepKey)+" "+d] {
				c.fail("log", "leaf %d: key %.40s, which no entry tells of", i, l.Name)
			}
		case l.Kind == "settle":
			settled[d] = true
			if len(l.Digest) > 0 && !has[string(StepCertificate)+" "+d] && !has[string(StepServer)+" "+d] && !has[string(StepCRL)+" "+d] {
				c.fail("log", "leaf %d: something was signed that no entry tells of", i)
			}
		case l.Operation == "issue" || l.Operation == "refresh":
			c.fail("log", "leaf %d: a card before the end of the ceremony", i)
		}
	}
	if !officers {
		c.fail("log", "no leaf registers the officers")
	}
	if entries != len(t.entries) {
		c.fail("log", "%d of %d entries are in the log", entries, len(t.entries))
	}
	for _, e := range t.entries {
		in := map[Step]map[string]bool{StepKey: keys, StepSecret: secrets, StepCertificate: settled, StepServer: settled, StepCRL: settled}[e.Step]
		if e.Step == StepBackup && !backupKey {
			c.fail("log", "entry %d: the ledger's log has no backup key", e.N)
		}
		if in != nil && !in[e.SHA256] {
			c.fail("log", "entry %d: the ledger's log has no %s with this SHA-256", e.N, e.Step)
		}
	}
}

// merkle is the root hash of a log (RFC 6962).
func merkle(bodies []string) (root tlog.Hash, err error) {
	hashes := make(memory, 0, 2*len(bodies))
	for i, b := range bodies {
		more, err := tlog.StoredHashesForRecordHash(int64(i), tlog.RecordHash([]byte(b)), hashes)
		if err != nil {
			return root, err
		}
		hashes = append(hashes, more...)
	}
	return tlog.TreeHash(int64(len(bodies)), hashes)
}

type memory []tlog.Hash

func (m memory) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		if n < 0 || n >= int64(len(m)) {
			return nil, fmt.Errorf("there is no hash %d", n)
		}
		out[i] = m[n]
	}
	return out, nil
}

// outside compares with what others keep.
func (t *Transcript) outside(r *Report, o Outside, opened *Opened) {
	if !o.signatures {
		return
	}
	c := r.check("the officers are those of your registry")
	if o.Registry == nil {
		c.Skipped = "name yours with --registry"
	} else if theirs, err := officer.ParseRegistry(o.Registry); err != nil {
		c.fail("registry", "%s", err)
	} else {
		theirs.Epoch, theirs.Installation = opened.registry.Epoch, opened.registry.Installation
		c.Checked = len(theirs.Officers)
		a, err := theirs.JSON()
		b, err2 := opened.registry.JSON()
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			c.fail("other", "your registry of officers is another one than that of the transcript")
		}
	}

	c = r.check("certificates are those that you were shown")
	if o.Certificates == nil {
		c.Skipped = "name a directory with --certificates"
	} else {
		for _, file := range slices.Sorted(maps.Keys(o.Certificates)) {
			c.Checked++
			if !slices.ContainsFunc(t.entries, func(e Entry) bool { return bytes.Equal(e.Certificate, o.Certificates[file]) }) {
				c.fail("other", "%s was not made in this ceremony", file)
			}
		}
		if c.Checked == 0 {
			c.fail("other", "there is no certificate to compare with")
		}
	}

	c = r.check("the ledger went on from this head")
	if o.Root == nil {
		c.Skipped = "name a copy of the ledger with --ledger"
	} else if root, err := o.Root(t.file.Head.Size); err != nil {
		c.fail("other", "%s", err)
	} else {
		c.Checked = 1
		if hexOf(root[:]) != t.file.Head.Root {
			c.fail("other", "the first %d entries of the ledger give another root: it is another ledger, or it was written anew", t.file.Head.Size)
		}
	}
}
