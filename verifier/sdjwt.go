package verifier

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// SDJWT is a verified SD-JWT VC with what was disclosed of it.
type SDJWT struct {
	Type      string         // vct
	Issuer    string         // iss; empty: the signer's certificate alone names the issuer
	Claims    map[string]any // the processed payload: JSON values, integers as int64
	Hidden    int            // digests without a disclosure
	HolderKey crypto.PublicKey
	IssuedAt  time.Time  // zero: none
	NotBefore time.Time  // zero: none
	Expires   time.Time  // zero: none
	Status    *StatusRef // nil: none
	Signer    *x509.Certificate

	presented  string // everything that sd_hash covers
	keyBinding string // empty: none
}

// neverHidden must not be selectively disclosed (sd-jwt-vc-19 2.2.2.2).
var neverHidden = []string{"iss", "nbf", "exp", "cnf", "vct", "vct#integrity", "aka_vcts", "status"}

// VerifySDJWT checks <JWT>~<D1>~…~[KB-JWT]: the signer's chain in x5c, the signature, every disclosure, and the validity at the given
// instant. It does not fetch the status, and a key binding JWT is only checked by VerifyKeyBinding.
func VerifySDJWT(compact []byte, roots []*x509.Certificate, at time.Time) (*SDJWT, error) {
	var signer *x509.Certificate
	s, err := openSDJWT(compact, "dc+sd-jwt", func(h joseHeader) (crypto.PublicKey, error) {
		leaf, err := checkChain(h.X5C, roots, at)
		if err != nil {
			return nil, err
		}
		signer = leaf
		return leaf.PublicKey, nil
	})
	if err != nil {
		return nil, err
	}
	s.Signer = signer
	switch {
	case s.Type == "":
		return nil, errors.New("the SD-JWT VC has no vct")
	case s.IssuedAt.After(at.Add(leeway)):
		return nil, fmt.Errorf("the SD-JWT VC was issued in the future, at %s", s.IssuedAt.Format(time.RFC3339))
	case at.Before(s.NotBefore):
		return nil, fmt.Errorf("the SD-JWT VC is valid from %s", s.NotBefore.Format(time.RFC3339))
	case s.Expires.IsZero() && s.Status == nil:
		return nil, errors.New("the SD-JWT VC has neither exp nor status (HAIP 6.1)")
	case !s.Expires.IsZero() && !at.Before(s.Expires):
		return nil, fmt.Errorf("the SD-JWT VC was valid until %s", s.Expires.Format(time.RFC3339))
	}
	return s, nil
}

// VerifyKeyBinding checks that the holder's key signed this very presentation for this verifier and nonce, at most maxAge ago (RFC 9901 7.3).
func (s *SDJWT) VerifyKeyBinding(nonce, audience string, at time.Time, maxAge time.Duration) error {
	if s.keyBinding == "" || s.HolderKey == nil {
		return errors.New("the presentation has no key binding")
	}
	t, err := openJWT(s.keyBinding)
	if err != nil {
		return fmt.Errorf("key binding: %w", err)
	}
	if t.header.Type != "kb+jwt" {
		return fmt.Errorf("key binding of type %q", t.header.Type)
	}
	if err := verifySignature(t.header.Algorithm, s.HolderKey, t.input, t.signature); err != nil {
		return fmt.Errorf("key binding: %w", err)
	}
	var c struct {
		IssuedAt *int64 `json:"iat"`
		Audience string `json:"aud"`
		Nonce    string `json:"nonce"`
		Hash     string `json:"sd_hash"`
	}
	if err := decodeJSON(t.payload, &c); err != nil {
		return fmt.Errorf("key binding: %w", err)
	}
	switch {
	case c.Hash != digest(s.presented):
		return errors.New("the key binding is for another presentation")
	case c.Nonce != nonce || nonce == "":
		return errors.New("the key binding has another nonce")
	case c.Audience != audience || audience == "":
		return errors.New("the key binding is for another verifier")
	case c.IssuedAt == nil || time.Unix(*c.IssuedAt, 0).After(at.Add(leeway)) || time.Unix(*c.IssuedAt, 0).Before(at.Add(-maxAge)):
		return errors.New("the key binding is too old or from the future")
	}
	return nil
}

type joseHeader struct {
	Algorithm string   `json:"alg"`
	Type      string   `json:"typ"`
	X5C       [][]byte `json:"x5c"`
	Critical  any      `json:"crit"`
}

type jwt struct {
	header           joseHeader
	payload          []byte
	input, signature []byte
}

// openJWT decodes a compact JWS; its signature is still to be verified.
func openJWT(compact string) (*jwt, error) {
	parts := strings.SplitN(compact, ".", 4)
	if len(parts) != 3 {
		return nil, errors.New("a compact JWS has three parts")
	}
	header, err := b64(parts[0])
	if err != nil {
		return nil, fmt.Errorf("JOSE header: %w", err)
	}
	t := &jwt{input: []byte(parts[0] + "." + parts[1])}
	if err := decodeJSON(header, &t.header); err != nil {
		return nil, fmt.Errorf("JOSE header: %w", err)
	}
	if t.header.Critical != nil {
		return nil, errors.New("JOSE header parameter crit is not supported")
	}
	if t.payload, err = b64(parts[1]); err != nil {
		return nil, fmt.Errorf("JWT payload: %w", err)
	}
	if t.signature, err = b64(parts[2]); err != nil {
		return nil, fmt.Errorf("JWT signature: %w", err)
	}
	return t, nil
}

// decodeJSON refuses deep nesting, duplicate members, invalid UTF-8 and trailing data.
func decodeJSON(data []byte, v any) error {
	depth, inString, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("JSON is nested deeper than %d", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	switch v.(type) {
	case *map[string]any, *[]any: // integers must survive; encoding/json alone would let duplicate members pass
		if !jsontext.Value(data).IsValid() {
			return errors.New("no valid JSON without duplicate members")
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		return d.Decode(v)
	}
	return jsonv2.Unmarshal(data, v) // member names match exactly, other than in encoding/json
}

const maxDisclosures = 4096

// openSDJWT verifies the issuer's signature with the key that the header leads to, and processes the disclosures (RFC 9901 7.1).
func openSDJWT(compact []byte, typ string, key func(joseHeader) (crypto.PublicKey, error)) (*SDJWT, error) {
	if len(compact) > MaxCredential {
		return nil, fmt.Errorf("the SD-JWT has %d bytes, at most %d are allowed", len(compact), MaxCredential)
	}
	if n := bytes.Count(compact, []byte("~")); n > maxDisclosures {
		return nil, fmt.Errorf("the SD-JWT has %d disclosures, at most %d are allowed", n, maxDisclosures)
	}
	parts := strings.Split(string(compact), "~")
	if len(parts) < 2 {
		return nil, errors.New("an SD-JWT ends its JWT and each disclosure with a tilde")
	}
	t, err := openJWT(parts[0])
	if err != nil {
		return nil, err
	}
	if t.header.Type != typ {
		return nil, fmt.Errorf("typ is %q, not %q", t.header.Type, typ)
	}
	k, err := key(t.header)
	if err != nil {
		return nil, err
	}
	if err := verifySignature(t.header.Algorithm, k, t.input, t.signature); err != nil {
		return nil, err
	}
	var payload map[string]any
	if err := decodeJSON(t.payload, &payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	last := len(parts) - 1
	s, err := disclose(payload, parts[1:last])
	if err != nil {
		return nil, err
	}
	s.presented, s.keyBinding = strings.Join(parts[:last], "~")+"~", parts[last]
	return s, s.registered()
}

// disclose puts the disclosures where their digests are.
func disclose(payload map[string]any, disclosures []string) (*SDJWT, error) {
	if alg, ok := payload["_sd_alg"]; ok && alg != "sha-256" {
		return nil, fmt.Errorf("digest algorithm %v is not supported", alg)
	}
	delete(payload, "_sd_alg")
	p := process{disclosures: map[string]*disclosure{}, digests: map[string]bool{}}
	for _, text := range disclosures {
		if err := p.add(text); err != nil {
			return nil, err
		}
	}
	claims, err := p.object(payload, true, 0)
	if err != nil {
		return nil, err
	}
	for _, d := range p.disclosures {
		if !d.used {
			return nil, errors.New("a disclosure belongs to no digest")
		}
	}
	return &SDJWT{Claims: claims, Hidden: len(p.digests) - len(p.disclosures)}, nil
}

// registered reads the claims that have a meaning here.
func (s *SDJWT) registered() error {
	for name, to := range map[string]*string{"vct": &s.Type, "iss": &s.Issuer} {
		if v, ok := s.Claims[name]; ok {
			if *to, ok = v.(string); !ok || *to == "" {
				return fmt.Errorf("%s is no text", name)
			}
		}
	}
	for name, to := range map[string]*time.Time{"iat": &s.IssuedAt, "nbf": &s.NotBefore, "exp": &s.Expires} {
		if v, ok := s.Claims[name]; ok {
			n, ok := v.(int64)
			if !ok || n < 0 || n > math.MaxInt32*1000 {
				return fmt.Errorf("%s is no time in whole seconds", name)
			}
			*to = time.Unix(n, 0).UTC()
		}
	}
	if v, ok := s.Claims["cnf"]; ok {
		cnf, _ := v.(map[string]any)
		jwk, _ := cnf["jwk"].(map[string]any)
		var err error
		if s.HolderKey, err = publicJWK(jwk); err != nil {
			return fmt.Errorf("cnf: %w", err)
		}
	}
	if v, ok := s.Claims["status"]; ok { // also null: see openMDoc
		status, _ := v.(map[string]any)
		l, ok := status["status_list"]
		if !ok {
			return errStatus
		}
		list, _ := l.(map[string]any)
		idx, isInt := list["idx"].(int64)
		uri, isText := list["uri"].(string)
		if !isInt || idx < 0 || !isText || uri == "" {
			return errors.New("the status list reference is not whole")
		}
		s.Status = &StatusRef{URI: uri, Index: uint64(idx)}
	}
	return nil
}

type disclosure struct {
	name    string
	isArray bool // an array element: it has no name
	value   any
	used    bool
}

// process replaces digests by what was disclosed. Every digest may occur once, every disclosure must be used once.
type process struct {
	disclosures map[string]*disclosure
	digests     map[string]bool
}

// digest of the disclosure's text as it travels (RFC 9901 4.2.3).
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (p *process) add(text string) error {
	raw, err := b64(text)
	if err != nil {
		return fmt.Errorf("a disclosure: %w", err)
	}
	var a []any
	if err := decodeJSON(raw, &a); err != nil {
		return fmt.Errorf("a disclosure: %w", err)
	}
	if len(a) != 2 && len(a) != 3 {
		return errors.New("a disclosure is no array of two or three")
	}
	if _, ok := a[0].(string); !ok {
		return errors.New("a disclosure's salt is no text")
	}
	d := &disclosure{isArray: len(a) == 2, value: a[len(a)-1]}
	if !d.isArray {
		var ok bool
		if d.name, ok = a[1].(string); !ok || d.name == "_sd" || d.name == "..." {
			return errors.New("a disclosure's claim name is not allowed")
		}
	}
	id := digest(text)
	if p.disclosures[id] != nil {
		return errors.New("a disclosure occurs twice")
	}
	p.disclosures[id] = d
	return nil
}

// take records a digest and returns its disclosure, nil if it stays hidden.
func (p *process) take(v any, isArray bool) (*disclosure, error) {
	id, ok := v.(string)
	if !ok {
		return nil, errors.New("a digest is no text")
	}
	if p.digests[id] {
		return nil, errors.New("a digest occurs twice")
	}
	p.digests[id] = true
	d := p.disclosures[id]
	if d == nil {
		return nil, nil
	}
	if d.isArray != isArray {
		return nil, errors.New("a disclosure stands where it can't")
	}
	d.used = true
	return d, nil
}

func (p *process) object(in map[string]any, top bool, depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("claims are nested deeper than %d", maxDepth)
	}
	out := make(map[string]any, len(in))
	for name, v := range in {
		if name == "_sd" {
			continue
		}
		if name == "..." {
			return nil, errors.New(`the member name "..." is not allowed here`)
		}
		var err error
		if out[name], err = p.value(v, depth+1); err != nil {
			return nil, err
		}
	}
	hidden, ok := in["_sd"]
	if !ok {
		return out, nil
	}
	list, ok := hidden.([]any)
	if !ok {
		return nil, errors.New("_sd is no array")
	}
	for _, v := range list {
		d, err := p.take(v, false)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		if _, clash := out[d.name]; clash {
			return nil, fmt.Errorf("claim %q occurs twice", d.name)
		}
		if top && slices.Contains(neverHidden, d.name) {
			return nil, fmt.Errorf("claim %q must not be selectively disclosable", d.name)
		}
		if out[d.name], err = p.value(d.value, depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *process) value(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("claims are nested deeper than %d", maxDepth)
	}
	switch x := v.(type) {
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n, nil
		}
		return x.Float64()
	case map[string]any:
		return p.object(x, false, depth)
	case []any:
		out := make([]any, 0, len(x))
		for _, e := range x {
			if m, ok := e.(map[string]any); ok && m["..."] != nil {
				if len(m) != 1 {
					return nil, errors.New("a hidden array element has other members")
				}
				d, err := p.take(m["..."], true)
				if err != nil {
					return nil, err
				}
				if d == nil {
					continue
				}
				e = d.value
			}
			r, err := p.value(e, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
		return out, nil
	}
	return v, nil
}

// publicJWK reads a public key of RFC 7518 6.2 or RFC 8037.
func publicJWK(jwk map[string]any) (crypto.PublicKey, error) {
	if jwk == nil {
		return nil, errors.New("no jwk")
	}
	if _, private := jwk["d"]; private {
		return nil, errors.New("it is a private key")
	}
	coordinate := func(name string) []byte {
		s, _ := jwk[name].(string)
		b, err := b64(s)
		if err != nil {
			return nil
		}
		return b
	}
	x, y := coordinate("x"), coordinate("y")
	switch {
	case jwk["kty"] == "EC" && jwk["crv"] == "P-256":
		return point(elliptic.P256(), x, y)
	case jwk["kty"] == "EC" && jwk["crv"] == "P-384":
		return point(elliptic.P384(), x, y)
	case jwk["kty"] == "OKP" && jwk["crv"] == "Ed25519" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("key type %v with curve %v is not supported", jwk["kty"], jwk["crv"])
}
