package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
)

// The bundle file: JSON, at most 512 KiB, every member known, none twice. What it says of who may do what, and what a credential holds, is
// data and can change without a release; what it can't say is in the invariants. It may come with signatures around it (signed.go). Ids are lower case letters, digits and '-'; names of
// claims, reasons, classes and evidence kinds have '_' instead.

// BundleFile is the file as written.
type BundleFile struct {
	Format      int    `json:"format"`  // 1
	Name        string `json:"name"`    // an id
	Version     uint64 `json:"version"` // grows strictly with every change that is put to use; at least 1
	Description string `json:"description,omitempty"`

	Clients []ClientSpec `json:"clients"`
	// Enrolled is what clients may do that security officers enrolled, by role and channel.
	Enrolled []GroupSpec `json:"enrolled,omitempty"`
	// WalletProviders are roots of key attestations, beside those of the installation's configuration.
	WalletProviders []WalletProviderSpec `json:"wallet_providers,omitempty"`
	// Authorities are whose statements about persons and phones are believed.
	Authorities []AuthoritySpec `json:"authorities,omitempty"`
	// Phones are believed by their makers' own word, where types take it.
	Phones PhonesSpec `json:"phones,omitzero"`
	// LockReasons names the classes of authority that may add each lock reason. Whoever added a reason can remove it, and nobody else: of
	// carriers the one that did, of other authorities any client of the class.
	// Reasons are telecom_lost and self_lost, which end with the phone, and card_lost, admin_hold, court and fraud, which stay with the
	// person and block issuing.
	LockReasons map[string][]string `json:"lock_reasons"`
	// UnlockReasons names the higher classes that may remove a reason whoever added it, as when a carrier is gone. Here alone "restored" is a
	// reason: a lock that came back from published lists after the ledger was restored from a backup, and whose authority is not known.
	UnlockReasons map[string][]string `json:"unlock_reasons,omitempty"`
	// RevocationReasons names the classes that may revoke for each reason. Revoking is final.
	RevocationReasons map[string][]string `json:"revocation_reasons"`
	// ClosingReasons are those of them that close the subject: a person who died gets no card ever again.
	ClosingReasons []string `json:"closing_reasons,omitempty"`
	// RenewReasons names the classes that may say that a card has to be made anew, for each reason such as address, name or photo.
	RenewReasons map[string][]string `json:"renew_reasons,omitempty"`
	Types        map[string]TypeSpec `json:"types"` // by the name that requests use
	Phases       []PhaseSpec         `json:"phases,omitempty"`
	Budgets      []BudgetSpec        `json:"budgets,omitempty"`
	// Rules come last and can only narrow what clients and types allow: a request needs a permit and no forbid.
	Rules []RuleSpec `json:"rules"`
	// Tests are decisions with what must come of them. A bundle of which one fails is not put to use.
	Tests []*TestSpec `json:"tests,omitempty"`
}

// ClientSpec is one mTLS client.
type ClientSpec struct {
	ID   string `json:"id"`   // the identity in its certificate
	Role string `json:"role"` // issuance, carrier, desk, operator, auditor or officer; equal to the role in its certificate
	// Class of authority: telecom, holder, card_system, ministry, court or officers. Needed to lock, unlock or revoke.
	Class string `json:"class,omitempty"`
	// Issuer is the credential issuer identifier (https) that a phone's proof must name as its audience. Issuance services only.
	Issuer  string `json:"issuer,omitempty"`
	Channel string `json:"channel,omitempty"` // a name for methods, phases and rules to judge by, such as office or portal
	// District in which an office is. What it says of itself in a request does not count.
	District string `json:"district,omitempty"`
	// Unlocks is how many locks a carrier may lift in an hour, by unlocks and by events of lines that are found; default 1000. What it locks
	// is never limited: of a carrier that is broken into, a lock too many is the safer mistake.
	Unlocks uint64 `json:"unlocks,omitempty"`
	// May lists operations by type: issue, refresh, lock, unlock, revoke, renew, state. A role bounds them: issuance services issue, refresh and
	// revoke; carriers and desks lock and unlock, desks revoke and renew too; operators and auditors only read state, as the others may.
	May map[string][]Operation `json:"may"`
}

// TypeSpec is one document type. At least one of MDoc and SDJWT is there.
type TypeSpec struct {
	Description string                `json:"description,omitempty"`
	MDoc        *MDocSpec             `json:"mdoc,omitempty"`
	SDJWT       *SDJWTSpec            `json:"sdjwt,omitempty"`
	Claims      map[string]ClaimSpec  `json:"claims"`
	Evidence    EvidenceSpec          `json:"evidence"`
	Profile     ProfileSpec           `json:"profile,omitzero"`
	Methods     map[string]MethodSpec `json:"methods,omitempty"`    // ways to the card; none: the client vouches for the person
	MaxCopies   int                   `json:"max_copies,omitempty"` // keys, and so copies of each format, in one request; default 1, at most 64
	// Lifetime is the technical validity: days ("90d") or a Go duration ("36h"). At most 457 days, because no document signer lives longer.
	Lifetime string `json:"lifetime"`
	// RefreshFrom is the age of the newest credential from which on a refresh is allowed ("45d"; default "0s": always). A phone that lost
	// its mdoc to a lock may refresh at once.
	RefreshFrom string       `json:"refresh_from,omitempty"`
	Refresh     *RefreshSpec `json:"refresh,omitempty"` // none: no refresh
	// DocumentExpiry names the date claim after whose day (in the time zone UTCOffset) no credential is valid.
	DocumentExpiry string `json:"document_expiry,omitempty"`
	// UTCOffset is the time zone in which birthdays and expiry dates begin and end, "+09:00"; default "+00:00".
	UTCOffset string `json:"utc_offset,omitempty"`
	// TimeGrain coarsens signing times to multiples of this, so that copies can't be linked by their second; default "1h", or "1s" for lifetimes
	// under two hours. At most half the lifetime.
	TimeGrain string `json:"time_grain,omitempty"`
	Decoys    int    `json:"decoys,omitempty"` // decoy digests per credential, at most 64
	// WaitRevoked makes the answer to a replacement wait until a list with the old phone's revocation is signed; default true.
	WaitRevoked *bool         `json:"wait_revoked,omitempty"`
	Lifecycle   LifecycleSpec `json:"lifecycle,omitzero"`
}

// MDocSpec makes a type available as mso_mdoc.
type MDocSpec struct {
	DocType   string `json:"doctype"`
	Namespace string `json:"namespace"` // of claims that name no other
}

// SDJWTSpec makes a type available as dc+sd-jwt.
type SDJWTSpec struct {
	VCT    string `json:"vct"`
	Issuer string `json:"issuer,omitempty"` // iss, https; none: the certificate in x5c names the issuer
}

// EvidenceSpec is what must have been verified.
type EvidenceSpec struct {
	Required           []string `json:"required"`                      // every kind of these
	KeyStorage         []string `json:"key_storage,omitempty"`         // at least one of these levels; none: any
	UserAuthentication []string `json:"user_authentication,omitempty"` // at least one of these levels; none: any
	// Attestations are how keys may be attested: key_attestation (by a wallet provider; the default), android_key_attestation. Phones' own words
	// for the levels are android_trusted_environment and android_strongbox; android_biometric, android_password, android_password_or_biometric.
	Attestations []string `json:"attestations,omitempty"`
	Apps         []string `json:"apps,omitempty"` // one of these must name the app: app_attest, android_key_attestation; none: nobody needs to
	// Status are those that a wallet provider must point to and that must be valid by a fed list: attestation, key_storage, wallet.
	Status []string `json:"status,omitempty"`
}

// RefreshSpec says how a bound phone gets new credentials.
type RefreshSpec struct {
	// SameKey: for keys that the phone got credentials for before. Otherwise newly attested keys are allowed too, with a proof by a key that
	// the phone had: the request's own proof, or the one beside it.
	SameKey bool `json:"same_key"`
	// NewKeys: for newly attested keys alone, because TS3 lets a key have credentials once.
	NewKeys bool `json:"new_keys,omitzero"`
	// ReuseAttestation: keys that the phone got credentials for before may come with the attestation that they had then. An Android key is
	// attested once, when it is made.
	ReuseAttestation bool `json:"reuse_attestation,omitzero"`
}

// ClaimSpec is one claim, or one element of an array or member of an object.
//
// A bool claim named age_over_NN is checked against the date claim birth_date, which the type must then require: it has to be right at the
// instant of issue. Ages only grow, so a true one stays true; a false one understates from the birthday until the next refresh.
type ClaimSpec struct {
	Kind      string   `json:"kind"`                 // string, date (YYYY-MM-DD), bool, int, bytes (unpadded base64url), array, object
	Required  bool     `json:"required,omitempty"`   // claims and members
	Min       *int64   `json:"min,omitempty"`        // string: characters (default 1); bytes: octets (default 1); int: value; array: elements (default 0)
	Max       *int64   `json:"max,omitempty"`        // likewise; always needed for string, bytes and array
	Values    []string `json:"values,omitempty"`     // string: one of these, instead of min and max
	MediaType string   `json:"media_type,omitempty"` // bytes: for the data: URI in SD-JWT VCs
	// Items are an array's elements, Fields an object's members.
	Items  *ClaimSpec           `json:"items,omitempty"`
	Fields map[string]ClaimSpec `json:"fields,omitempty"`

	// Of claims only, not of elements and members:

	Formats    []Format `json:"formats,omitempty"`   // formats that carry it; default all of the type
	Element    string   `json:"element,omitempty"`   // mdoc element identifier; default the claim's name
	Namespace  string   `json:"namespace,omitempty"` // mdoc; default the type's
	SDName     string   `json:"sd_name,omitempty"`   // SD-JWT VC claim name; default the claim's name
	Disclosure *bool    `json:"disclosure,omitempty"`
}

// RuleSpec is one Cedar policy: principal Client::"id" with role, class and channel; action Action::"issue" or Action::"refresh"; resource
// DocumentType::"name"; context as in RuleSchema, against which every rule is checked when the bundle is read.
type RuleSpec struct {
	ID          string `json:"id"` // explains decisions; the code of a forbid is "rule." and this
	Description string `json:"description,omitempty"`
	Cedar       string `json:"cedar"`
}

// Bounds of a bundle. They keep decisions fast and refuse files that were never meant to be one.
const (
	maxBundle  = 512 << 10
	maxDepth   = 16
	maxClients = 10_000
	maxGroups  = 64
	maxTypes   = 64
	maxClaims  = 128
	maxRules   = 256
	maxTests   = 1000
	maxVersion = 1<<53 - 1 // of what every JSON reader can tell apart
	maxNesting = 4         // arrays and objects in a claim
	maxLife    = 457 * 24 * time.Hour

	defaultUnlocks = 1000
	maxUnlocks     = 1_000_000
)

var (
	idForm        = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	nameForm      = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	elementForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	uriForm       = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,255}$`)
	mediaTypeForm = regexp.MustCompile(`^[a-z]+/[a-z0-9][a-z0-9.+-]{0,63}$`)
	offsetForm    = regexp.MustCompile(`^([+-])(0\d|1[0-4]):(00|15|30|45)$`)
	daysForm      = regexp.MustCompile(`^\d{1,4}d$`)
	districtForm  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,31}$`)
	wholeNumber   = regexp.MustCompile(`^(0|-?[1-9]\d{0,14})$`)
	ageForm       = regexp.MustCompile(`^age_over_(\d\d)$`)

	classes = []string{"telecom", "holder", "card_system", "ministry", "court", "officers"}

	// deviceLocks end with the phone they were put on; subjectLocks stay with the person and block issuing (design.md, "State of a card").
	deviceLocks  = []string{"telecom_lost", "self_lost", "line_changed"}
	subjectLocks = []string{"card_lost", "admin_hold", "court", "fraud"}

	roles = map[string][]Operation{
		"issuance": {OpIssue, OpRefresh, OpRevoke, OpState},
		"carrier":  {OpLock, OpUnlock, OpState},
		"desk":     {OpLock, OpUnlock, OpRevoke, OpRenew, OpState},
		"operator": {OpState},
		"auditor":  {OpState},
		"officer":  {}, // carries what the security officers signed
		"ra":       {}, // carries what clients ask the client CA for
	}

	// reservedNames of SD-JWT VC payloads: set by the builder, or never selectively disclosable (SD-JWT VC 2.2.2.2, RFC 9901 4.1).
	reservedNames = []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "cnf", "vct", "vct#integrity", "aka_vcts", "status", "_sd", "_sd_alg", "..."}
)

// isLevel: attested levels, offices and ids of keys are others' words: letters and digits, and after the first also _ . : + -, 64 at most.
func isLevel(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i == 0 || strings.IndexByte("_.:+-", c) < 0:
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 64
}

// Bundle is a parsed, validated, immutable policy bundle.
type Bundle struct {
	hash          Hash
	version       uint64
	clients       map[string]client
	groups        map[group]client
	enrolled      func(id string) (Enrolment, bool) // nil: nobody is
	lockClasses   map[string][]string
	unlockClasses map[string][]string // higher ones
	revokeClasses map[string][]string
	renewClasses  map[string][]string
	closing       []string
	types         map[string]*docType
	rules         ruleSet
	authorities   []evidence.Authority
	floods        map[string]uint64 // reports of an hour, by carrier
	wallets       []walletProvider
	phones        phones
	tests         []*TestSpec
	lines         []int            // of tests in the file
	envelope      *signed.Envelope // nil: the file has no signatures
}

type client struct {
	ClientInfo
	channel  string
	district string
	unlocks  uint64

	carrier   string     // for whom an enrolled client speaks
	enrolment *Enrolment // nil: the bundle names it
}

// docType is a type, ready to be judged by.
type docType struct {
	name                 string
	formats              []Format
	docType, vct, issuer string
	claims               *object
	evidence             EvidenceSpec
	profile              evidence.Profile
	methods              map[string]*method // nil: none are needed
	phases               []PhaseSpec
	budgets              []BudgetSpec
	maxCopies, decoys    int
	lifetime, grain      time.Duration
	refresh              *RefreshSpec
	refreshFrom          time.Duration
	expiry               string
	zone                 *time.Location
	waitRevoked          bool
	life                 LifecycleSpec
	ackWithin            time.Duration
}

// Parse reads a bundle file, with or without signatures. Errors name the file and line. It neither asks whose the signatures are (Signers.Check)
// nor runs the bundle's tests (Bundle.Test).
func Parse(file string, data []byte) (*Bundle, error) {
	payload, above := data, 0 // lines above the payload
	var envelope *signed.Envelope
	if signed.Is(data) {
		var err error
		if envelope, err = signed.Parse(data, fileLimits); err != nil {
			return nil, fmt.Errorf("%s:%d: %s", file, lineOf(data, err), whatIsWrong(err))
		}
		payload = envelope.Payload
		above = bytes.Count(data[:max(0, bytes.Index(data, payload))], []byte("\n"))
	}
	if len(payload) > maxBundle {
		return nil, fmt.Errorf("%s:1: the bundle has %d bytes, at most %d are allowed: split it or shorten descriptions", file, len(payload), maxBundle)
	}
	fail := func(err error) error {
		return fmt.Errorf("%s:%d: %s", file, above+lineOf(payload, err), whatIsWrong(err))
	}
	if err := strict.Within(payload, fileLimits); err != nil {
		return nil, fail(err)
	}
	// What counts is the canonical form, because that is what is signed and hashed: nothing that it leaves out may have a meaning.
	var f BundleFile
	canonical, err := signed.Canonical(payload)
	if err == nil {
		err = strict.JSON(canonical, fileLimits, &f)
	}
	var p places
	for i := range min(len(f.Tests), maxTests) {
		p.at(pointer("/tests", i))
	}
	// What is written must be good too. It is another thing only where numbers are, since 1.0 and 1 are one to the canonical form, and it is what
	// errors have their line in.
	if plain := p.find(payload); err != nil || !plain {
		if err := strict.JSON(payload, fileLimits, new(BundleFile)); err != nil {
			return nil, fail(err)
		}
	}
	if err != nil {
		return nil, fail(err)
	}
	c := &checker{}
	b := c.bundle(f)
	if len(c.problems) > 0 {
		return nil, c.report(file, payload, above)
	}
	for i := range b.tests {
		b.lines = append(b.lines, above+p.at(pointer("/tests", i)).line)
	}
	b.hash, b.envelope = sha256.Sum256(canonical), envelope
	return b, nil
}

var fileLimits = strict.Limits{Bytes: maxBundle, Depth: maxDepth}

func lineOf(data []byte, err error) int {
	var offset int64
	if syntax := (*jsontext.SyntacticError)(nil); errors.As(err, &syntax) {
		offset = syntax.ByteOffset
	} else if meaning := (*json.SemanticError)(nil); errors.As(err, &meaning) {
		var p places
		at := p.at(meaning.JSONPointer)
		if p.find(data); at.line > 0 {
			return at.line
		}
		offset = meaning.ByteOffset
	}
	return line(data, offset)
}

func line(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), int64(len(data)))], []byte("\n"))
}

// places are JSON pointers whose lines in a document are looked for, all in one pass.
type places struct {
	line int // 0: not met
	kids map[string]*places
}

// at is the place of a pointer.
func (p *places) at(pointer jsontext.Pointer) *places {
	for token := range pointer.Tokens() {
		if p.kids == nil {
			p.kids = map[string]*places{}
		}
		if p.kids[token] == nil {
			p.kids[token] = &places{}
		}
		p = p.kids[token]
	}
	return p
}

// find reads a document up to its first error. A place is where the member's name ends, or the element begins. plain: there is no error, and each
// number is a whole one in digits that are its canonical form.
func (p *places) find(data []byte) (plain bool) {
	d := jsontext.NewDecoder(bytes.NewBuffer(data))
	counted, lines := int64(0), 1
	here := func() int {
		at := d.InputOffset()
		lines, counted = lines+bytes.Count(data[counted:at], []byte("\n")), at
		return lines
	}
	plain = true
	pass := func() bool { // a value in which no place is
		for depth := d.StackDepth(); ; {
			var err error
			if d.PeekKind() == '0' {
				var number jsontext.Value
				number, err = d.ReadValue()
				plain = plain && wholeNumber.Match(number)
			} else {
				_, err = d.ReadToken()
			}
			if err != nil || d.StackDepth() == depth {
				return err == nil
			}
		}
	}
	var walk func(p *places) bool
	walk = func(p *places) bool {
		if p == nil || len(p.kids) == 0 {
			return pass()
		}
		open, err := d.ReadToken()
		if err != nil || open.Kind() != '{' && open.Kind() != '[' {
			plain = false
			return err == nil
		}
		kind := open.Kind() // the token dies with the next one
		for n := 0; ; n++ {
			next := d.PeekKind()
			if next == '}' || next == ']' || next == 0 {
				_, err := d.ReadToken()
				return err == nil
			}
			var kid *places
			if kind == '[' {
				kid = p.kids[strconv.Itoa(n)]
			} else if name, err := d.ReadToken(); err != nil {
				return false
			} else {
				kid = p.kids[name.String()]
			}
			if kid != nil {
				kid.line = here()
				if kind == '[' { // the offset is still that of the element before
					at := kid.line
					for i := counted; i < int64(len(data)) && strings.IndexByte(" \t\r\n,", data[i]) >= 0; i++ {
						if data[i] == '\n' {
							at++
						}
					}
					kid.line = at
				}
			}
			if !walk(kid) {
				return false
			}
		}
	}
	p.line = 1
	return walk(p) && plain
}

func whatIsWrong(err error) string {
	if meaning := (*json.SemanticError)(nil); errors.As(err, &meaning) {
		where := string(meaning.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return fmt.Sprintf("%s is not a member that a bundle has: correct or remove it", where)
		}
		if meaning.GoType != nil {
			return fmt.Sprintf("%s can't be a JSON %s here: see the format of bundles", where, meaning.JSONKind)
		}
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return "a member occurs twice: remove one (" + err.Error() + ")"
	}
	return "this is not the JSON of a bundle: " + err.Error()
}

// checker gathers everything that is wrong, so that an editor of a bundle sees it at once.
type checker struct{ problems []problem }

type problem struct {
	at   jsontext.Pointer
	text string
}

func (c *checker) wrong(at jsontext.Pointer, format string, args ...any) {
	c.problems = append(c.problems, problem{at, fmt.Sprintf(format, args...)})
}

func (c *checker) report(file string, data []byte, above int) error {
	type lined struct {
		line int
		text string
	}
	all := make([]lined, min(20, len(c.problems)))
	var p places
	for i := range all {
		p.at(c.problems[i].at)
	}
	p.find(data)
	for i, problem := range c.problems[:len(all)] {
		at := problem.at
		for p.at(at).line == 0 { // a member that is missing is reported where it should be
			at = at.Parent()
		}
		all[i] = lined{p.at(at).line, problem.text}
	}
	slices.SortStableFunc(all, func(a, b lined) int { return cmp.Compare(a.line, b.line) })
	errs := make([]error, len(all))
	for i, p := range all {
		errs[i] = fmt.Errorf("%s:%d: %s", file, above+p.line, p.text)
	}
	return errors.Join(errs...)
}

func (c *checker) bundle(f BundleFile) *Bundle {
	b := &Bundle{version: f.Version, clients: map[string]client{}, groups: map[group]client{}, types: map[string]*docType{}}
	if f.Format != 1 {
		c.wrong("/format", "bundle format %d is not known: this version reads format 1", f.Format)
	}
	if !idForm.MatchString(f.Name) {
		c.wrong("/name", "bundle name %q is not an id: use lower case letters, digits and '-'", f.Name)
	}
	if f.Version == 0 || f.Version > maxVersion {
		c.wrong("/version", "version is missing, 0 or above 2^53: give the bundle a version that grows with each change")
	}
	if len(f.Clients) > maxClients || len(f.Types) > maxTypes || len(f.Rules) > maxRules {
		c.wrong("", "the bundle has %d clients, %d types and %d rules: at most %d, %d and %d are allowed",
			len(f.Clients), len(f.Types), len(f.Rules), maxClients, maxTypes, maxRules)
		return b
	}
	if len(f.Types) == 0 {
		c.wrong("/types", "the bundle has no types: describe at least one document type")
	}
	for _, name := range slices.Sorted(maps.Keys(f.Types)) {
		at := jsontext.Pointer("/types").AppendToken(name)
		if !idForm.MatchString(name) {
			c.wrong(at, "type name %q is not an id: use lower case letters, digits and '-'", name)
		}
		b.types[name] = c.docType(at, name, f.Types[name])
	}
	b.lockClasses = c.reasons("/lock_reasons", f.LockReasons)
	for _, r := range slices.Sorted(maps.Keys(f.LockReasons)) {
		if !slices.Contains(deviceLocks, r) && !slices.Contains(subjectLocks, r) {
			c.wrong(jsontext.Pointer("/lock_reasons").AppendToken(r), "lock reason %q is not known: use one of %s", r, list(deviceLocks, subjectLocks))
		}
	}
	b.unlockClasses = c.reasons("/unlock_reasons", f.UnlockReasons)
	for _, r := range slices.Sorted(maps.Keys(f.UnlockReasons)) {
		if _, known := f.LockReasons[r]; !known && r != Restored.Reason {
			c.wrong(jsontext.Pointer("/unlock_reasons").AppendToken(r), "%q is no reason to lock", r)
		}
	}
	b.revokeClasses = c.reasons("/revocation_reasons", f.RevocationReasons)
	b.renewClasses, b.closing = c.reasons("/renew_reasons", f.RenewReasons), f.ClosingReasons
	for i, r := range f.ClosingReasons {
		if _, known := f.RevocationReasons[r]; !known {
			c.wrong(pointer("/closing_reasons", i), "%q is no reason to revoke", r)
		}
	}
	for i, s := range f.Clients {
		c.client(pointer("/clients", i), b, s)
	}
	c.groups("/enrolled", b, f.Enrolled)
	c.walletProviders("/wallet_providers", b, f.WalletProviders)
	b.phones = c.phones("/phones", f.Phones)
	c.authorities("/authorities", b, f.Authorities)
	c.phases("/phases", b, f.Phases)
	c.budgets("/budgets", b, f.Budgets)
	b.rules = c.rules(b, f.Rules)
	c.tests("/tests", b, f.Tests)
	return b
}

func pointer(at jsontext.Pointer, i int) jsontext.Pointer { return at.AppendToken(strconv.Itoa(i)) }

func list(names ...[]string) string { return strings.Join(slices.Concat(names...), ", ") }

func (c *checker) reasons(at jsontext.Pointer, in map[string][]string) map[string][]string {
	for _, r := range slices.Sorted(maps.Keys(in)) {
		if !nameForm.MatchString(r) {
			c.wrong(at.AppendToken(r), "reason %q is not a name: use lower case letters, digits and '_'", r)
		}
		if len(in[r]) == 0 {
			c.wrong(at.AppendToken(r), "reason %q has no class that may use it: name one of %s", r, list(classes))
		}
		for i, class := range in[r] {
			c.class(pointer(at.AppendToken(r), i), class)
		}
	}
	return in
}

func (c *checker) class(at jsontext.Pointer, class string) {
	if !slices.Contains(classes, class) {
		c.wrong(at, "class %q is not known: use one of %s", class, list(classes))
	}
}

func (c *checker) client(at jsontext.Pointer, b *Bundle, s ClientSpec) {
	if !idForm.MatchString(s.ID) {
		c.wrong(at+"/id", "client id %q is not an id: use lower case letters, digits and '-'", s.ID)
	}
	if _, twice := b.clients[s.ID]; twice {
		c.wrong(at+"/id", "client %s is listed twice: merge the two", s.ID)
	}
	if s.District != "" && !districtForm.MatchString(s.District) {
		c.wrong(at+"/district", "%q is not a district code", s.District)
	}
	b.clients[s.ID] = c.permissions(at, b, s)
}

// permissions are what a client may do, whether the bundle names it or officers enrolled it.
func (c *checker) permissions(at jsontext.Pointer, b *Bundle, s ClientSpec) client {
	operations, known := roles[s.Role]
	if !known {
		c.wrong(at+"/role", "client %s has the role %q: use one of %s", s.ID, s.Role, list(slices.Sorted(maps.Keys(roles))))
	}
	if s.Class != "" {
		c.class(at+"/class", s.Class)
	}
	if s.Channel != "" && !nameForm.MatchString(s.Channel) {
		c.wrong(at+"/channel", "channel %q of client %s is not a name: use lower case letters, digits and '_'", s.Channel, s.ID)
	}
	switch {
	case s.Role == "issuance" && !isHTTPS(s.Issuer):
		c.wrong(at+"/issuer", "client %s needs an issuer, the https URL that proofs of its phones name as audience", s.ID)
	case s.Role != "issuance" && s.Issuer != "":
		c.wrong(at+"/issuer", "client %s can't have an issuer: only issuance services take proofs from phones", s.ID)
	}
	if s.Unlocks > maxUnlocks || s.Unlocks > 0 && s.Role != "carrier" {
		c.wrong(at+"/unlocks", "client %s: a carrier alone has a number of unlocks in an hour, at most %d", s.ID, uint64(maxUnlocks))
	}
	for _, t := range slices.Sorted(maps.Keys(s.May)) {
		at := (at + "/may").AppendToken(t)
		if b.types[t] == nil {
			c.wrong(at, "client %s may do something with type %q, which the bundle does not have: correct the name or add the type", s.ID, t)
		}
		for i, op := range s.May[t] {
			switch {
			case known && !slices.Contains(operations, op):
				c.wrong(pointer(at, i), "client %s with role %s can never %s: remove it or give it another role", s.ID, s.Role, op)
			case slices.Contains(s.May[t][:i], op):
				c.wrong(pointer(at, i), "client %s may %s twice: remove one", s.ID, op)
			case (op == OpLock || op == OpUnlock || op == OpRevoke || op == OpRenew) && s.Class == "":
				c.wrong(pointer(at, i), "client %s may %s but has no class: give it the class of authority that reasons are kept by", s.ID, op)
			}
		}
	}
	return client{ClientInfo: ClientInfo{ID: s.ID, Role: s.Role, Class: s.Class, Issuer: s.Issuer, May: s.May}, channel: s.Channel, district: s.District, unlocks: cmp.Or(s.Unlocks, defaultUnlocks)}
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && len(s) <= 256
}

func (c *checker) docType(at jsontext.Pointer, name string, s TypeSpec) *docType {
	t := &docType{name: name, evidence: s.Evidence, maxCopies: max(s.MaxCopies, 1), decoys: s.Decoys, refresh: s.Refresh,
		expiry: s.DocumentExpiry, zone: time.UTC, waitRevoked: s.WaitRevoked == nil || *s.WaitRevoked}
	if s.MDoc == nil && s.SDJWT == nil {
		c.wrong(at, "type %s has neither mdoc nor sdjwt: say in which format it is issued", name)
	}
	namespace := ""
	if s.MDoc != nil {
		t.formats, t.docType, namespace = append(t.formats, MDoc), s.MDoc.DocType, s.MDoc.Namespace
		for member, v := range map[jsontext.Pointer]string{"/mdoc/doctype": t.docType, "/mdoc/namespace": namespace} {
			if !elementForm.MatchString(v) {
				c.wrong(at+member, "%q is missing or not a dotted name of at most 128 letters, digits, '.', '_' and '-'", v)
			}
		}
	}
	if s.SDJWT != nil {
		t.formats, t.vct, t.issuer = append(t.formats, SDJWT), s.SDJWT.VCT, s.SDJWT.Issuer
		if !uriForm.MatchString(t.vct) {
			c.wrong(at+"/sdjwt/vct", "vct %q is missing or not a URI (urn:… or https://…) of at most 256 characters", t.vct)
		}
		if t.issuer != "" && !isHTTPS(t.issuer) {
			c.wrong(at+"/sdjwt/issuer", "issuer %q is not an https URL without query and fragment", t.issuer)
		}
	}

	for i, k := range s.Evidence.Required {
		if !nameForm.MatchString(k) {
			c.wrong(pointer(at+"/evidence/required", i), "evidence kind %q is not a name: use lower case letters, digits and '_'", k)
		}
	}
	for i, k := range s.Evidence.KeyStorage {
		if !isLevel(k) {
			c.wrong(pointer(at+"/evidence/key_storage", i), "level %q is not a word of at most 64 letters, digits and _.:+-", k)
		}
	}
	for i, k := range s.Evidence.UserAuthentication {
		if !isLevel(k) {
			c.wrong(pointer(at+"/evidence/user_authentication", i), "level %q is not a word of at most 64 letters, digits and _.:+-", k)
		}
	}
	if s.MaxCopies < 0 || s.MaxCopies > 64 {
		c.wrong(at+"/max_copies", "max_copies of type %s is %d: use 1 to 64", name, s.MaxCopies)
	}
	if s.Decoys < 0 || s.Decoys > 64 {
		c.wrong(at+"/decoys", "decoys of type %s is %d: use 0 to 64", name, s.Decoys)
	}
	t.lifetime = c.duration(at+"/lifetime", "lifetime", s.Lifetime, "", time.Minute, maxLife)
	t.refreshFrom = c.duration(at+"/refresh_from", "refresh_from", s.RefreshFrom, "0s", 0, t.lifetime)
	grain := "1h"
	if t.lifetime < 2*time.Hour {
		grain = "1s"
	}
	t.grain = c.duration(at+"/time_grain", "time_grain", s.TimeGrain, grain, time.Second, t.lifetime/2)
	if m := offsetForm.FindStringSubmatch(s.UTCOffset); m != nil {
		hours, _ := strconv.Atoi(m[2])
		minutes, _ := strconv.Atoi(m[3])
		seconds := hours*3600 + minutes*60
		if m[1] == "-" {
			seconds = -seconds
		}
		t.zone = time.FixedZone(s.UTCOffset, seconds) // an offset, not a zone's name: rules must not change with a file of the machine
	} else if s.UTCOffset != "" {
		c.wrong(at+"/utc_offset", "utc_offset %q is not of the form +09:00", s.UTCOffset)
	}

	t.claims = c.object(at+"/claims", name, s.Claims, 0, func(at jsontext.Pointer, name string, s ClaimSpec, n *node) {
		c.placement(at, name, s, n, t.formats, namespace)
	})
	c.unique(at+"/claims", t.claims)
	for _, n := range t.claims.fields {
		if m := ageForm.FindStringSubmatch(n.name); m != nil {
			n.age, _ = strconv.Atoi(m[1])
			if birth := t.claims.field(birthDate); n.kind != "bool" || birth == nil || birth.kind != "date" || !birth.required {
				c.wrong(at+"/claims/"+jsontext.Pointer(n.name), "claim %s must be a bool, beside a required date claim %s to check it against", n.name, birthDate)
			}
		}
	}
	if e := t.claims.field(t.expiry); t.expiry != "" && (e == nil || e.kind != "date" || !e.required) {
		c.wrong(at+"/document_expiry", "document_expiry names %q, which is not a required date claim of type %s", t.expiry, name)
	}
	c.methods(at+"/methods", t, s.Methods)
	c.profile(at, t, s)
	c.lifecycle(at+"/lifecycle", t, s.Lifecycle)
	return t
}

func (c *checker) duration(at jsontext.Pointer, name, s, byDefault string, least, most time.Duration) time.Duration {
	if s == "" {
		s = byDefault
	}
	var d time.Duration
	var err error
	if daysForm.MatchString(s) {
		n, _ := strconv.Atoi(strings.TrimSuffix(s, "d"))
		d = time.Duration(n) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(s)
	}
	if err != nil || d < least || d > most || d%time.Second != 0 {
		c.wrong(at, "%s %q is not a whole number of days (90d) or a duration (36h) between %s and %s", name, s, least, most)
		return least
	}
	return d
}

// placement says where a claim goes in each format.
func (c *checker) placement(at jsontext.Pointer, name string, s ClaimSpec, n *node, formats []Format, namespace string) {
	for i, f := range s.Formats {
		if !slices.Contains(formats, f) || slices.Contains(s.Formats[:i], f) {
			c.wrong(pointer(at+"/formats", i), "format %q of claim %s is not one of the type, or is there twice", f, name)
		}
	}
	in := func(f Format) bool {
		return slices.Contains(formats, f) && (s.Formats == nil || slices.Contains(s.Formats, f))
	}
	if in(MDoc) {
		n.element, n.namespace = cmp.Or(s.Element, name), cmp.Or(s.Namespace, namespace)
		if !elementForm.MatchString(n.element) || !elementForm.MatchString(n.namespace) {
			c.wrong(at, "claim %s has an element identifier or name space that is not a dotted name", name)
		}
	} else if s.Element != "" || s.Namespace != "" {
		c.wrong(at, "claim %s is not in the mdoc: remove element and namespace", name)
	}
	if in(SDJWT) {
		n.sdName, n.disclosure = cmp.Or(s.SDName, name), s.Disclosure == nil || *s.Disclosure
		if !elementForm.MatchString(n.sdName) || slices.Contains(reservedNames, n.sdName) {
			c.wrong(at, "claim %s can't be named %q in an SD-JWT VC: the name is reserved or not a name", name, n.sdName)
		}
	} else if s.SDName != "" || s.Disclosure != nil {
		c.wrong(at, "claim %s is not in the SD-JWT VC: remove sd_name and disclosure", name)
	}
}

// unique refuses two claims in one place.
func (c *checker) unique(at jsontext.Pointer, o *object) {
	elements, names := map[[2]string]string{}, map[string]string{}
	for _, n := range o.fields {
		if n.element != "" {
			place := [2]string{n.namespace, n.element}
			if other, twice := elements[place]; twice {
				c.wrong(at.AppendToken(n.name), "claims %s and %s are the same element %s of %s", other, n.name, n.element, n.namespace)
			}
			elements[place] = n.name
		}
		if n.sdName != "" {
			if other, twice := names[n.sdName]; twice {
				c.wrong(at.AppendToken(n.name), "claims %s and %s have the same name %s in the SD-JWT VC", other, n.name, n.sdName)
			}
			names[n.sdName] = n.name
		}
	}
}

// Hash names the bundle by what it says: SHA-256 of its canonical form, without signatures.
func (b *Bundle) Hash() Hash { return b.hash }

// Version of the bundle; grows strictly.
func (b *Bundle) Version() uint64 { return b.version }

// ClientInfo is what the bundle says of a client.
type ClientInfo struct {
	ID     string
	Role   string // "issuance", "carrier", "desk", "operator", "auditor", "officer"; must equal the role in the client's certificate
	Class  string // class of authority for locks
	Issuer string // credential issuer identifier: the aud that proofs must have
	May    map[string][]Operation
}

// Client looks a client up; ok is false for unknown ones.
func (b *Bundle) Client(id string) (ClientInfo, bool) {
	c, ok := b.client(id)
	may := make(map[string][]Operation, len(c.May))
	for t, ops := range c.May {
		may[t] = slices.Clone(ops)
	}
	c.May = may
	return c.ClientInfo, ok
}

// Issuer is what proofs that a client brings have to name as their audience. An unknown client has none, and is refused by policy or by its
// proof's aud.
func (b *Bundle) Issuer(client string) string {
	c, _ := b.client(client)
	return c.Issuer
}

// Clients lists all, sorted by id.
func (b *Bundle) Clients() []ClientInfo {
	var all []ClientInfo
	for _, id := range slices.Sorted(maps.Keys(b.clients)) {
		c, _ := b.Client(id)
		all = append(all, c)
	}
	return all
}

// TypeInfo is what the edges need to know of a credential type.
type TypeInfo struct {
	Name    string
	Formats []Format
	DocType string
	VCT     string
}

// Types lists the credential types, sorted by name.
func (b *Bundle) Types() []TypeInfo {
	var all []TypeInfo
	for _, name := range slices.Sorted(maps.Keys(b.types)) {
		t := b.types[name]
		all = append(all, TypeInfo{Name: name, Formats: slices.Clone(t.formats), DocType: t.docType, VCT: t.vct})
	}
	return all
}
