// Package officer says what the security officers want: who they are, what was proposed, who stands for it, and whether these are enough.
// It judges signatures, times and numbers, and carries nothing out. Who carries something out takes a *Quorum, which only Decide makes.
package officer

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
)

// Roles of the people in a registry. One person has one: who approves does not audit.
const (
	RoleOfficer  = "officer"
	RoleAuditor  = "auditor"
	RoleOperator = "operator"
)

// Bounds of a registry.
const (
	maxOfficers = 32 // as many as an envelope holds signatures
	maxDelay    = 30 * 24 * time.Hour
	maxLife     = 30 * 24 * time.Hour
	minLife     = time.Minute
	maxRegistry = 64 << 10
)

// Officer is a person with a key that nobody else has.
type Officer struct {
	ID   string // kid of the signatures
	Name string
	Role string
	Key  crypto.PublicKey
}

// Rule of an action.
type Rule struct {
	Need  int           // different officers
	Delay time.Duration // from the moment at which they are enough: any one officer can reject it until then
	Life  time.Duration // from its making to its end, the delay included, at most
}

// Registry is who may decide on what. Every change of it adds one to the epoch, the lifting of a fence far more, and what was approved in an earlier epoch counts no more.
type Registry struct {
	Installation string // drawn when the first one is registered; what is proposed to one installation is nothing in another with the same officers
	Epoch        uint64
	Officers     []Officer
	Rules        map[Action]Rule
}

type officerFile struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Role string `json:"role"`
	Key  string `json:"key"` // SubjectPublicKeyInfo, base64
}

type ruleFile struct {
	Need  int    `json:"need"`
	Delay string `json:"delay"`
	Life  string `json:"life"`
}

type registryFile struct {
	Installation string              `json:"installation,omitempty"`
	Epoch        uint64              `json:"epoch,omitzero"`
	Officers     []officerFile       `json:"officers"`
	Rules        map[Action]ruleFile `json:"rules,omitempty"`
}

var installationForm = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

// NewInstallation draws the name of an installation.
func NewInstallation(random io.Reader) (string, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", fmt.Errorf("a name for the installation: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)

// ParseRegistry reads a registry strictly. Actions without a rule get that of DefaultRules.
func ParseRegistry(data []byte) (*Registry, error) {
	var f registryFile
	if err := strict.JSON(data, strict.Limits{Bytes: maxRegistry, Depth: 4}, &f); err != nil {
		return nil, fmt.Errorf("the registry of officers: %w", err)
	}
	return f.registry()
}

func (f registryFile) registry() (*Registry, error) {
	r := &Registry{Installation: f.Installation, Epoch: f.Epoch, Rules: DefaultRules()}
	for _, o := range f.Officers {
		der, err := base64.StdEncoding.Strict().DecodeString(o.Key)
		if err != nil {
			return nil, fmt.Errorf("officer %q: the key is not base64", o.ID)
		}
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, fmt.Errorf("officer %q: the key is no public key: %w", o.ID, err)
		}
		if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, der) {
			return nil, fmt.Errorf("officer %q: the key is not written in its one form", o.ID)
		}
		r.Officers = append(r.Officers, Officer{o.ID, o.Name, o.Role, key})
	}
	for a, w := range f.Rules {
		delay, err := span(w.Delay)
		life, err2 := span(w.Life)
		if err = errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("the rule of %q: %w", a, err)
		}
		r.Rules[a] = Rule{w.Need, delay, life}
	}
	return r, r.check()
}

// span reads a duration in the one form in which it is written.
func span(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d.String() != s {
		return 0, fmt.Errorf("%.40q is no duration as in 1h0m0s", s)
	}
	return d, nil
}

// check refuses a registry that nobody could use, or that one person could.
func (r *Registry) check() error {
	if r.Installation != "" && !installationForm.MatchString(r.Installation) {
		return errors.New("installation is no name that an appliance draws")
	}
	if len(r.Officers) > maxOfficers {
		return fmt.Errorf("there are %d people, at most %d are allowed", len(r.Officers), maxOfficers)
	}
	officers := 0
	for i, o := range r.Officers {
		switch {
		case !idForm.MatchString(o.ID):
			return fmt.Errorf("%.40q is no officer's id: use 1 to 32 small letters, digits and ._-", o.ID)
		case !plain(o.Name, 1, 64):
			return fmt.Errorf("officer %s: a name has 1 to 64 printable characters", o.ID)
		case signed.Algorithm(o.Key) == "":
			return fmt.Errorf("officer %s: the key is on none of P-256, P-384 and Ed25519", o.ID)
		case !slices.Contains([]string{RoleOfficer, RoleAuditor, RoleOperator}, o.Role):
			return fmt.Errorf("officer %s: %.20q is none of the roles officer, auditor and operator", o.ID, o.Role)
		}
		for _, other := range r.Officers[:i] {
			if o.ID == other.ID || o.Name == other.Name || signed.Same(o.Key, other.Key) {
				return fmt.Errorf("%s and %s have the same id, name or key: they must be different persons", other.ID, o.ID)
			}
		}
		if o.Role == RoleOfficer {
			officers++
		}
	}
	for _, a := range slices.Sorted(maps.Keys(r.Rules)) {
		rule := r.Rules[a]
		least := 2
		if a == IssuingStop {
			least = 1
		}
		switch {
		case actions[a].parameters == nil:
			return fmt.Errorf("%.40q is no action", a)
		case rule.Need < least || rule.Need > officers:
			return fmt.Errorf("%s needs %d officers: it must be %d to %d, of which there are %d", a, rule.Need, least, officers, officers)
		case a == ClockAccept && rule.Delay != 0:
			return fmt.Errorf("%s can't have a delay: there is no clock to measure it by", a)
		case rule.Delay < 0 || rule.Delay > maxDelay || rule.Life < max(minLife, rule.Delay+minLife) || rule.Life > maxLife:
			return fmt.Errorf("%s: a delay of %s and a life of %s do not go: a life is at least %s longer than the delay, and at most %s", a, rule.Delay, rule.Life, minLife, maxLife)
		}
	}
	for a := range actions {
		if _, ok := r.Rules[a]; !ok {
			return fmt.Errorf("%s has no rule", a)
		}
	}
	return nil
}

// Beyond is the same registry in an epoch that no proposal was made for. The registry of a restored ledger is an old one: the lost part may have had others,
// and what was rejected or carried out there is open again. The time makes the epoch another one each time that the same backup is restored.
func (r *Registry) Beyond(now time.Time) *Registry {
	next := *r
	next.Epoch += 1000 + uint64(max(0, now.Unix()))
	return &next
}

// JSON is the registry as ParseRegistry reads it.
func (r *Registry) JSON() ([]byte, error) {
	f, err := r.file()
	if err != nil {
		return nil, err
	}
	return json.Marshal(f, json.Deterministic(true))
}

func (r *Registry) file() (f registryFile, err error) {
	f = registryFile{Installation: r.Installation, Epoch: r.Epoch, Rules: map[Action]ruleFile{}}
	for _, o := range r.Officers {
		der, err := x509.MarshalPKIXPublicKey(o.Key)
		if err != nil {
			return f, fmt.Errorf("officer %s: %w", o.ID, err)
		}
		f.Officers = append(f.Officers, officerFile{o.ID, o.Name, o.Role, base64.StdEncoding.EncodeToString(der)})
	}
	for a, rule := range r.Rules {
		f.Rules[a] = ruleFile{rule.Need, rule.Delay.String(), rule.Life.String()}
	}
	return f, nil
}

// keys of those who may approve.
func (r *Registry) keys() (keys []signed.Key) {
	for _, o := range r.Officers {
		if o.Role == RoleOfficer {
			keys = append(keys, signed.Key{ID: o.ID, Public: o.Key})
		}
	}
	return keys
}

// Fingerprint of an officer's key, as people compare it: SHA-256 of its SubjectPublicKeyInfo, in fours.
func Fingerprint(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "unreadable"
	}
	sum := sha256.Sum256(der)
	text := hex.EncodeToString(sum[:])
	out := text[:4]
	for i := 4; i < len(text); i += 4 {
		out += " " + text[i:i+4]
	}
	return out
}
