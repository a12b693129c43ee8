package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"sealkeeper/backup"
	"sealkeeper/ca"
	"sealkeeper/ceremony"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/config"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/signer"
	"sealkeeper/softhsm"
)

// A ceremony makes an installation before the eyes of its officers. It stops twice, for their signatures, and wherever it is interrupted; the
// same command goes on from there. What is under way is in the ledger, entry by entry; papers to be signed lie in {data}/ceremony.

// initOptions say how an installation is made.
type initOptions struct {
	officers   string   // registry of officers
	signatures []string // copies of a paper that officers signed elsewhere
	shares     string   // directory for the officers' shares of the backup key
	phrases    string   // directory with the passphrases for them; empty: they are asked for
	dev        bool     // no ceremony

	report func(string)         // a step is done
	say    func(lines []string) // what people read
	waits  func(paper string)   // for officers to sign it
}

// progress of an installation, as its ledger has it.
type progress struct {
	size       uint64 // of the journal
	opening    []byte
	closed     []byte
	transcript []byte
}

// look reads how far an installation has come. It makes nothing.
func look(ctx context.Context, c *config.Config) (p progress, err error) {
	if _, err := os.Stat(c.Ledger()); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	l, err := openLedger(ctx, c, clock.System())
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return progressOf(ctx, l)
}

func progressOf(ctx context.Context, l *ledger.Ledger) (p progress, err error) {
	if p.size, _, err = l.Head(ctx); err != nil {
		return p, err
	}
	for name, to := range map[string]*[]byte{ceremony.MetaOpening: &p.opening, ceremony.MetaClosed: &p.closed, ceremony.MetaTranscript: &p.transcript} {
		if *to, _, err = l.Meta(ctx, name); err != nil {
			return p, err
		}
	}
	return p, nil
}

// openLedger opens the ledger alone, as a command does that needs no token.
func openLedger(ctx context.Context, c *config.Config, cl clock.Clock) (*ledger.Ledger, error) {
	if err := os.MkdirAll(filepath.Dir(c.HighWater), 0o700); err != nil {
		return nil, fmt.Errorf("high_water: %w", err)
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: c.Ledger(), HighWater: c.HighWater, Publish: c.PublishDir(), Clock: cl, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		BaseURL: c.PublicURL, ListSize: c.ListEntries})
	if err != nil {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return nil, fmt.Errorf("ledger %s: %w", c.Ledger(), err)
	}
	return l, nil
}

// unfinished refuses to use an installation whose ceremony did not come to its end.
func unfinished(ctx context.Context, c *config.Config, l *ledger.Ledger) error {
	p, err := progressOf(ctx, l)
	if err == nil && p.opening != nil && p.transcript == nil {
		err = &coded{exitUsage, fmt.Errorf("the ceremony of this installation is not finished: run `sealkeeperd init --config %s`", c.File)}
	}
	return err
}

// conductor leads one run of a ceremony.
type conductor struct {
	c  *config.Config
	cl clock.Clock
	initOptions
	opened *ceremony.Opened
	chain  *ceremony.Chain
	ledger *ledger.Ledger
}

// Papers of a ceremony.
const (
	openingFile    = "opening.json"
	registryFile   = "registry.json"
	transcriptFile = "transcript.json"
)

func (d *conductor) paper(name string) string { return filepath.Join(d.c.Data, "ceremony", name) }

// hold leads a ceremony as far as it goes now.
func (d *conductor) hold(ctx context.Context, p progress) (err error) {
	if p.closed == nil {
		envelope, registry, err := d.open(ctx, p)
		if err != nil || envelope == nil {
			return err
		}
		if d.opened, err = ceremony.Open(envelope, registry); err != nil {
			return err
		}
		if p.closed, err = d.make(ctx); err != nil {
			return err
		}
		d.report("transcript closed")
	}
	return d.sign(ctx, p.closed)
}

// open makes the opening statement, or finds it with what officers signed since. A nil envelope: it was made now, and waits for them.
func (d *conductor) open(ctx context.Context, p progress) (envelope, registry []byte, err error) {
	given, err := d.registry()
	if err != nil {
		return nil, nil, err
	}
	registry, err = os.ReadFile(d.paper(registryFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if registry != nil && given != nil && !same(registry, given) {
		return nil, nil, &coded{exitUsage, fmt.Errorf("%s is not the registry with which the ceremony was opened: remove %s to open another one, as long as no key was made", d.officers, filepath.Dir(d.paper("")))}
	}
	if p.opening != nil {
		return p.opening, registry, nil
	}
	envelope, err = os.ReadFile(d.paper(openingFile))
	if errors.Is(err, fs.ErrNotExist) {
		if given == nil {
			return nil, nil, &coded{exitUsage, errors.New("name the registry of officers with --officers, or use --dev for an installation without a ceremony")}
		}
		return nil, nil, d.begin(given)
	}
	if err != nil {
		return nil, nil, err
	}
	if envelope, err = d.gather(openingFile, envelope); err != nil {
		return nil, nil, err
	}
	if read, err := ceremony.Read(envelope); err != nil || len(read.Signers) == 0 {
		return nil, nil, errors.Join(err, d.present(envelope, registry))
	}
	return envelope, registry, nil
}

// registry of the flag, as the ledger will keep it.
func (d *conductor) registry() ([]byte, error) {
	if d.officers == "" {
		return nil, nil
	}
	data, err := os.ReadFile(d.officers)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	r, err := officer.ParseRegistry(data)
	if err == nil && (r.Epoch > 1 || r.Installation != "") {
		err = errors.New("a first registry of officers has no epoch, or 1, and no installation")
	}
	if err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("%s: %w", d.officers, err)}
	}
	r.Epoch = 1
	if r.Installation, err = officer.NewInstallation(rand.Reader); err != nil {
		return nil, err
	}
	return r.JSON()
}

// same says whether two registries differ in nothing but the installation that was drawn for them.
func same(a, b []byte) bool {
	x, err := officer.ParseRegistry(a)
	y, err2 := officer.ParseRegistry(b)
	if err != nil || err2 != nil {
		return false
	}
	x.Installation = y.Installation
	again, err := x.JSON()
	return err == nil && bytes.Equal(again, b)
}

// begin writes the opening statement, for the officers to sign.
func (d *conductor) begin(registry []byte) error {
	source, err := loadPolicy(d.c)
	if err != nil {
		return &coded{exitUsage, err}
	}
	bundle, _, err := source.Signers.Open(d.c.Policy, source.File)
	if err != nil {
		return &coded{exitUsage, err}
	}
	program, err := self()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(registry)
	opening, err := ceremony.NewOpening(ceremony.Opening{Installation: d.c.Name, Country: d.c.Country, Organization: d.c.Organization, Registry: hex.EncodeToString(sum[:]),
		Policy: bundle.Hash().String(), Program: *program, Script: ceremony.Script}, d.cl.Now(), rand.Reader)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.paper(""), 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(d.paper(registryFile), registry, 0o644); err != nil {
		return err
	}
	if err := durable.WriteFile(d.paper(openingFile), opening, 0o644); err != nil {
		return err
	}
	crashpoint.Here("ceremony.opening-written")
	d.report("opening statement " + d.paper(openingFile))
	return d.present(opening, registry)
}

// present shows an opening statement that nobody signed yet.
func (d *conductor) present(opening, registry []byte) error {
	r, err := officer.ParseRegistry(registry)
	if err != nil {
		return err
	}
	read, err := ceremony.Read(opening)
	if err != nil {
		return err
	}
	lines := append(read.Text(), "The registry:")
	for _, o := range r.Officers {
		lines = append(lines, fmt.Sprintf("  %-9s %-12s %s", o.Role, o.ID, o.Name), "    key "+officer.Fingerprint(o.Key))
	}
	d.say(append(lines, "SHA-256 of this statement:", "  "+ceremony.Fours(read.SHA256())))
	d.next("every officer", openingFile)
	return nil
}

// next says what people do now.
func (d *conductor) next(who, paper string) {
	d.waits(d.paper(paper))
	d.say([]string{"", "Now " + who + ": sealctl ceremony sign " + d.paper(paper) + " --officer ID --key FILE   (or --module SO --token LABEL)",
		"Then:            sealkeeperd init --config " + d.c.File + "   (with --signatures FILE for copies that were signed elsewhere)"})
}

// gather adds signatures of other copies to a paper.
func (d *conductor) gather(name string, paper []byte) ([]byte, error) {
	var copies [][]byte
	for _, f := range d.signatures {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, &coded{exitUsage, err}
		}
		copies = append(copies, data)
	}
	all, err := ceremony.Gather(paper, copies...)
	if err == nil && len(copies) > 0 {
		err = durable.WriteFile(d.paper(name), all, 0o644)
	}
	return all, err
}

// self is the program that runs.
func self() (*ceremony.Program, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return &ceremony.Program{Version: version, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// make does what the script says, from where an earlier run stopped, and returns the transcript.
func (d *conductor) make(ctx context.Context) (transcript []byte, err error) {
	if d.ledger, err = openLedger(ctx, d.c, d.cl); err != nil {
		return nil, err
	}
	defer func() {
		if d.ledger != nil {
			err = errors.Join(err, d.ledger.Close())
		}
	}()
	if err := d.register(ctx); err != nil {
		return nil, err
	}
	if d.chain.Has(ceremony.StepEnd, "") {
		return d.close(ctx)
	}
	if d.c.Embedded {
		for _, t := range []config.Token{d.c.Online, d.c.IACA} {
			if err := foundToken(d.c, t, func(string) {}); err != nil {
				return nil, err
			}
		}
	}
	for _, t := range []config.Token{d.c.Online, d.c.IACA} {
		serial := t.Serial
		if d.c.Embedded {
			if serial, err = softhsm.Serial(t.Dir); err != nil {
				return nil, fmt.Errorf("token %s: %w", t.Name, err)
			}
		}
		if err := d.note(ctx, ceremony.Entry{Step: ceremony.StepToken, Name: t.Name, Label: t.Label, Serial: serial}); err != nil {
			return nil, err
		}
	}
	err = d.ledger.Close()
	if d.ledger = nil; err != nil {
		return nil, err
	}

	a, err := assemble(ctx, d.c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), true, false, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close(context.WithoutCancel(ctx))) }()
	d.ledger = a.ledger
	defer func() { d.ledger = nil }()
	if err := d.seen(ctx); err != nil {
		return nil, err
	}
	var lost error
	if err := a.ca.Found(ctx, ca.Founding(d.c.Name, d.c.Algorithm, d.c.PublicURL, d.c.Copies), func(string) { lost = errors.Join(lost, d.seen(ctx)) }); err != nil {
		return nil, err
	}
	if err := errors.Join(lost, d.seen(ctx)); err != nil {
		return nil, err
	}
	if _, err := listener(ctx, a); err != nil {
		return nil, err
	}
	if err := d.seen(ctx); err != nil {
		return nil, err
	}
	if err := d.backUp(ctx); err != nil {
		return nil, err
	}
	if err := d.note(ctx, ceremony.Entry{Step: ceremony.StepEnd}); err != nil {
		return nil, err
	}
	return d.close(ctx)
}

// register has the ledger begin with the opening and the officers, and says which program goes on.
func (d *conductor) register(ctx context.Context) error {
	p, err := progressOf(ctx, d.ledger)
	if err != nil {
		return err
	}
	if p.opening == nil {
		if p.size > 0 {
			return &coded{exitUsage, fmt.Errorf("ledger %s belongs to an installation that was made without a ceremony", d.c.Ledger())}
		}
		if err := d.ledger.PutMeta(ctx, ceremony.MetaOpening, d.opened.Envelope()); err != nil {
			return err
		}
	}
	var raw [][]byte
	for {
		e, ok, err := d.ledger.Meta(ctx, ceremony.MetaEntry(len(raw)+1))
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		raw = append(raw, e)
	}
	if d.chain, err = ceremony.ParseChain(d.opened, raw); err != nil {
		return err
	}
	program, err := self()
	if err != nil {
		return err
	}
	if opening := d.opened.Opening(); program.SHA256 != opening.Program.SHA256 {
		return &coded{exitUsage, fmt.Errorf("this program is %s, and the ceremony was opened with %s: go on with that one", program.SHA256, opening.Program.SHA256)}
	}
	for i, e := range d.chain.Entries() {
		if i == 0 {
			d.say([]string{"An interrupted ceremony goes on. So far:"})
		}
		d.say(e.Text())
	}
	if d.chain.Has(ceremony.StepEnd, "") {
		return nil
	}
	size, root, err := d.ledger.Head(ctx)
	if err != nil {
		return err
	}
	if err := d.write(ctx, ceremony.Entry{Step: ceremony.StepBegun, Program: program, Again: len(raw) > 0, Head: &ceremony.Head{Size: size, Root: hex.EncodeToString(root[:])}}); err != nil {
		return err
	}
	if err := d.ledger.Register(ctx, d.opened.Registry()); err != nil {
		return err
	}
	return d.note(ctx, ceremony.Entry{Step: ceremony.StepOfficers, SHA256: d.opened.Opening().Registry})
}

// note writes a step down, once.
func (d *conductor) note(ctx context.Context, e ceremony.Entry) error {
	for _, o := range d.chain.Entries() {
		if o.Step == e.Step && o.Name == e.Name && o.SHA256 == e.SHA256 {
			return nil
		}
	}
	return d.write(ctx, e)
}

func (d *conductor) write(ctx context.Context, e ceremony.Entry) error {
	raw, err := d.chain.Next(e, d.cl.Now())
	if err != nil {
		return err
	}
	crashpoint.Here("ceremony.done") // and not written down
	if err := d.ledger.PutMeta(ctx, ceremony.MetaEntry(len(d.chain.Entries())+1), raw); err != nil {
		return err
	}
	crashpoint.Here("ceremony.noted")
	if err := d.chain.Add(raw); err != nil {
		return err
	}
	all := d.chain.Entries()
	d.say(all[len(all)-1].Text())
	return nil
}

// seen writes down what is in the ledger and has no entry yet: what there is, and not what the program says that it did.
func (d *conductor) seen(ctx context.Context) error {
	secret, ok, err := d.ledger.Meta(ctx, signer.SecretMeta("online"))
	if err != nil {
		return err
	}
	if ok {
		if err := d.note(ctx, ceremony.Entry{Step: ceremony.StepSecret, Name: "online", SHA256: hexSum(secret)}); err != nil {
			return err
		}
	}
	names := map[string]string{}
	for _, k := range d.ledger.Keys() {
		if len(k.SPKI) == 0 { // planned, and not made yet
			continue
		}
		names[string(k.SPKI)] = k.ID
		if err := d.note(ctx, ceremony.Entry{Step: ceremony.StepKey, Name: k.ID, Token: k.Token, Purpose: string(k.Purpose), Algorithm: k.Algorithm, SHA256: hexSum(k.SPKI)}); err != nil {
			return err
		}
	}
	certs, err := d.ledger.Certificates(ctx)
	if err != nil {
		return err
	}
	for _, c := range certs {
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", c.Name, err)
		}
		e := ceremony.Entry{Step: ceremony.StepCertificate, Name: names[string(cert.RawSubjectPublicKeyInfo)], SHA256: hexSum(c.DER), Certificate: c.DER, Until: cert.NotAfter.UTC()}
		if e.Name == "" {
			e.Step = ceremony.StepServer
		}
		if err := d.note(ctx, e); err != nil {
			return err
		}
	}
	for _, name := range d.ledger.CRLs() {
		crl, err := d.ledger.CRL(ctx, name)
		if err != nil || crl == nil {
			return errors.Join(err, fmt.Errorf("the ledger has no CRL %s", name))
		}
		if err := d.note(ctx, ceremony.Entry{Step: ceremony.StepCRL, Name: name, Number: crl.Number, SHA256: hexSum(crl.DER), Until: crl.NextUpdate.UTC().Truncate(time.Second)}); err != nil {
			return err
		}
	}
	return nil
}

// backUp makes the backup key, gives each officer a share, and shows that as many of these as must open a first backup.
func (d *conductor) backUp(ctx context.Context) error {
	for _, e := range d.chain.Entries() {
		if e.Step == ceremony.StepBackup {
			return nil
		}
	}
	r, err := officer.ParseRegistry(d.opened.Registry())
	if err != nil {
		return err
	}
	var holders []string
	threshold := 2
	for _, o := range r.Officers {
		if o.Role == officer.RoleOfficer {
			holders = append(holders, o.ID)
		}
	}
	for _, rule := range r.Rules {
		threshold = max(threshold, rule.Need)
	}
	key, shares, err := backup.NewKey(threshold, holders, d.cl.Now(), rand.Reader)
	if err != nil {
		return err
	}
	dir := d.shares
	if dir == "" {
		dir = d.paper("shares")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	d.say([]string{"Shares of the backup key, in " + dir + ": each officer chooses a passphrase, and takes their file along."})
	files := map[string][]byte{}
	for _, s := range shares {
		phrase, err := d.phrase(s.Officer, "a new passphrase for your share")
		if err != nil {
			return err
		}
		if len(phrase) < 12 {
			return &coded{exitUsage, fmt.Errorf("%s: a passphrase has 12 characters or more: several words are easier to remember", s.Officer)}
		}
		if files[s.Officer], err = s.Close(phrase, shareWork); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, s.Officer+".share"), files[s.Officer], 0o600); err != nil {
			return err
		}
	}
	if err := d.ledger.PutBackupKey(ctx, key.JSON(), nil); err != nil {
		return err
	}
	out := d.paper("first.backup")
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a run that was interrupted, to a key that is forgotten
		return err
	}
	if _, err := backup.Make(ctx, backup.Of(d.c), key, out, d.cl.Now(), func(string) {}); err != nil {
		return err
	}
	crashpoint.Here("ceremony.backed-up")
	d.say([]string{"Now every officer opens their share again."})
	var again []*backup.Share
	e := ceremony.Entry{Step: ceremony.StepBackup, Name: key.ID, Need: threshold}
	for _, id := range holders {
		file, err := os.ReadFile(filepath.Join(dir, id+".share"))
		if err != nil {
			return err
		}
		phrase, err := d.phrase(id, "the passphrase of your share")
		if err != nil {
			return err
		}
		s, err := backup.OpenShare(file, phrase)
		if err == nil {
			err = key.Check(s)
		}
		if err != nil {
			return fmt.Errorf("the share of %s: %w", id, err)
		}
		again, e.Shares = append(again, s), append(e.Shares, ceremony.Person{ID: id, SHA256: hexSum(file)})
	}
	opener, err := key.Open(again[:threshold]) // as many as must: the others were checked by themselves
	if err != nil {
		return err
	}
	proof, err := backup.Prove(ctx, out, opener, d.paper(""))
	if err != nil {
		return err
	}
	if !proof.Ledger.Clean() {
		return fmt.Errorf("the ledger in %s does not pass its check: sealctl fsck", out)
	}
	e.SHA256, e.By = proof.SHA256, opener.By
	return d.note(ctx, e)
}

// phrase is an officer's, from a file or typed on the terminal.
func (d *conductor) phrase(id, what string) (string, error) {
	if d.phrases != "" {
		path := filepath.Join(d.phrases, id)
		st, err := os.Stat(path)
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("%s has mode %04o: others may read it; run `chmod 0400 %s`", path, st.Mode().Perm(), path)
		}
		if err != nil {
			return "", &coded{exitUsage, err}
		}
		data, err := os.ReadFile(path)
		return string(bytes.TrimRight(data, "\r\n")), err
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", &coded{exitUsage, fmt.Errorf("there is no terminal on which %s could type %s: name a directory of files with --passphrases", id, what)}
	}
	fmt.Fprintf(os.Stderr, "%s, %s: ", id, what)
	defer fmt.Fprintln(os.Stderr)
	data, err := term.ReadPassword(in)
	return string(data), err
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// close writes the transcript of what was done, with all of the ledger's log.
func (d *conductor) close(ctx context.Context) ([]byte, error) {
	audit := d.ledger.Audit()
	var leaves []string
	if err := audit.Journal(ctx, func(_ uint64, _ ledger.Leaf, body []byte) error {
		leaves = append(leaves, string(body))
		return nil
	}); err != nil {
		return nil, err
	}
	size, root, err := d.ledger.Head(ctx)
	if err != nil {
		return nil, err
	}
	transcript, err := d.chain.Close(ceremony.Head{Size: size, Root: hex.EncodeToString(root[:])}, leaves)
	if err != nil {
		return nil, err
	}
	if err := d.ledger.PutMeta(ctx, ceremony.MetaClosed, transcript); err != nil {
		return nil, err
	}
	crashpoint.Here("ceremony.closed")
	return transcript, nil
}

// sign takes what the officers signed. When they are enough the ceremony is over.
func (d *conductor) sign(ctx context.Context, closed []byte) error {
	paper, err := os.ReadFile(d.paper(transcriptFile))
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(d.paper(""), 0o700); err != nil {
			return err
		}
		paper, err = closed, durable.WriteFile(d.paper(transcriptFile), closed, 0o644)
	}
	if err != nil {
		return err
	}
	// Signatures count for what the ledger has, whatever lies in the directory.
	all, err := ceremony.Gather(closed, paper)
	if err == nil {
		all, err = d.gather(transcriptFile, all)
	}
	if err != nil {
		return err
	}
	by, err := ceremony.Signed(all)
	var r *ceremony.Refusal
	if errors.As(err, &r) && r.Code() == "ceremony.short" {
		read, err := ceremony.Read(closed)
		if err != nil {
			return err
		}
		d.say([]string{"SHA-256 of the transcript:", "  " + ceremony.Fours(read.SHA256())})
		d.next("the officers", transcriptFile)
		if len(by) == 0 {
			return nil
		}
		return r
	}
	if err != nil {
		return err
	}
	l, err := openLedger(ctx, d.c, d.cl)
	if err != nil {
		return err
	}
	err = l.PutMeta(ctx, ceremony.MetaTranscript, all)
	crashpoint.Here("ceremony.signed")
	if err = errors.Join(err, l.Close()); err != nil {
		return err
	}
	if err := durable.WriteFile(d.paper(transcriptFile), all, 0o644); err != nil {
		return err
	}
	d.report(fmt.Sprintf("transcript %s, signed by %v: the ceremony is over", d.paper(transcriptFile), by))
	d.say([]string{"", "Keep copies of the transcript where this machine's root can't change them. Anybody can check one: sealctl ceremony verify"})
	return nil
}
