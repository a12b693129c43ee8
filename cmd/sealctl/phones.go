package main

import (
	"bytes"
	"compress/zlib"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"sealkeeper/contract"
	"sealkeeper/internal/durable"
	"sealkeeper/policy"
	"sealkeeper/verifier"
)

// phonesCommand feeds what is revoked of attestation keys and wallets. It fetches nothing: that is for a job that may reach the internet.
func phonesCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "phones", Short: "Sign and feed the status of attestation keys and wallets (see docs/phones.md)",
		Long:    "Sign and feed what is revoked of Android attestation keys and of wallets. A job with access to the internet fetches the lists,\nthe appliance never does.",
		Example: "  sealctl phones sign --android status.json --as-of 2026-03-14T03:00:00Z --key feed.pem --kid feed-1 --out signed.json\n  sealctl phones feed signed.json --identity clients/operator-1",
		Args:    cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			return &coded{exitUsage, errors.New("say which: `sealctl phones sign` or `sealctl phones feed`")}
		}}
	c.AddCommand(phonesSign(o), phonesFeed(o))
	return c
}

func phonesSign(*options) *cobra.Command {
	var androidFile, asOf, key, kid, out, root string
	var lists []string
	c := &cobra.Command{Use: "sign --key PEM --kid ID --out FILE", Short: "Make and sign a status from fetched lists", Args: cobra.NoArgs,
		Long: `sign puts Google's list (as it was fetched from android.googleapis.com/attestation/status) and wallet providers' status lists into one status and signs it.
as-of is the instant at which the oldest of them was fetched. A list of wallets is a Status List Token as it was fetched, JWT or CWT; it must be
signed under the certificate of its wallet provider (list-root), and good at as-of.`,
		Example: "  sealctl phones sign --android status.json --as-of 2026-03-14T03:00:00Z --key feed.pem --kid feed-1 --out signed.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := time.Parse(time.RFC3339, asOf)
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("--as-of %q is no instant such as 2026-03-14T03:00:00Z", asOf)}
			}
			status := map[string]any{"format": 1, "as_of": at.UTC()}
			if androidFile != "" {
				list, err := os.ReadFile(androidFile)
				if err != nil {
					return &coded{exitUsage, err}
				}
				status["android"] = jsontext.Value(list)
			}
			var all []any
			for _, file := range lists {
				l, err := walletList(file, root, at)
				if err != nil {
					return err
				}
				all = append(all, l)
			}
			if all != nil {
				status["lists"] = all
			}
			payload, err := json.Marshal(status, json.Deterministic(true))
			if err != nil {
				return &coded{exitCheck, fmt.Errorf("%s: %w", androidFile, err)}
			}
			signer, err := privateKey(key)
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("--key %s: %w", key, err)}
			}
			signedFile, err := policy.SignPhoneStatus(payload, kid, signer, rand.Reader)
			if err != nil {
				return &coded{exitCheck, err}
			}
			if err := durable.WriteFile(out, signedFile, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "  ✓ %s signed a status of %s: %s\n", kid, at.UTC().Format(time.RFC3339), out)
			return nil
		}}
	c.Flags().StringVar(&androidFile, "android", "", "Google's list of revoked attestation keys")
	c.Flags().StringArrayVar(&lists, "list", nil, "a wallet provider's Status List Token, as fetched")
	c.Flags().StringVar(&root, "list-root", "", "PEM file with the roots of these tokens")
	c.Flags().StringVar(&asOf, "as-of", "", "when the oldest list was fetched (RFC 3339)")
	c.Flags().StringVar(&key, "key", "", "PEM file with the private key")
	c.Flags().StringVar(&kid, "kid", "", "name of the key in the policy bundle (phones.status.keys)")
	c.Flags().StringVar(&out, "out", "", "file to write")
	for _, name := range []string{"as-of", "key", "kid", "out"} {
		_ = c.MarkFlagRequired(name)
	}
	return c
}

// trimmed takes what an editor puts around a JWT away; a CWT's signature may end in the same bytes, and stays as it is.
func trimmed(token []byte) []byte {
	if text := bytes.TrimSpace(token); bytes.HasPrefix(text, []byte("eyJ")) {
		return text
	}
	return token
}

// walletList is a verified Status List Token in the form in which it is fed.
func walletList(file, rootFile string, at time.Time) (any, error) {
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	roots, err := readCerts(rootFile)
	if err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("--list-root %s: %w", rootFile, err)}
	}
	l, err := verifier.DecodeStatusList(trimmed(token), verifier.MaxEntries)
	if err == nil {
		err = l.Verify(roots, at)
	}
	if err != nil {
		return nil, &coded{exitCheck, fmt.Errorf("%s: %w", file, err)}
	}
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	if _, err := z.Write(l.Image); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	out := map[string]any{"uri": l.Subject, "bits": l.Bits, "lst": base64.RawURLEncoding.EncodeToString(packed.Bytes())}
	if !l.Expires.IsZero() {
		out["exp"] = l.Expires.Unix()
	}
	return out, nil
}

func phonesFeed(o *options) *cobra.Command {
	return &cobra.Command{Use: "feed FILE", Short: "Hand a signed status to the running daemon", Args: cobra.ExactArgs(1),
		Long:    "feed hands a signed status over as an operator. It is refused unless a key of the active policy signed it and it is not older than the one before.",
		Example: "  sealctl phones feed signed.json --identity clients/operator-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return &coded{exitUsage, err}
			}
			defer f.Close()
			data, err := io.ReadAll(io.LimitReader(f, policy.MaxPhoneStatus+1))
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			s, err := c.FeedPhones(cmd.Context(), contract.PhoneStatusRequest{Status: data})
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), s, func(w io.Writer) {
				fmt.Fprintf(w, "as of\t%s\ntoo old at\t%s\nsigner\t%s\nrevoked attestation keys\t%d\nlists of wallets\t%d\n", s.AsOf.Format(time.RFC3339), s.Until.Format(time.RFC3339), s.Signer, s.Revoked, s.Lists)
			})
		}}
}
