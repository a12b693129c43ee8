// The way to a signature: each step takes what the step before made. This one compiles.
package main

import (
	"context"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
	"sealkeeper/signer"
)

func sign(ctx context.Context, l *ledger.Ledger, s *signer.Signer, g *release.Gate, a *policy.Approval, d []ledger.Draft, tbs [][]byte) ([]byte, error) {
	r, err := l.Reserve(ctx, a, d, nil)
	if err != nil {
		return nil, err
	}
	made, err := s.Sign(ctx, r, tbs)
	if err != nil {
		return nil, err
	}
	checked, err := g.Check(ctx, r, tbs, made)
	if err != nil {
		return nil, err
	}
	released, err := g.Pass(ctx, checked, checked.Raw(0))
	return released.Bytes(), err
}

func main() { _ = sign }
