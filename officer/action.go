package officer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sealkeeper/policy"
)

// Action is what officers decide on.
type Action string

// Actions. Their names are stable: they stand in signed proposals.
const (
	OfficersChange  Action = "officers.change"
	PolicyActivate  Action = "policy.activate"
	AuthoritySwitch Action = "authority.switch"
	BudgetRaise     Action = "budget.raise"
	FloodConfirm    Action = "flood.confirm"
	FloodUndo       Action = "flood.undo"
	HoldMass        Action = "hold.mass"
	HoldLift        Action = "hold.lift"
	RevokeMass      Action = "revoke.mass"
	ReissueMass     Action = "reissue.mass"
	UnlockAdmin     Action = "unlock.admin"
	ClockAccept     Action = "clock.accept"
	FenceLift       Action = "fence.lift"
	KeyGenerate     Action = "key.generate"
	KeyActivate     Action = "key.activate"
	KeyDeactivate   Action = "key.deactivate"
	KeyCompromise   Action = "key.compromise"
	KeyDestroy      Action = "key.destroy"
	IACARollover    Action = "iaca.rollover"
	ClientRollover  Action = "client-ca.rollover"
	IssuingStop     Action = "issuing.stop"
	IssuingResume   Action = "issuing.resume"
	ClientEnrol     Action = "client.enrol"
	ClientRevoke    Action = "client.revoke"
	RestoreOpen     Action = "restore.open"
	BackupKey       Action = "backup.key"
	CertificateHold Action = "certificate.hold"
	CertificateLift Action = "certificate.lift"
)

// Parameters of an action: what its text says, and nothing that it does not say.
type Parameters interface {
	check() error
	text() []string
}

// action is an action's parameters and the rule that it has if a registry gives it none.
type action struct {
	parameters func() Parameters
	rule       Rule
}

const day = 24 * time.Hour

var actions = map[Action]action{
	OfficersChange:  {func() Parameters { return new(Change) }, Rule{2, time.Hour, 7 * day}},
	PolicyActivate:  {func() Parameters { return new(Bundle) }, Rule{2, 0, 7 * day}},
	AuthoritySwitch: {func() Parameters { return new(Switch) }, Rule{2, 0, day}},
	BudgetRaise:     {func() Parameters { return new(Raise) }, Rule{2, 0, day}},
	FloodConfirm:    {func() Parameters { return new(Flood) }, Rule{2, 0, day}},
	FloodUndo:       {func() Parameters { return new(Flood) }, Rule{2, 0, day}},
	HoldMass:        {func() Parameters { return new(Hold) }, Rule{2, 0, day}},
	HoldLift:        {func() Parameters { return new(Lift) }, Rule{2, 0, day}},
	RevokeMass:      {func() Parameters { return new(Mass) }, Rule{2, time.Hour, day}},
	ReissueMass:     {func() Parameters { return new(Mass) }, Rule{2, 0, day}},
	UnlockAdmin:     {func() Parameters { return new(Unlock) }, Rule{2, 0, day}},
	ClockAccept:     {func() Parameters { return new(Clock) }, Rule{2, 0, time.Hour}},
	FenceLift:       {func() Parameters { return new(Fence) }, Rule{2, 0, day}},
	KeyGenerate:     {func() Parameters { return new(Generate) }, Rule{2, 0, 7 * day}},
	KeyActivate:     {func() Parameters { return new(Activate) }, Rule{2, 0, 7 * day}},
	KeyDeactivate:   {func() Parameters { return new(Deactivate) }, Rule{2, 0, 7 * day}},
	KeyCompromise:   {func() Parameters { return new(Compromise) }, Rule{2, 0, day}},
	KeyDestroy:      {func() Parameters { return new(Destroy) }, Rule{2, day, 7 * day}},
	IACARollover:    {func() Parameters { return new(Rollover) }, Rule{2, day, 7 * day}},
	ClientRollover:  {func() Parameters { return new(ClientCA) }, Rule{2, day, 7 * day}},
	IssuingStop:     {func() Parameters { return new(Reason) }, Rule{1, 0, time.Hour}},
	IssuingResume:   {func() Parameters { return new(Reason) }, Rule{2, 0, day}},
	ClientEnrol:     {func() Parameters { return new(Enrol) }, Rule{2, 0, 7 * day}},
	ClientRevoke:    {func() Parameters { return new(Dismiss) }, Rule{2, 0, day}},
	RestoreOpen:     {func() Parameters { return new(Fence) }, Rule{2, 0, day}},
	BackupKey:       {func() Parameters { return new(Backup) }, Rule{2, 0, 7 * day}},
	CertificateHold: {func() Parameters { return new(Withhold) }, Rule{2, 0, day}},
	CertificateLift: {func() Parameters { return new(Restore) }, Rule{2, 0, day}},
}

// Actions lists all of them, by name.
func Actions() []Action { return slices.Sorted(maps.Keys(actions)) }

// DefaultRules are those of a registry that names none.
func DefaultRules() map[Action]Rule {
	out := make(map[Action]Rule, len(actions))
	for a, t := range actions {
		out[a] = t.rule
	}
	return out
}

// plain is text that shows as what it is: no control characters, none that change the direction or hide.
func plain(s string, least, most int) bool {
	if n := utf8.RuneCountInString(s); !utf8.ValidString(s) || n < least || n > most {
		return false
	}
	for _, c := range s {
		if c != ' ' && !unicode.In(c, unicode.L, unicode.Nd, unicode.P, unicode.Sm, unicode.Sc) {
			return false
		}
	}
	return true
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`)

func name(what, s string) error {
	if !nameForm.MatchString(s) {
		return fmt.Errorf("%s %.70q is no name: use 1 to 64 letters, digits and ._:-", what, s)
	}
	return nil
}

func reason(s string) error {
	if !plain(s, 1, 200) {
		return errors.New("a reason has 1 to 200 printable characters")
	}
	return nil
}

func instant(what string, t time.Time) error {
	if t.IsZero() || t.Location() != time.UTC || t.Nanosecond() != 0 {
		return fmt.Errorf("%s must be a full second of UTC", what)
	}
	return nil
}

// Change puts a whole registry in the place of the one in use.
type Change struct {
	Registry registryFile `json:"registry"`
}

// NewChange has a registry take the place of the one in use. Its epoch is not its own to say.
func NewChange(r *Registry) (*Change, error) {
	f, err := r.file()
	f.Installation, f.Epoch = "", 0
	return &Change{f}, err
}

// Next is the registry that follows one.
func (p *Change) Next(old *Registry) (*Registry, error) {
	r, err := p.Registry.registry()
	if err != nil {
		return nil, err
	}
	r.Installation, r.Epoch = old.Installation, old.Epoch+1
	return r, nil
}

func (p *Change) check() error {
	if p.Registry.Epoch != 0 || p.Registry.Installation != "" {
		return errors.New("a change says neither epoch nor installation: they follow from the registry it changes")
	}
	_, err := p.Registry.registry()
	return err
}

func (p *Change) text() []string {
	r, err := p.Registry.registry()
	if err != nil {
		return nil // check said so
	}
	out := []string{fmt.Sprintf("Put a registry of %d people in the place of the present one:", len(r.Officers))}
	for _, o := range r.Officers {
		out = append(out, fmt.Sprintf("  %s, %s, %s", o.Role, o.ID, o.Name), "    key "+Fingerprint(o.Key))
	}
	for _, a := range Actions() {
		rule := r.Rules[a]
		out = append(out, fmt.Sprintf("  %s: %d officers, delay %s, life %s", a, rule.Need, rule.Delay, rule.Life))
	}
	return append(out, "Nobody else is an officer afterwards, and no proposal made before counts any more.")
}

// Bundle puts a policy bundle to use.
type Bundle struct {
	File string `json:"file"` // with the signatures of the policy keys, if it needs any
}

func (p *Bundle) check() error {
	if len(p.File) > policy.MaxFile {
		return fmt.Errorf("the bundle has %d bytes, at most %d are allowed", len(p.File), policy.MaxFile)
	}
	_, err := policy.Parse("bundle", []byte(p.File))
	return err
}

func (p *Bundle) text() []string {
	b, err := policy.Parse("bundle", []byte(p.File))
	if err != nil {
		return nil // check said so
	}
	return []string{fmt.Sprintf("Put policy bundle version %d to use.", b.Version()), "  hash " + b.Hash().String(),
		"  Compare it with what you reviewed: sealctl policy diff."}
}

// Switch turns an evidence authority off, or on again as far as the bundle has it on. A wallet provider is named with its kind: wallet:ID.
type Switch struct {
	Authority string `json:"authority"`
	Off       bool   `json:"off"`
	Reason    string `json:"reason"`
}

func (p *Switch) check() error {
	if p.Authority == "wallet:" {
		return errors.New("a wallet provider is named as wallet:ID")
	}
	return errors.Join(name("authority", p.Authority), reason(p.Reason))
}

// Wallet names the provider that it is about; empty: it is about an evidence authority.
func (p *Switch) Wallet() string {
	if id, ok := strings.CutPrefix(p.Authority, "wallet:"); ok {
		return id
	}
	return ""
}

func (p *Switch) text() []string {
	if id := p.Wallet(); id != "" {
		if p.Off {
			return []string{"Believe no key attestation any more under the root key of wallet provider " + id + ".", "  Its phones get no card and no refresh until that is taken back.", "  Reason: " + p.Reason}
		}
		return []string{"Believe key attestations under the root key of wallet provider " + id + " again,", "  as far as the policy bundle does.", "  Reason: " + p.Reason}
	}
	if p.Off {
		return []string{"Believe nothing any more that evidence authority " + p.Authority + " says.", "  Reason: " + p.Reason}
	}
	return []string{"Believe evidence authority " + p.Authority + " again, as far as the policy bundle does.", "  Reason: " + p.Reason}
}

// Raise gives a budget a higher limit for a while.
type Raise struct {
	Budget string    `json:"budget"`
	Window string    `json:"window"` // hour or day: which of its limits
	Limit  uint64    `json:"limit"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

func (p *Raise) check() error {
	if p.Limit < 1 || p.Limit > 1_000_000_000 {
		return errors.New("a limit is 1 to 1,000,000,000")
	}
	if p.Window != "hour" && p.Window != "day" {
		return errors.New("window is hour or day")
	}
	return errors.Join(name("budget", p.Budget), instant("until", p.Until), reason(p.Reason))
}

func (p *Raise) text() []string {
	return []string{fmt.Sprintf("Raise budget %s to %d a%s until %s; then the bundle's limit holds again.", p.Budget, p.Limit, map[string]string{"hour": "n hour", "day": " day"}[p.Window], p.Until.Format(time.RFC3339)), "  Reason: " + p.Reason}
}

// Flood is a carrier's hour. Cards and MDocs are what waited when it was proposed, for who approves; more may be there meanwhile.
type Flood struct {
	Carrier string    `json:"carrier"`
	Hour    time.Time `json:"hour"`
	Cards   int       `json:"cards"`
	MDocs   int       `json:"mdocs"`
}

func (p *Flood) check() error {
	if p.Hour.Unix()%3600 != 0 || p.Cards < 0 || p.MDocs < 0 {
		return errors.New("a flood is that of a full hour, and its numbers are not negative")
	}
	return errors.Join(name("carrier", p.Carrier), instant("hour", p.Hour))
}

func (p *Flood) text() []string {
	return []string{fmt.Sprintf("Decide on what carrier %s reported in the hour from %s.", p.Carrier, p.Hour.Format(time.RFC3339)),
		fmt.Sprintf("  %d cards waited when this was proposed; confirming revokes %d MSOs for good, and each is a refresh later.", p.Cards, p.MDocs)}
}

// Mass is a revocation or a re-issue of many cards, selected by what the appliance knows of them without knowing persons.
type Mass struct {
	DocumentType string    `json:"document_type,omitempty"` // of any
	Key          string    `json:"key,omitempty"`           // that signed them; any
	From         time.Time `json:"from,omitzero"`           // issued then or later
	To           time.Time `json:"to,omitzero"`             // issued before
	Cards        int       `json:"cards"`                   // how many it was about when it was proposed, for who approves
	PerSecond    int       `json:"per_second,omitzero"`
	Reason       string    `json:"reason"`
}

// Hold is a hold of many cards, which are selected in the same way. It is at once: a pace that is named has no effect.
type Hold Mass

const maxPerSecond = 2000

func (p *Mass) check() error {
	var errs []error
	if p.DocumentType != "" {
		errs = append(errs, name("document type", p.DocumentType))
	}
	if p.Key != "" {
		errs = append(errs, name("key", p.Key))
	}
	for _, at := range []struct {
		what string
		at   time.Time
	}{{"from", p.From}, {"to", p.To}} {
		if !at.at.IsZero() {
			errs = append(errs, instant(at.what, at.at))
		}
	}
	switch {
	case p.DocumentType == "" && p.Key == "":
		errs = append(errs, errors.New("a selection names a document type, or the key that signed, or both"))
	case !p.To.IsZero() && !p.To.After(p.From):
		errs = append(errs, errors.New("to comes after from"))
	case p.Cards < 0:
		errs = append(errs, errors.New("cards says how many it is about"))
	case p.PerSecond < 1 || p.PerSecond > maxPerSecond:
		errs = append(errs, fmt.Errorf("per_second is 1 to %d cards", maxPerSecond))
	}
	return errors.Join(append(errs, reason(p.Reason))...)
}

func (p *Mass) text() []string {
	out := []string{fmt.Sprintf("All cards that are selected so: %d when this was proposed, %d a second.", p.Cards, p.PerSecond)}
	if p.PerSecond == 0 {
		out[0] = fmt.Sprintf("All cards that are selected so, at once: %d when this was proposed.", p.Cards)
	}
	if p.DocumentType != "" {
		out = append(out, "  of type "+p.DocumentType)
	}
	if p.Key != "" {
		out = append(out, "  with a credential that key "+p.Key+" signed")
	}
	if !p.From.IsZero() {
		out = append(out, "  issued from "+p.From.Format(time.RFC3339)+" on")
	}
	if !p.To.IsZero() {
		out = append(out, "  issued before "+p.To.Format(time.RFC3339))
	}
	return append(out, "  Reason: "+p.Reason)
}

func (p *Hold) check() error {
	m := Mass(*p)
	if m.PerSecond == 0 {
		m.PerSecond = 1
	}
	return m.check()
}

func (p *Hold) text() []string { return (*Mass)(p).text() }

// Lift ends a hold of many cards, which is named by its proposal. The pace is that of a hold of before 2026-12, whose cards are released one by one.
type Lift struct {
	Hold      string `json:"hold"`
	PerSecond int    `json:"per_second,omitzero"`
	Reason    string `json:"reason"`
}

func (p *Lift) check() error {
	switch {
	case !pseudonymForm.MatchString(p.Hold):
		return errors.New("hold is the id of the proposal that placed it: 64 hexadecimal digits")
	case p.PerSecond < 0 || p.PerSecond > maxPerSecond:
		return fmt.Errorf("per_second is 1 to %d cards, or left away", maxPerSecond)
	}
	return reason(p.Reason)
}

func (p *Lift) text() []string {
	pace := ""
	if p.PerSecond > 0 {
		pace = fmt.Sprintf(", %d a second,", p.PerSecond)
	}
	return []string{"Lift the hold of many cards" + pace + " that was placed by proposal", "  " + p.Hold, "  What else stands against a card stays.", "  Reason: " + p.Reason}
}

// Unlock takes away a lock of the security officers. The holder is named by pseudonym: proposals are kept.
type Unlock struct {
	DocumentType string `json:"document_type"`
	Subject      string `json:"subject"` // pseudonym, hexadecimal
	LockReason   string `json:"lock_reason"`
	Reason       string `json:"reason"`
}

var pseudonymForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (p *Unlock) check() error {
	if !pseudonymForm.MatchString(p.Subject) {
		return errors.New("subject is a pseudonym of 64 hexadecimal digits")
	}
	return errors.Join(name("document type", p.DocumentType), name("lock reason", p.LockReason), reason(p.Reason))
}

// Holder whose lock it is.
func (p *Unlock) Holder() (h policy.Pseudonym) {
	b, _ := hex.DecodeString(p.Subject) // check said that it is one
	copy(h[:], b)
	return h
}

func (p *Unlock) text() []string {
	return []string{fmt.Sprintf("Take lock %s away from the %s of holder", p.LockReason, p.DocumentType), "  " + p.Subject, "  Reason: " + p.Reason}
}

// Clock accepts the appliance's wall clock.
type Clock struct {
	Shown  time.Time `json:"shown"` // what the appliance's clock said when an officer compared it
	Reason string    `json:"reason"`
}

func (p *Clock) check() error { return errors.Join(instant("shown", p.Shown), reason(p.Reason)) }

func (p *Clock) text() []string {
	return []string{"Accept the appliance's clock, which showed " + p.Shown.Format(time.RFC3339) + ".",
		"  Issuing goes on by it. Compare it with a source that you trust, not with the appliance.", "  Reason: " + p.Reason}
}

// Fence lifts the fence of a ledger of this size and root. Lost is what the appliance said is lost and what comes back: it is compared with what is
// there when the fence is lifted.
type Fence struct {
	Size   uint64   `json:"size"`
	Root   string   `json:"root"` // hexadecimal
	Lost   []string `json:"lost"`
	Reason string   `json:"reason"`
}

const mostLost = 32

func (p *Fence) check() error {
	if !pseudonymForm.MatchString(p.Root) {
		return errors.New("root is a hash of 64 hexadecimal digits")
	}
	if len(p.Lost) == 0 || len(p.Lost) > mostLost || slices.ContainsFunc(p.Lost, func(s string) bool { return !plain(s, 1, 200) }) {
		return fmt.Errorf("lost has 1 to %d lines of 1 to 200 printable characters", mostLost)
	}
	return reason(p.Reason)
}

func (p *Fence) text() []string {
	out := []string{fmt.Sprintf("Go on with the ledger of %d entries and root", p.Size), "  " + p.Root}
	for _, line := range p.Lost {
		out = append(out, "  "+line)
	}
	return append(out, "  Every list that is open is closed, its indices are never used again, and versions jump ahead.", "  Reason: "+p.Reason)
}

// Backup has backups be made to another key. ID, threshold and holders are its own, for who approves.
type Backup struct {
	ID        string   `json:"id"`
	Threshold int      `json:"threshold"`
	Holders   []string `json:"holders"`
	Key       string   `json:"key"` // its public half, as sealctl backup shares writes it
}

func (p *Backup) check() error {
	switch {
	case !pseudonymForm.MatchString(p.ID):
		return errors.New("id is a hash of 64 hexadecimal digits")
	case p.Threshold < 2 || p.Threshold > len(p.Holders) || len(p.Holders) > maxOfficers:
		return fmt.Errorf("%d of %d shares: a backup key has at most %d shares, of which at least 2 open it", p.Threshold, len(p.Holders), maxOfficers)
	case slices.ContainsFunc(p.Holders, func(h string) bool { return !idForm.MatchString(h) }):
		return errors.New("holders are ids of officers")
	case len(p.Key) > 16<<10:
		return errors.New("the key is longer than any")
	}
	return nil
}

func (p *Backup) text() []string {
	return []string{"Make backups to backup key", "  " + p.ID, fmt.Sprintf("  which %d of these open together: %s.", p.Threshold, strings.Join(p.Holders, ", ")), "  Backups of before keep their keys: keep their shares."}
}

// Reason is all that there is to say.
type Reason struct {
	Reason string `json:"reason"`
}

func (p *Reason) check() error { return reason(p.Reason) }

func (p *Reason) text() []string { return []string{"Reason: " + p.Reason} }

// NewParameters is an empty value of an action's parameters.
func NewParameters(a Action) (Parameters, error) {
	t, known := actions[a]
	if !known {
		return nil, fmt.Errorf("%.40q is no action: use one of %v", a, Actions())
	}
	return t.parameters(), nil
}
