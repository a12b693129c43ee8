package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/internal/strict"
)

// evidenceCommand is a test authority for integrators. A real one keeps its key where it can't be copied.
func evidenceCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "evidence", Short: "Make keys and statements of test authorities (see docs/evidence.md)",
		Long:    "Make keys and statements of test authorities, to try sessions and methods with.\nA real authority keeps its key in an HSM or a token, never in a file.",
		Example: "  sealctl evidence key --out register.pem --kid register-1",
		Args:    cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			return &coded{exitUsage, errors.New("say which: `sealctl evidence key` or `sealctl evidence make`")}
		}}
	c.AddCommand(evidenceKeyCommand(o), evidenceMakeCommand(o))
	return c
}

var algorithms = map[string]func() (crypto.Signer, error){
	"ES256": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	"ES384": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	"EdDSA": func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err },
}

func evidenceKeyCommand(*options) *cobra.Command {
	var out, kid, algorithm string
	var days int
	c := &cobra.Command{Use: "key --out FILE", Short: "Make a key of a test authority; prints its entry for the policy bundle", Args: cobra.NoArgs,
		Example: "  sealctl evidence key --out register.pem --kid register-1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			generate := algorithms[algorithm]
			if generate == nil {
				return &coded{exitUsage, fmt.Errorf("algorithm %q is none of ES256, ES384, EdDSA", algorithm)}
			}
			key, err := generate()
			if err != nil {
				return fmt.Errorf("making the key: %w", err)
			}
			jwk, err := publicJWK(key.Public())
			if err != nil {
				return err
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return fmt.Errorf("encoding the key: %w", err)
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // never over a key that is there
			if err != nil {
				return fmt.Errorf("the key's file: %w", err)
			}
			if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Close()); err != nil {
				return fmt.Errorf("writing the key: %w", err)
			}
			now := time.Now().UTC().Truncate(time.Second)
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(struct {
				ID        string          `json:"kid"`
				JWK       json.RawMessage `json:"jwk"`
				NotBefore time.Time       `json:"not_before"`
				NotAfter  time.Time       `json:"not_after"`
			}{kid, jwk, now, now.AddDate(0, 0, days)})
		}}
	c.Flags().StringVar(&out, "out", "", "new file for the private key (PKCS #8, PEM)")
	c.Flags().StringVar(&kid, "kid", "test-1", "id of the key")
	c.Flags().StringVar(&algorithm, "algorithm", "ES256", "ES256, ES384 or EdDSA")
	c.Flags().IntVar(&days, "days", 90, "how long statements may be signed with it")
	_ = c.MarkFlagRequired("out")
	return c
}

func publicJWK(key crypto.PublicKey) ([]byte, error) {
	encode := base64.RawURLEncoding.EncodeToString
	members := map[string]string{}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encoding the public key: %w", err)
		}
		n := len(point) / 2
		members = map[string]string{"kty": "EC", "crv": k.Curve.Params().Name, "x": encode(point[1 : 1+n]), "y": encode(point[1+n:])}
	case ed25519.PublicKey:
		members = map[string]string{"kty": "OKP", "crv": "Ed25519", "x": encode(k)}
	}
	b, err := json.Marshal(members)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	parsed, err := evidence.ParseKey(b) // what the appliance will read
	return parsed.JWK, err
}

// maxBody bounds what is read of a statement's body, its claims or a session.
const maxBody = 1 << 20

func evidenceMakeCommand(*options) *cobra.Command {
	var key, kid, issuer, session, kind, body, claims string
	var valid time.Duration
	c := &cobra.Command{Use: "make --kind KIND --issuer ID --key FILE --session FILE", Short: "Make a signed statement about the person of a session; prints the JWS", Args: cobra.NoArgs,
		Long: "Make a signed statement about the person of a session, and print it as the token of an evidence item.\n\n" +
			"The session is the answer to POST /v1/sessions; the authority must be among those that it names. The body has the members of the kind (docs/evidence.md).\n" +
			"What it lacks of these is filled in: not_before and not_after of in_person, challenge of chip_read, salt and attributes of registry_match (from --claims).",
		Example: "  sealctl evidence make --kind line_ownership --issuer telecom-a --key telecom.pem --session session.json \\\n" +
			"    --body - <<< '{\"line\":\"line-1\",\"subscriber\":\"self\",\"line_kind\":\"personal\"}'\n" +
			"  sealctl evidence make --kind registry_match --issuer register --key register.pem --session session.json \\\n" +
			"    --claims claims.json --body - <<< '{\"district\":\"1111051500\",\"epoch\":1,\"card_status\":\"valid\"}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if valid < time.Second || valid > 24*time.Hour {
				return &coded{exitUsage, errors.New("--valid is a time from 1s to 24h")}
			}
			signer, err := readKey(key)
			if err != nil {
				return err
			}
			var s contract.SessionAnswer
			if err := decodeFile(cmd.InOrStdin(), session, &s); err != nil {
				return fmt.Errorf("the session: %w", err)
			}
			id, err := statement.SessionID(s.Session)
			if err != nil {
				return err
			}
			subject, named := s.Pseudonyms[issuer]
			if !named {
				return fmt.Errorf("the session has no pseudonym for the authority %s: open it with that name in authorities", issuer)
			}
			now := time.Now()
			b, err := makeBody(cmd.InOrStdin(), kind, body, claims, s.Nonce, now, now.Add(valid))
			if err != nil {
				return err
			}
			jti, err := statement.NewID(rand.Reader)
			if err != nil {
				return err
			}
			text, err := statement.Sign(signer, kid, statement.Common{Issuer: issuer, Subject: subject, Session: id, ID: jti, IssuedAt: now, Expires: now.Add(valid)}, b)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		}}
	f := c.Flags()
	f.StringVar(&key, "key", "", "private key of the authority (PKCS #8, PEM)")
	f.StringVar(&kid, "kid", "test-1", "id of the key, as in the policy bundle")
	f.StringVar(&issuer, "issuer", "", "id of the authority, as in the policy bundle")
	f.StringVar(&session, "session", "", "answer to POST /v1/sessions (JSON; - for standard input)")
	f.StringVar(&kind, "kind", "", "in_person, registry_match, face_match, chip_read or line_ownership")
	f.StringVar(&body, "body", "-", "members of the kind (JSON; - for standard input)")
	f.StringVar(&claims, "claims", "", "registry_match: the claims of the request (JSON), whose digests are stated")
	f.DurationVar(&valid, "valid", 5*time.Minute, "how long the statement holds")
	for _, name := range []string{"key", "issuer", "session", "kind"} {
		_ = c.MarkFlagRequired(name)
	}
	return c
}

// makeBody reads the members of a kind, strictly as the appliance will, and fills in what follows from the session.
func makeBody(in io.Reader, kind, file, claims, nonce string, from, to time.Time) (any, error) {
	if claims != "" && kind != evidence.KindRegistryMatch {
		return nil, &coded{exitUsage, errors.New("--claims is for registry_match alone")}
	}
	switch kind {
	case evidence.KindInPerson:
		var v evidence.InPerson
		err := decodeFile(in, file, &v)
		if v.NotBefore == nil && v.NotAfter == nil {
			nbf, exp := from.Unix(), to.Unix()
			v.NotBefore, v.NotAfter = &nbf, &exp
		}
		return v, err
	case evidence.KindRegistryMatch:
		var v evidence.RegistryMatch
		if err := decodeFile(in, file, &v); err != nil || claims == "" {
			return v, err
		}
		var all map[string]jsontext.Value
		if err := decodeFile(in, claims, &all); err != nil {
			return nil, fmt.Errorf("the claims: %w", err)
		}
		var salt [16]byte
		if _, err := io.ReadFull(rand.Reader, salt[:]); err != nil {
			return nil, fmt.Errorf("drawing a salt: %w", err)
		}
		var err error
		v.Salt, v.Attributes, err = statement.Digests(salt, all)
		return v, err
	case evidence.KindFaceMatch:
		var v evidence.FaceMatch
		err := decodeFile(in, file, &v)
		return v, err
	case evidence.KindChipRead:
		var v evidence.ChipRead
		err := decodeFile(in, file, &v)
		if v.Challenge == "" {
			v.Challenge = statement.Challenge(nonce)
		}
		return v, err
	case evidence.KindLineOwnership:
		var v evidence.LineOwnership
		err := decodeFile(in, file, &v)
		return v, err
	}
	return nil, &coded{exitUsage, fmt.Errorf("%q is no kind of statement: use in_person, registry_match, face_match, chip_read or line_ownership", kind)}
}

func decodeFile(in io.Reader, name string, v any) error {
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(io.LimitReader(in, maxBody+1))
	} else {
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if err := strict.JSON(b, strict.Limits{Bytes: maxBody, Depth: 8}, v); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	return nil
}

func readKey(name string) (crypto.Signer, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, fmt.Errorf("%s is no private key in PEM: make one with `sealctl evidence key`", name)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is no PKCS #8 key: make one with `sealctl evidence key`", name)
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a key that signs no statement: use P-256, P-384 or Ed25519", name)
	}
	return key, nil
}
