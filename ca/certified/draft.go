package certified

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"

	"sealkeeper/internal/mac"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// Params of a draft, beside the approval and the ticket.
type Params struct {
	Key      int       // which of the approval's keys
	Seed     [32]byte  // ledger.Seed: everything random comes from it by HKDF with labels naming format and Key
	Signer   *Key      // its chain travels with the credential, its algorithm is in the protected header
	SignedAt time.Time // the approval's instant; coarsened, never before the signer certificate's notBefore
}

// Approved is what an approval lets into a credential of this format, signed by a key of this purpose.
func Approved(a *policy.Approval, t *ledger.Ticket, p Params, format policy.Format, purpose policy.Purpose) (policy.Issue, error) {
	if !a.Valid() {
		return policy.Issue{}, errors.New("drafting without an approval")
	}
	issue, ok := a.Issue()
	switch {
	case !ok:
		return issue, fmt.Errorf("a credential in %s needs an approved issue or refresh", format)
	case !p.Signer.Valid():
		return issue, errors.New("drafting without a certified key")
	case !a.Allows(purpose) || p.Signer.Purpose != purpose:
		return issue, fmt.Errorf("key %q is not one that this approval lets sign %s", p.Signer.ID, format)
	case t == nil || t.Format() != format || t.URI() == "":
		return issue, fmt.Errorf("a credential in %s needs an unspent ticket of a status list for it", format)
	case p.Key < 0 || p.Key >= len(issue.Keys):
		return issue, fmt.Errorf("key %d of %d approved ones", p.Key, len(issue.Keys))
	}
	return issue, nil
}

// Signature is the verified signature of item i. It is refused if it is over other bytes than tbs.
func Signature(c *release.Checked, i int, tbs []byte) ([]byte, error) {
	switch {
	case len(tbs) == 0:
		return nil, errors.New("joining without a draft")
	case c == nil || i < 0 || i >= c.Len():
		return nil, errors.New("joining without a checked signature")
	case !bytes.Equal(c.TBS(i), tbs):
		return nil, errors.New("the checked signature is over other bytes than this draft's")
	}
	return c.Raw(i), nil
}

// Stream derives everything random of one copy. Each value has a label of its own, so adding one never moves another, and a retry with the
// same seed rebuilds the same bytes. It is HKDF with SHA-256 (RFC 5869), for values of one block.
type Stream struct {
	mac   hash.Hash // keyed once: a credential has dozens of values
	label []byte
	name  int // bytes of label that name format and copy
	value [sha256.Size]byte
}

// extract is HKDF-Extract without a salt: its key is the same for all streams.
var extract = mac.New([sha256.Size]byte{})

// NewStream starts the stream of a format's copy.
func NewStream(seed [32]byte, format string, n int) *Stream {
	key := extract.Sum(seed[:])
	s := &Stream{mac: hmac.New(sha256.New, key[:]), label: make([]byte, 0, 128)}
	s.label = append(strconv.AppendInt(append(append(append(s.label, "sealkeeper/v1/"...), format...), '/'), int64(n), 10), '/')
	s.name = len(s.label)
	return s
}

// Bytes are the first n, at most 32, of the value with this label: what it is for, and names in quotes. They are there until the next call.
func (s *Stream) Bytes(n int, label string, names ...string) []byte {
	s.labelled(label, names)
	return s.bytes(n)
}

// Nth is Bytes of the value whose label ends with a number.
func (s *Stream) Nth(i, n int, label string, names ...string) []byte {
	s.labelled(label, names)
	s.label = strconv.AppendInt(append(s.label, '/'), int64(i), 10)
	return s.bytes(n)
}

func (s *Stream) labelled(label string, names []string) {
	s.label = append(s.label[:s.name], label...)
	for _, name := range names {
		s.label = append(s.label, '/')
		if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
			s.label = strconv.AppendQuote(s.label, name)
		} else { // the same, without a look at what Unicode says of each letter
			s.label = append(append(append(s.label, '"'), name...), '"')
		}
	}
}

func (s *Stream) bytes(n int) []byte {
	s.label = append(s.label, 1) // the number of the block
	s.mac.Reset()
	s.mac.Write(s.label)
	return s.mac.Sum(s.value[:0])[:n]
}
