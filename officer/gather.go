package officer

import (
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/internal/signed"
)

// Said is one officer's word out of a file of approvals, and the case after it.
type Said struct {
	By   string
	New  bool // the proposal itself
	Case Case
}

// Gather takes approvals that officers put into one file, where no appliance is that could take them one by one: the proposer's first, then each as
// Open and Add do. What is in the case already is left out; nothing else is.
func (r *Registry) Gather(c Case, envelope []byte, now time.Time) (said []Said, _ *Proposal, _ error) {
	e, err := signed.Parse(envelope, limits)
	if err != nil {
		return nil, nil, refuse("malformed", err.Error())
	}
	p, err := ParseProposal(e.Payload)
	if err != nil {
		return nil, nil, err
	}
	var before []string
	if len(c.Approvals) > 0 {
		s, err := r.Standing(c)
		if err != nil {
			return nil, nil, err
		}
		before = s.Approved
	}
	signatures := slices.Clone(e.Signatures)
	slices.SortStableFunc(signatures, func(a, b signed.Signature) int {
		switch {
		case a.Key == p.By && b.Key != p.By:
			return -1
		case b.Key == p.By && a.Key != p.By:
			return 1
		}
		return 0
	})
	for _, one := range signatures {
		if slices.Contains(before, one.Key) {
			continue
		}
		alone, err := json.Marshal(signed.Envelope{Payload: e.Payload, Signatures: []signed.Signature{one}}, json.Deterministic(true))
		if err != nil {
			return nil, nil, err
		}
		first := len(c.Approvals) == 0
		if first {
			c, _, err = r.Open(alone, now)
		} else {
			c, _, err = r.Add(c, alone, false, now)
		}
		if err != nil {
			return said, p, err
		}
		said = append(said, Said{By: one.Key, New: first, Case: c})
	}
	return said, p, nil
}

// Join puts a new signature to those of a file of approvals.
func Join(file, approval []byte) ([]byte, error) {
	a, err := signed.Parse(approval, limits)
	if err != nil {
		return nil, refuse("malformed", err.Error())
	}
	if file == nil {
		return json.Marshal(a, json.Deterministic(true))
	}
	e, err := signed.Parse(file, limits)
	if err != nil {
		return nil, refuse("malformed", err.Error())
	}
	if string(e.Payload) != string(a.Payload) {
		return nil, refuse("edited", "the signature is for other bytes than those of the file")
	}
	for _, s := range a.Signatures {
		if slices.ContainsFunc(e.Signatures, func(o signed.Signature) bool { return o.Key == s.Key }) {
			return nil, refuse("duplicate", s.Key+" said so before")
		}
		e.Signatures = append(e.Signatures, s)
	}
	return json.Marshal(e, json.Deterministic(true))
}

// Payload of a file of approvals, and who signed it by what they say.
func Payload(file []byte) (*Proposal, []string, error) {
	e, err := signed.Parse(file, limits)
	if err != nil {
		return nil, nil, refuse("malformed", err.Error())
	}
	p, err := ParseProposal(e.Payload)
	if err != nil {
		return nil, nil, err
	}
	var by []string
	for _, s := range e.Signatures {
		by = append(by, s.Key)
	}
	return p, by, nil
}
