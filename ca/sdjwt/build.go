package sdjwt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"slices"
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
	s := certified.NewStream(p.seed, "dc+sd-jwt", p.copy)

	room := certified.TakeRoom()
	defer room.Leave()
	claims := object{b: room.Parts[0]} // in the clear
	if p.issuer != "" {
		claims.str("iss", p.issuer)
	}
	claims.b = strconv.AppendInt(claims.name("iat"), iat.Unix(), 10)
	claims.b = strconv.AppendInt(claims.name("exp"), exp.Unix(), 10)
	claims.str("vct", p.vct)
	claims.b = append(append(append(claims.name("cnf"), `{"jwk":`...), p.jwk...), '}')
	claims.b = append(strconv.AppendUint(append(claims.name("status"), `{"status_list":{"idx":`...), p.index, 10), `,"uri":`...)
	claims.b = append(claims.quoted(p.uri), "}}"...)

	hidden, one := room.Parts[1], room.Parts[2] // disclosures, each with its tilde; disclosure
	digests := make([][digestSize]byte, 0, 32)
	for i := range p.values {
		v := &p.values[i]
		name := v.SDName
		if name == "" {
			continue
		}
		if slices.Contains(reserved, name) || named(p.values[:i], name) {
			return nil, fmt.Errorf("claim name %q is reserved or occurs twice", name)
		}
		if !v.Disclosure {
			if claims.b, err = appendValue(claims.name(name), *v); err != nil {
				return nil, err
			}
			continue
		}
		one = b64.AppendEncode(append(one[:0], `["`...), s.Bytes(saltSize, "salt", name))
		if one, err = jsontext.AppendQuote(append(one, `",`...), name); err != nil {
			return nil, err
		}
		if one, err = appendValue(append(one, ','), *v); err != nil {
			return nil, err
		}
		from := len(hidden)
		hidden = b64.AppendEncode(hidden, append(one, ']'))
		digests = append(digests, digest(hidden[from:]))
		hidden = append(hidden, '~')
	}
	if claims.err != nil {
		return nil, claims.err
	}
	for i := range p.decoys {
		digests = append(digests, digest(s.Nth(i, 32, "decoy")))
	}
	if len(digests) > 0 { // sorted: digests are pseudorandom, so the order says nothing of claims or decoys (RFC 9901 4.2.4.1)
		slices.SortFunc(digests, func(a, b [digestSize]byte) int { return bytes.Compare(a[:], b[:]) })
		claims.name("_sd")
		for i, d := range digests {
			claims.b = append(append(append(claims.b, "[,"[min(i, 1)], '"'), d[:]...), '"')
		}
		claims.b = append(claims.b, ']')
		claims.str("_sd_alg", "sha-256")
	}

	header := p.signer.Once("dc+sd-jwt", func() []byte { return b64.AppendEncode(nil, header(p.signer)) })
	payload := claims.close()
	input := make([]byte, 0, len(header)+1+b64.EncodedLen(len(payload)))
	input = b64.AppendEncode(append(append(input, header...), '.'), payload)
	room.Parts[0], room.Parts[1], room.Parts[2] = payload, hidden, one // all that they have become, for the next draft
	return &TBS{bytes: input, disclosures: bytes.Clone(hidden), sigSize: sigSize, notAfter: exp}, nil
}

func named(values []policy.Value, name string) bool {
	for i := range values {
		if values[i].SDName == name {
			return true
		}
	}
	return false
}

// header of everything that a key signs.
func header(k *certified.Key) []byte {
	var o object
	o.str("alg", k.Algorithm)
	o.str("typ", "dc+sd-jwt")
	var x5c []string
	for _, der := range k.Chain {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(der)) // RFC 7515 4.1.6: not base64url
	}
	o.b = append(o.name("x5c"), `["`+strings.Join(x5c, `","`)+`"]`...)
	return o.close()
}

// join ends with the last tilde even without disclosures (RFC 9901 4).
func (t *TBS) join(b, signature []byte) ([]byte, error) {
	if len(signature) != t.sigSize {
		return nil, fmt.Errorf("the signature has %d bytes, the algorithm's have %d", len(signature), t.sigSize)
	}
	b = append(append(b, t.bytes...), '.')
	b = append(b64.AppendEncode(b, signature), '~')
	return append(b, t.disclosures...), nil
}

const digestSize = 43 // characters of base64url

// digest over the ASCII bytes of the disclosure as it travels (RFC 9901 4.2.3).
func digest(d []byte) (text [digestSize]byte) {
	sum := sha256.Sum256(d)
	b64.Encode(text[:], sum[:])
	return text
}

// appendValue writes a checked claim. Binary values become data: URIs (sd-jwt-vc-19 2.2.2.4).
func appendValue(b []byte, v policy.Value) ([]byte, error) {
	switch x := v.V.(type) {
	case string:
		if v.Kind == "string" || v.Kind == "date" {
			return jsontext.AppendQuote(b, x) // refuses invalid UTF-8
		}
	case bool:
		if v.Kind == "bool" {
			return strconv.AppendBool(b, x), nil
		}
	case int64:
		if v.Kind == "int" {
			return strconv.AppendInt(b, x, 10), nil
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
			var err error
			if b, err = jsontext.AppendQuote(b, "data:"+media+";base64,"); err != nil {
				return nil, err
			}
			return append(base64.StdEncoding.AppendEncode(b[:len(b)-1], x), '"'), nil // of base64 nothing has to be escaped
		}
	case []policy.Value:
		switch v.Kind {
		case "array":
			b = append(b, '[')
			for i, e := range x {
				if i > 0 {
					b = append(b, ',')
				}
				var err error
				if b, err = appendValue(b, e); err != nil {
					return nil, fmt.Errorf("in %q: %w", v.Name, err)
				}
			}
			return append(b, ']'), nil
		case "object":
			return appendObject(b, v, x)
		}
	}
	return nil, fmt.Errorf("claim %q of kind %q holds a %T", v.Name, v.Kind, v.V)
}

// appendObject refuses member names that a verifier would take for digests (RFC 9901 4.1).
func appendObject(b []byte, v policy.Value, members []policy.Value) (_ []byte, err error) {
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
		if o.b, err = appendValue(o.name(name), e); err != nil {
			return nil, fmt.Errorf("in %q: %w", v.Name, err)
		}
	}
	return append(b, o.close()...), o.err
}

// object writes a JSON object in the order of its calls and keeps the first error.
type object struct {
	b   []byte
	err error
}

// name begins a member, whose value the caller appends.
func (o *object) name(name string) []byte {
	sep := byte(',')
	if len(o.b) == 0 {
		sep = '{'
	}
	o.b = append(o.b, sep)
	o.b = append(o.quoted(name), ':')
	return o.b
}

// quoted appends a string.
func (o *object) quoted(s string) []byte {
	b, err := jsontext.AppendQuote(o.b, s)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("text %q: %w", s, err)
	}
	o.b = b
	return o.b
}

func (o *object) str(name, value string) {
	o.name(name)
	o.quoted(value)
}

func (o *object) close() []byte {
	if len(o.b) == 0 {
		return []byte("{}")
	}
	return append(o.b, '}')
}
