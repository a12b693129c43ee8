package sdjwt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/ca/certified"
	"sealkeeper/policy"
)

var b64 = base64.RawURLEncoding

// saltSize in bytes: 128 bits as RFC 9901 9.3 recommends.
const saltSize = 16

// sigSizes of the algorithms that sign SD-JWT VCs.
var sigSizes = map[string]int{"ES256": 64, "ES384": 96, "EdDSA": 64}

// reserved top-level names: those the builder writes itself or that a claim must never stand in for (RFC 9901 4.1; sd-jwt-vc-19 2.2.2.2).
var reserved = []string{"iss", "iat", "nbf", "exp", "cnf", "vct", "vct#integrity", "aka_vcts", "status", "_sd", "_sd_alg", "..."}

// plain is everything that goes into one SD-JWT VC, as values that any test can make.
type plain struct {
	vct      string
	issuer   string         // empty: the x5c leaf alone names the issuer
	values   []policy.Value // those without an SD-JWT name stay out
	jwk      []byte         // canonical public JWK
	uri      string
	index    uint64
	signer   *certified.Key
	signedAt time.Time
	grain    time.Duration
	lifetime time.Duration
	decoys   int
	seed     [32]byte
	copy     int
}

func build(p plain) (*TBS, error) {
	if !p.signer.Valid() {
		return nil, errors.New("there is no certified key to sign with")
	}
	sigSize, ok := sigSizes[p.signer.Algorithm]
	if !ok {
		return nil, fmt.Errorf("algorithm %q can't sign an SD-JWT VC: ES256, ES384 or EdDSA", p.signer.Algorithm)
	}
	if p.vct == "" || p.uri == "" || p.decoys < 0 {
		return nil, errors.New("an SD-JWT VC needs a vct, a status list URI and no negative number of decoys")
	}
	if !jsontext.Value(p.jwk).IsValid() || bytes.Contains(p.jwk, []byte(`"d"`)) {
		return nil, errors.New("the device key is not a public JWK")
	}
	iat, exp, err := p.signer.Validity(p.signedAt, p.grain, p.lifetime)
	if err != nil {
		return nil, err
	}
	s, err := certified.NewStream(p.seed, "dc+sd-jwt", p.copy)
	if err != nil {
		return nil, err
	}

	var claims object // in the clear
	if p.issuer != "" {
		claims.str("iss", p.issuer)
	}
	claims.raw("iat", strconv.AppendInt(nil, iat.Unix(), 10))
	claims.raw("exp", strconv.AppendInt(nil, exp.Unix(), 10))
	claims.str("vct", p.vct)
	claims.raw("cnf", fmt.Appendf(nil, `{"jwk":%s}`, p.jwk))
	var ref object
	ref.raw("idx", strconv.AppendUint(nil, p.index, 10))
	ref.str("uri", p.uri)
	claims.raw("status", fmt.Appendf(nil, `{"status_list":%s}`, ref.close()))

	var disclosures, digests []string
	seen := map[string]bool{}
	for _, v := range p.values {
		name := v.SDName
		if name == "" {
			continue
		}
		if slices.Contains(reserved, name) || seen[name] {
			return nil, fmt.Errorf("claim name %q is reserved or occurs twice", name)
		}
		seen[name] = true
		value, err := encodeValue(v)
		if err != nil {
			return nil, err
		}
		if !v.Disclosure {
			claims.raw(name, value)
			continue
		}
		quoted, err := quote(name)
		if err != nil {
			return nil, err
		}
		salt := b64.EncodeToString(s.Bytes(saltSize, "salt/%q", name))
		d := b64.EncodeToString(fmt.Appendf(nil, `["%s",%s,%s]`, salt, quoted, value))
		disclosures = append(disclosures, d)
		digests = append(digests, digest([]byte(d)))
	}
	if err := errors.Join(claims.err, ref.err); err != nil {
		return nil, err
	}
	for i := range p.decoys {
		digests = append(digests, digest(s.Bytes(32, "decoy/%d", i)))
	}
	if len(digests) > 0 { // sorted: digests are pseudorandom, so the order says nothing of claims or decoys (RFC 9901 4.2.4.1)
		sort.Strings(digests)
		claims.raw("_sd", []byte(`["`+strings.Join(digests, `","`)+`"]`))
		claims.str("_sd_alg", "sha-256")
	}

	var header object
	header.str("alg", p.signer.Algorithm)
	header.str("typ", "dc+sd-jwt")
	var x5c []string
	for _, der := range p.signer.Chain {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(der)) // RFC 7515 4.1.6: not base64url
	}
	header.raw("x5c", []byte(`["`+strings.Join(x5c, `","`)+`"]`))

	input := b64.EncodeToString(header.close()) + "." + b64.EncodeToString(claims.close())
	return &TBS{bytes: []byte(input), disclosures: disclosures, sigSize: sigSize, notAfter: exp}, nil
}

// join ends with the last tilde even without disclosures (RFC 9901 4).
func (t *TBS) join(signature []byte) ([]byte, error) {
	if len(signature) != t.sigSize {
		return nil, fmt.Errorf("the signature has %d bytes, the algorithm's have %d", len(signature), t.sigSize)
	}
	out := append([]byte{}, t.bytes...)
	out = append(out, '.')
	out = b64.AppendEncode(out, signature)
	out = append(out, '~')
	for _, d := range t.disclosures {
		out = append(append(out, d...), '~')
	}
	return out, nil
}

// digest over the ASCII bytes of the disclosure as it travels (RFC 9901 4.2.3).
func digest(d []byte) string {
	sum := sha256.Sum256(d)
	return b64.EncodeToString(sum[:])
}

// encodeValue writes a checked claim. Binary values become data: URIs (sd-jwt-vc-19 2.2.2.4).
func encodeValue(v policy.Value) ([]byte, error) {
	switch x := v.V.(type) {
	case string:
		if v.Kind == "string" || v.Kind == "date" {
			return quote(x)
		}
	case bool:
		if v.Kind == "bool" {
			return strconv.AppendBool(nil, x), nil
		}
	case int64:
		if v.Kind == "int" {
			return strconv.AppendInt(nil, x, 10), nil
		}
	case []byte:
		if v.Kind == "bytes" {
			media := v.MediaType
			if media == "" {
				media = "application/octet-stream"
			}
			if _, _, err := mime.ParseMediaType(media); err != nil {
				return nil, fmt.Errorf("claim %q: media type %q: %w", v.Name, media, err)
			}
			return quote("data:" + media + ";base64," + base64.StdEncoding.EncodeToString(x))
		}
	case []policy.Value:
		switch v.Kind {
		case "array":
			out := []byte{'['}
			for i, e := range x {
				b, err := encodeValue(e)
				if err != nil {
					return nil, fmt.Errorf("in %q: %w", v.Name, err)
				}
				if i > 0 {
					out = append(out, ',')
				}
				out = append(out, b...)
			}
			return append(out, ']'), nil
		case "object":
			return encodeObject(v, x)
		}
	}
	return nil, fmt.Errorf("claim %q of kind %q holds a %T", v.Name, v.Kind, v.V)
}

// encodeObject refuses member names that a verifier would take for digests (RFC 9901 4.1).
func encodeObject(v policy.Value, members []policy.Value) ([]byte, error) {
	var o object
	seen := map[string]bool{"": true, "_sd": true, "_sd_alg": true, "...": true}
	for _, e := range members {
		name := e.SDName
		if name == "" {
			name = e.Name
		}
		if seen[name] {
			return nil, fmt.Errorf("member %q of %q is empty, reserved or occurs twice", name, v.Name)
		}
		seen[name] = true
		b, err := encodeValue(e)
		if err != nil {
			return nil, fmt.Errorf("in %q: %w", v.Name, err)
		}
		o.raw(name, b)
	}
	return o.close(), o.err
}

// quote refuses invalid UTF-8.
func quote(s string) ([]byte, error) { return jsontext.AppendQuote(nil, s) }

// object writes a JSON object in the order of its calls and keeps the first error.
type object struct {
	b   []byte
	err error
}

func (o *object) raw(name string, value []byte) {
	q, err := quote(name)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("name %q: %w", name, err)
	}
	sep := byte(',')
	if len(o.b) == 0 {
		sep = '{'
	}
	o.b = append(append(append(append(o.b, sep), q...), ':'), value...)
}

func (o *object) str(name, value string) {
	q, err := quote(value)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("value of %q: %w", name, err)
	}
	o.raw(name, q)
}

func (o *object) close() []byte {
	if len(o.b) == 0 {
		return []byte("{}")
	}
	return append(o.b, '}')
}
