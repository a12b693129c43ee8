package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"sealkeeper/contract"
	"sealkeeper/internal/durable"
	"sealkeeper/internal/signed"
	"sealkeeper/policy"
)

func policyCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Check, sign, activate and compare policy bundles",
		Long: `policy works on bundle files, and on the bundle that a running daemon uses. A bundle is put to use in four steps: edit it and raise its version, check
it, have it signed by as many policy keys as the installation wants, activate it.`,
		Example: "  sealctl policy check policy.json\n  sealctl policy sign policy.json --key alice.pem --kid alice\n  sealctl policy activate policy.json --identity clients/operator-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &coded{exitUsage, fmt.Errorf("unknown command %q for %q (see `%[2]s --help`)", args[0], cmd.CommandPath())}
			}
			return cmd.Help()
		}}
	c.AddCommand(policyCheck(o), policySign(), policyActivate(o), policyShow(o), policyDiff(o), policyReplay(o))
	return c
}

func readBundle(name string) ([]byte, *policy.Bundle, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, &coded{exitUsage, err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, policy.MaxFile+1))
	if err != nil {
		return nil, nil, err
	}
	b, err := policy.Parse(name, data)
	if err != nil {
		return nil, nil, &coded{exitCheck, err}
	}
	return data, b, nil
}

func policyCheck(o *options) *cobra.Command {
	return &cobra.Command{Use: "check FILE", Aliases: []string{"test"}, Short: "Check a bundle and run the tests that it carries", Args: cobra.ExactArgs(1),
		Long:    "check reads a bundle as the daemon would and runs its tests. It does not ask who signed it: only the installation knows whose keys count (activate --dry-run).",
		Example: "  sealctl policy check policy.json\n  sealctl policy test policy.json --json | jq '.tests[] | select(.ok | not)'",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, b, err := readBundle(args[0])
			if err != nil {
				return err
			}
			tests, failed := b.Tests(), 0
			out := map[string]any{"version": b.Version(), "hash": b.Hash().String(), "signatures": b.SignedBy(), "tests": tests}
			err = o.print(cmd.OutOrStdout(), out, func(w io.Writer) {
				fmt.Fprintf(w, "version\t%d\nhash\t%s\nsignatures\t%v (not verified)\n", b.Version(), b.Hash(), b.SignedBy())
				for _, t := range tests {
					if t.OK {
						fmt.Fprintf(w, "✓ %s\t%s\n", t.Name, t.Got)
					} else {
						fmt.Fprintf(w, "✗ %s\t%s:%d: wants %s, got %s (%s)\n", t.Name, args[0], t.Line, t.Want, t.Got, t.Why)
					}
				}
			})
			for _, t := range tests {
				if !t.OK {
					failed++
				}
			}
			if err == nil && failed > 0 {
				return &coded{exitCheck, fmt.Errorf("%d of %d tests fail", failed, len(tests))}
			}
			return err
		}}
}

func policySign() *cobra.Command {
	var key, kid, out string
	c := &cobra.Command{Use: "sign FILE --key PEM --kid ID", Short: "Add a signature to a bundle", Args: cobra.ExactArgs(1),
		Long: `sign puts a signature beside those that are there; one by the same kid is replaced. The key is a PEM file with a PKCS#8 or EC private key on P-256, P-384
or Ed25519 that nobody else may read. Read what you sign: sealctl policy diff.`,
		Example: "  sealctl policy sign policy.json --key alice.pem --kid alice\n  sealctl policy sign policy.json --key bob.pem --kid bob --out signed.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			data, b, err := readBundle(args[0])
			if err != nil {
				return err
			}
			signer, err := privateKey(key)
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("--key %s: %w", key, err)}
			}
			if err := b.Test(args[0]); err != nil {
				return &coded{exitCheck, err}
			}
			signedFile, err := policy.Sign(args[0], data, kid, signer, rand.Reader)
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0]
			}
			if err := durable.WriteFile(out, signedFile, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "  ✓ %s signed version %d (%s): %s\n", kid, b.Version(), b.Hash(), out)
			return nil
		}}
	c.Flags().StringVar(&key, "key", "", "PEM file with the private key")
	c.Flags().StringVar(&kid, "kid", "", "name under which the key is registered")
	c.Flags().StringVar(&out, "out", "", "file to write; default the bundle itself")
	_ = c.MarkFlagRequired("key")
	_ = c.MarkFlagRequired("kid")
	return c
}

func privateKey(path string) (crypto.Signer, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("mode %04o: others may read it; run `chmod 0400 %s`", st.Mode().Perm(), filepath.Base(path))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("there is no PEM block")
	}
	if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("this is no PKCS#8 or EC private key")
	}
	if s, ok := k.(crypto.Signer); ok && signed.Algorithm(s.Public()) != "" {
		return s, nil
	}
	return nil, errors.New("the key is on none of P-256, P-384 and Ed25519")
}

func policyTable(w io.Writer, p contract.Policy) {
	fmt.Fprintf(w, "version\t%d\nhash\t%s\nsigners\t%v\nactive\t%v\nsince\t%s\n", p.Version, p.Hash, p.Signers, p.Active, p.At.Format("2006-01-02 15:04:05 MST"))
}

func policyActivate(o *options) *cobra.Command {
	var dry bool
	c := &cobra.Command{Use: "activate FILE", Short: "Put a signed bundle to use, without a restart", Args: cobra.ExactArgs(1),
		Long: `activate hands a bundle to the running daemon as an operator. It is refused, and the active one stays, unless enough registered policy keys signed it,
its version is higher and its tests pass. Requests under way keep the bundle that they came in under.`,
		Example: "  sealctl policy activate policy.json --dry-run --identity clients/operator-1\n  sealctl policy activate policy.json --identity clients/operator-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			data, _, err := readBundle(args[0])
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			p, err := c.Activate(cmd.Context(), contract.PolicyRequest{Bundle: data, DryRun: dry})
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), p, func(w io.Writer) { policyTable(w, p) })
		}}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would come of it")
	return c
}

func policyShow(o *options) *cobra.Command {
	var out string
	c := &cobra.Command{Use: "show", Short: "Show the bundle that a running daemon uses", Args: cobra.NoArgs,
		Example: "  sealctl policy show --identity clients/auditor\n  sealctl policy show --identity clients/auditor --out policy.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			p, err := c.Policy(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			// What decisions name must be what is shown: the daemon's word is not enough.
			if b, err := policy.Parse("the daemon's bundle", []byte(p.Bundle)); err != nil {
				return err
			} else if b.Hash().String() != p.Hash {
				return &coded{exitCheck, fmt.Errorf("the daemon's bundle has the hash %s, and decisions name %s", b.Hash(), p.Hash)}
			}
			if out != "" {
				if err := durable.WriteFile(out, []byte(p.Bundle), 0o644); err != nil {
					return err
				}
			}
			return o.print(cmd.OutOrStdout(), p, func(w io.Writer) { policyTable(w, p) })
		}}
	c.Flags().StringVar(&out, "out", "", "write the bundle to this file")
	return c
}

// difference is one difference of two bundles.
type difference struct {
	At  string         `json:"at"` // JSON pointer
	Old jsontext.Value `json:"old,omitempty"`
	New jsontext.Value `json:"new,omitempty"`
}

func policyDiff(o *options) *cobra.Command {
	return &cobra.Command{Use: "diff OLD NEW", Short: "Show what differs in what two bundles say", Args: cobra.ExactArgs(2),
		Long:    "diff compares what is signed: layout, order of members and signatures make no difference. Elements of lists go by their id, kid or name where they have one.",
		Example: "  sealctl policy show --out active.json --identity clients/auditor\n  sealctl policy diff active.json policy.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			var sides [2]any
			for i, name := range args {
				data, _, err := readBundle(name)
				if err != nil {
					return err
				}
				var v any
				if err := json.Unmarshal(data, &v); err != nil {
					return err
				}
				if m := v.(map[string]any); signed.Is(data) {
					v = m["payload"]
				}
				sides[i] = v
			}
			changes := []difference{}
			differences("", sides[0], sides[1], func(at jsontext.Pointer, old, new any) {
				changes = append(changes, difference{string(at), text(old), text(new)})
			})
			return o.print(cmd.OutOrStdout(), changes, func(w io.Writer) {
				for _, c := range changes {
					fmt.Fprintf(w, "%s\n", c.At)
					if c.Old != nil {
						fmt.Fprintf(w, "  - %s\n", c.Old)
					}
					if c.New != nil {
						fmt.Fprintf(w, "  + %s\n", c.New)
					}
				}
			})
		}}
}

// text is nil for what is not there.
func text(v any) jsontext.Value {
	if v == nil {
		return nil
	}
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return jsontext.Value(`"?"`)
	}
	return b
}

func differences(at jsontext.Pointer, old, new any, differ func(jsontext.Pointer, any, any)) {
	a, isA := membersOf(old)
	b, isB := membersOf(new)
	if !isA || !isB {
		if string(text(old)) != string(text(new)) {
			differ(at, old, new)
		}
		return
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		differences(at.AppendToken(name), a[name], b[name], differ)
	}
}

// members of an object, or of a list whose elements are objects with an id.
func membersOf(v any) (map[string]any, bool) {
	if m, ok := v.(map[string]any); ok {
		return m, true
	}
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := map[string]any{}
	for _, e := range list {
		m, _ := e.(map[string]any)
		id := ""
		for _, by := range []string{"id", "kid", "name"} {
			if s, ok := m[by].(string); ok && id == "" {
				id = s
			}
		}
		if id == "" {
			return nil, false
		}
		out[id] = e
	}
	return out, len(out) == len(list)
}
