package ca

import (
	"errors"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// A root takes over when its certificate and its link are where everybody finds them, and not before, whoever decides it; a signer can take over as soon as
// it is certified, since its certificate comes with what it signs.
func TestActivable(t *testing.T) {
	published := func(names ...string) *Authority {
		a := &Authority{public: shelf{objects: map[string]Object{}}, ring: keyring{loaded: map[string]bool{"k": true}}}
		for _, n := range names {
			a.public.objects["certificates/"+n+".cer"] = Object{}
		}
		return a
	}
	root := func(state ledger.KeyState) ledger.Key {
		return ledger.Key{ID: "k", Purpose: policy.PurposeIACA, State: state, Chain: [][]byte{{1}}, Link: []byte{2}}
	}
	clients := func(state ledger.KeyState) ledger.Key {
		k := root(state)
		k.Purpose = policy.PurposeClientCA
		return k
	}
	signer := func(state ledger.KeyState) ledger.Key {
		return ledger.Key{ID: "k", Purpose: policy.PurposeMDoc, State: state, Chain: [][]byte{{1}}}
	}
	idle := published("k")
	idle.ring.loaded = nil
	for name, c := range map[string]struct {
		a    *Authority
		k    ledger.Key
		good bool
	}{
		"a root":                      {published("k", "k.link"), root(ledger.KeyAnnounced), true},
		"a root that is certified":    {published("k", "k.link"), root(ledger.KeyCertified), false},
		"a root without its link":     {published("k"), root(ledger.KeyAnnounced), false},
		"a root with its link alone":  {published("k.link"), root(ledger.KeyAnnounced), false},
		"a root that is deactivated":  {published("k", "k.link"), root(ledger.KeyDeactivated), false},
		"a CA of clients":             {published("k", "k.link"), clients(ledger.KeyAnnounced), true},
		"one that is certified":       {published("k", "k.link"), clients(ledger.KeyCertified), false},
		"one without its link":        {published("k"), clients(ledger.KeyAnnounced), false},
		"a token key":                 {published(), ledger.Key{ID: "k", Purpose: policy.PurposeToken, State: ledger.KeyAnnounced}, true},
		"a signer":                    {published("k"), signer(ledger.KeyAnnounced), true},
		"a signer that is certified":  {published(), signer(ledger.KeyCertified), true},
		"a signer that nobody knows":  {published(), signer(ledger.KeyAnnounced), false},
		"a signer that is only made":  {published(), signer(ledger.KeyGenerated), false},
		"a signer without its worker": {idle, signer(ledger.KeyAnnounced), false},
	} {
		err := c.a.activable(c.k)
		var p *Problem
		if (err == nil) != c.good || err != nil && (!errors.As(err, &p) || p.Code != "key.state") {
			t.Errorf("%s takes over: %v", name, err)
		}
	}
}
