package ledger

import (
	"context"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/policy"
)

// ActivePolicy is the policy bundle in use.
type ActivePolicy struct {
	Hash    policy.Hash `json:"hash"`
	Version uint64      `json:"version"`
	Signers []string    `json:"signers,omitempty"` // kids of the policy keys that stood for it
	Client  string      `json:"client,omitempty"`  // who brought it; empty: the configuration
	At      time.Time   `json:"at"`
}

const activePolicyMeta = "policy/active"

// bundleMeta names the file of a bundle, which stays for as long as the ledger: every decision names the hash of what it was made by.
func bundleMeta(h policy.Hash) string { return "policy/bundle/" + h.String() }

// ActivePolicy is what the ledger has in use; nil before the first one.
func (l *Ledger) ActivePolicy(ctx context.Context) (*ActivePolicy, error) {
	if l.dead.Load() {
		return nil, ErrStopped
	}
	p, _, err := get[ActivePolicy](ctx, l, TableMeta, []byte(activePolicyMeta))
	return p, err
}

// PolicyFile is the file of a bundle that was in use.
func (l *Ledger) PolicyFile(ctx context.Context, h policy.Hash) (file []byte, ok bool, err error) {
	return l.Meta(ctx, bundleMeta(h))
}

// Activate makes a bundle the one in use: its file, the fact and the leaf are one commit, so that after a crash there is the old bundle or
// the new one, and its file with it, and with it the mark that the officers' proposal was carried out, if it takes one. ErrConflict: another one, not older, is in use. The same bundle again replaces its file, for other signatures.
func (l *Ledger) Activate(ctx context.Context, p ActivePolicy, file []byte, x *Execution) error {
	if err := l.ready(); err != nil {
		return err
	}
	old, rev, err := get[ActivePolicy](ctx, l, TableMeta, []byte(activePolicyMeta))
	if err != nil {
		return err
	}
	if old != nil && p.Version <= old.Version && p.Hash != old.Hash {
		return ErrConflict
	}
	crashpoint.Here("ledger.policy.before-commit")
	leaf := Leaf{Kind: "policy", At: p.At, Client: p.Client, Policy: p.Hash.String(), PolicyVersion: p.Version, Signers: p.Signers}
	rows, err := l.executed(ctx, x, &leaf, []Row{
		{Table: TableMeta, Key: []byte(activePolicyMeta), Value: encode(p), If: If(rev)},
		{Table: TableMeta, Key: []byte(bundleMeta(p.Hash)), Value: file, If: Any},
	})
	if err != nil {
		return err
	}
	out, err := l.commit(ctx, leaf, rows, true, nil) // urgent: a kill switch does not wait behind a crowd, nor for room on a full disk
	if err != nil {
		return err
	}
	if out.Conflict != nil {
		return ErrConflict
	}
	crashpoint.Here("ledger.policy.after-commit")
	return nil
}
