package mdoc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/policy"
)

// CBOR tags and COSE labels, by their registries.
const (
	tagDateTime    = 0    // RFC 8949 3.4.1: tdate
	tagEncodedCBOR = 24   // RFC 8949 3.4.5.1
	tagFullDate    = 1004 // RFC 8943

	labelX5Chain = 33 // RFC 9360; unprotected in IssuerAuth (WD v4 12.3.4)
)

// algorithms by JOSE name. The MSO's digests are as strong as the signature over them.
var algorithms = map[string]struct {
	cose    int
	sigSize int
	digest  string
	sum     func([]byte) []byte
}{
	"ES256": {-7, 64, "SHA-256", sum256},
	"ES384": {-35, 96, "SHA-384", func(b []byte) []byte { s := sha512.Sum384(b); return s[:] }},
	"EdDSA": {-8, 64, "SHA-256", sum256},
}

func sum256(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// plain is everything that goes into one mdoc, as values that any test can make.
type plain struct {
	docType   string
	values    []policy.Value // those without an element identifier stay out
	device    crypto.PublicKey
	uri       string
	index     uint64
	algorithm string
	chain     [][]byte // DER, leaf first, no anchor
	spki      []byte   // pinned key of the signer
	signedAt  time.Time
	grain     time.Duration
	lifetime  time.Duration
	decoys    int
	seed      [32]byte
	copy      int
}

type item struct {
	DigestID   uint32          `cbor:"digestID"`
	Random     []byte          `cbor:"random"`
	Identifier string          `cbor:"elementIdentifier"`
	Value      cbor.RawMessage `cbor:"elementValue"`
}

type securityObject struct {
	Version         string        `cbor:"version"`
	DigestAlgorithm string        `cbor:"digestAlgorithm"`
	ValueDigests    ordered       `cbor:"valueDigests"`
	DeviceKeyInfo   deviceKeyInfo `cbor:"deviceKeyInfo"`
	DocType         string        `cbor:"docType"`
	ValidityInfo    validityInfo  `cbor:"validityInfo"`
	Status          status        `cbor:"status"`
}

type deviceKeyInfo struct {
	DeviceKey cbor.RawMessage `cbor:"deviceKey"`
}

type validityInfo struct {
	Signed     cbor.Tag `cbor:"signed"`
	ValidFrom  cbor.Tag `cbor:"validFrom"`
	ValidUntil cbor.Tag `cbor:"validUntil"`
}

type status struct {
	StatusList statusList `cbor:"status_list"`
}

type statusList struct {
	Index uint64 `cbor:"idx"`
	URI   string `cbor:"uri"`
}

// encoding writes preferred heads and definite lengths (WD v4 8.3) and keeps a struct's field order.
var encoding = func() cbor.EncMode {
	m, err := cbor.EncOptions{Sort: cbor.SortNone, IndefLength: cbor.IndefLengthForbidden, TimeTag: cbor.EncTagNone}.EncMode()
	if err != nil {
		panic(err) // constant options
	}
	return m
}()

// ordered is a CBOR map whose pairs keep the order in which they were added.
type ordered struct {
	pairs []byte
	n     uint64
}

func (o *ordered) add(key, value any) error {
	k, err := encoding.Marshal(key)
	if err != nil {
		return err
	}
	v, err := encoding.Marshal(value)
	if err != nil {
		return err
	}
	o.pairs, o.n = append(append(o.pairs, k...), v...), o.n+1
	return nil
}

// MarshalCBOR writes the head of a map: major type 5 instead of the unsigned integer's 0.
func (o ordered) MarshalCBOR() ([]byte, error) {
	head, err := encoding.Marshal(o.n)
	if err != nil {
		return nil, err
	}
	head[0] |= 5 << 5
	return append(head, o.pairs...), nil
}

// embedded is #6.24(bstr .cbor v).
func embedded(v any) ([]byte, error) {
	content, err := encoding.Marshal(v)
	if err != nil {
		return nil, err
	}
	return encoding.Marshal(cbor.Tag{Number: tagEncodedCBOR, Content: content})
}

// stream derives everything random of one copy. Each value has a label of its own, so adding one never moves another, and a retry with
// the same seed rebuilds the same bytes.
type stream struct {
	prk  []byte
	copy int
}

func (s stream) bytes(n int, purpose string, a ...any) []byte {
	b, err := hkdf.Expand(sha256.New, s.prk, fmt.Sprintf("sealkeeper/v1/mdoc/%d/", s.copy)+fmt.Sprintf(purpose, a...), n)
	if err != nil {
		panic(err) // n is at most 48
	}
	return b
}

func build(p plain) (*TBS, error) {
	alg, ok := algorithms[p.algorithm]
	if !ok {
		return nil, fmt.Errorf("algorithm %q can't sign an mdoc: ES256, ES384 or EdDSA", p.algorithm)
	}
	leaf, err := checkChain(p.chain, p.spki)
	if err != nil {
		return nil, err
	}
	if p.docType == "" || p.uri == "" {
		return nil, errors.New("an mdoc needs a docType and a status list URI")
	}
	if p.decoys < 0 {
		return nil, errors.New("the number of decoys is negative")
	}
	deviceKey, err := coseKey(p.device)
	if err != nil {
		return nil, err
	}
	signed, until, err := validity(p.signedAt, p.grain, p.lifetime, leaf)
	if err != nil {
		return nil, err
	}
	prk, err := hkdf.Extract(sha256.New, p.seed[:], nil)
	if err != nil {
		return nil, fmt.Errorf("deriving the mdoc's salts: %w", err)
	}
	nameSpaces, digests, err := items(p, stream{prk, p.copy}, alg.sum)
	if err != nil {
		return nil, err
	}
	payload, err := embedded(securityObject{
		Version:         "1.0",
		DigestAlgorithm: alg.digest,
		ValueDigests:    digests,
		DeviceKeyInfo:   deviceKeyInfo{deviceKey},
		DocType:         p.docType,
		ValidityInfo:    validityInfo{tdate(signed), tdate(signed), tdate(until)},
		Status:          status{statusList{p.index, p.uri}},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the mobile security object: %w", err)
	}
	var header ordered
	if err := header.add(1, alg.cose); err != nil {
		return nil, err
	}
	protected, err := encoding.Marshal(header)
	if err != nil {
		return nil, err
	}
	tbs, err := encoding.Marshal([]any{"Signature1", protected, []byte{}, payload}) // RFC 9052 4.4
	if err != nil {
		return nil, err
	}
	return &TBS{
		bytes: tbs, protected: protected, payload: payload, chain: p.chain, nameSpaces: nameSpaces, sigSize: alg.sigSize, notAfter: until,
	}, nil
}

// join writes IssuerSigned around the untagged COSE_Sign1 (WD v4 10.3.3).
func (t *TBS) join(signature []byte) ([]byte, error) {
	if len(signature) != t.sigSize {
		return nil, fmt.Errorf("the signature has %d bytes, the algorithm's have %d", len(signature), t.sigSize)
	}
	var x5chain any = t.chain
	if len(t.chain) == 1 {
		x5chain = t.chain[0]
	}
	var header, out ordered
	if err := header.add(labelX5Chain, x5chain); err != nil {
		return nil, err
	}
	if err := out.add("nameSpaces", t.nameSpaces); err != nil {
		return nil, err
	}
	if err := out.add("issuerAuth", []any{t.protected, header, t.payload, signature}); err != nil {
		return nil, err
	}
	return encoding.Marshal(out)
}

// checkChain returns the leaf. An anchor in x5chain would invite verifiers to trust what travels with the credential: WD v4 B.1.1 and
// HAIP 6.1 forbid it. A leaf with another key than the pinned one would make credentials that nobody can verify.
func checkChain(chain [][]byte, spki []byte) (leaf *x509.Certificate, err error) {
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the signer's chain: %w", i, err)
		}
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			return nil, fmt.Errorf("certificate %d of the signer's chain (%s) is an anchor: leave it out", i, c.Subject)
		}
		if i == 0 {
			leaf = c
		}
	}
	if leaf == nil {
		return nil, errors.New("the signer has no certificate")
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, spki) {
		return nil, fmt.Errorf("certificate %s is not for the signer's pinned key", leaf.Subject)
	}
	return leaf, nil
}

// validity coarsens the times to the grain, so that credentials of one batch can't be linked by them (WD v4 12.3.4), and keeps them inside
// the document signer's certificate: signed is never before notBefore, validUntil never after notAfter.
func validity(at time.Time, grain, lifetime time.Duration, leaf *x509.Certificate) (signed, until time.Time, err error) {
	if at.Unix() <= 0 || grain < 0 || lifetime < time.Second {
		return signed, until, errors.New("an mdoc needs an instant, a time grain and a lifetime")
	}
	signed = at.UTC().Truncate(time.Second)
	if g := int64(grain / time.Second); g > 1 {
		signed = time.Unix(at.Unix()-at.Unix()%g, 0).UTC()
	}
	if signed.Before(leaf.NotBefore) {
		signed = leaf.NotBefore.UTC().Add(time.Second - 1).Truncate(time.Second)
	}
	until = signed.Add(lifetime.Truncate(time.Second))
	if until.After(leaf.NotAfter) {
		until = leaf.NotAfter.UTC().Truncate(time.Second)
	}
	if !until.After(signed) || at.After(leaf.NotAfter) {
		return signed, until, fmt.Errorf("certificate %s is valid from %s until %s, not at %s", leaf.Subject,
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), at.Format(time.RFC3339))
	}
	return signed, until, nil
}

func tdate(t time.Time) cbor.Tag {
	return cbor.Tag{Number: tagDateTime, Content: t.UTC().Format("2006-01-02T15:04:05Z")}
}

// space is one name space while it is filled: elements first, then decoys, which look the same in valueDigests.
type space struct {
	name    string
	values  []policy.Value
	decoys  int
	digests map[uint32][]byte
}

// items makes the disclosed items and their digests. Digest ids are a permutation of 0…n-1 that differs in each copy: they say nothing of
// the element and link no two copies (WD v4 12.3.4). Digests stand in the order of their ids, so decoys can't be told from elements.
func items(p plain, s stream, sum func([]byte) []byte) (nameSpaces, digests ordered, err error) {
	var spaces []*space
	find := func(name string) *space {
		for _, sp := range spaces {
			if sp.name == name {
				return sp
			}
		}
		sp := &space{name: name, digests: map[uint32][]byte{}}
		spaces = append(spaces, sp)
		return sp
	}
	for _, v := range p.values {
		if v.Element == "" {
			continue
		}
		if v.Namespace == "" {
			return nameSpaces, digests, fmt.Errorf("claim %q has an element identifier but no name space", v.Name)
		}
		sp := find(v.Namespace)
		for _, w := range sp.values {
			if w.Element == v.Element {
				return nameSpaces, digests, fmt.Errorf("element %q occurs twice in name space %q", v.Element, v.Namespace)
			}
		}
		sp.values = append(sp.values, v)
	}
	if len(spaces) == 0 {
		return nameSpaces, digests, errors.New("no claim has an element identifier: an mdoc would be empty")
	}
	for i := range p.decoys {
		spaces[i%len(spaces)].decoys++
	}
	for _, sp := range spaces {
		ids := permutation(s, sp.name, len(sp.values)+sp.decoys)
		var list []cbor.RawMessage
		for i, v := range sp.values {
			value, err := encodeValue(v)
			if err != nil {
				return nameSpaces, digests, err
			}
			b, err := embedded(item{ids[i], s.bytes(32, "random/%q/%q", sp.name, v.Element), v.Element, value})
			if err != nil {
				return nameSpaces, digests, err
			}
			list = append(list, b)
			sp.digests[ids[i]] = sum(b)
		}
		for i := range sp.decoys {
			sp.digests[ids[len(sp.values)+i]] = sum(s.bytes(32, "decoy/%q/%d", sp.name, i))
		}
		if err := nameSpaces.add(sp.name, list); err != nil {
			return nameSpaces, digests, err
		}
		var m ordered
		for id := range uint32(len(ids)) {
			if err := m.add(id, sp.digests[id]); err != nil {
				return nameSpaces, digests, err
			}
		}
		if err := digests.add(sp.name, m); err != nil {
			return nameSpaces, digests, err
		}
	}
	return nameSpaces, digests, nil
}

// permutation ranks pseudorandom tags: element i gets the rank of its tag.
func permutation(s stream, space string, n int) []uint32 {
	tags, order := make([][]byte, n), make([]int, n)
	for i := range n {
		tags[i], order[i] = s.bytes(16, "order/%q/%d", space, i), i
	}
	sort.Slice(order, func(a, b int) bool { return bytes.Compare(tags[order[a]], tags[order[b]]) < 0 })
	ids := make([]uint32, n)
	for rank, i := range order {
		ids[i] = uint32(rank)
	}
	return ids
}

// encodeValue writes a checked claim. Objects keep the order of their members.
func encodeValue(v policy.Value) ([]byte, error) {
	wrong := func() ([]byte, error) { return nil, fmt.Errorf("claim %q of kind %q holds a %T", v.Name, v.Kind, v.V) }
	switch v.Kind {
	case "string":
		if s, ok := v.V.(string); ok {
			return encoding.Marshal(s)
		}
	case "date":
		if s, ok := v.V.(string); ok {
			return encoding.Marshal(cbor.Tag{Number: tagFullDate, Content: s})
		}
	case "bool":
		if b, ok := v.V.(bool); ok {
			return encoding.Marshal(b)
		}
	case "int":
		if n, ok := v.V.(int64); ok {
			return encoding.Marshal(n)
		}
	case "bytes":
		if b, ok := v.V.([]byte); ok {
			return encoding.Marshal(append([]byte{}, b...)) // never nil: an empty byte string, not null
		}
	case "array":
		elements, ok := v.V.([]policy.Value)
		if !ok {
			return wrong()
		}
		list := make([]cbor.RawMessage, 0, len(elements))
		for _, e := range elements {
			b, err := encodeValue(e)
			if err != nil {
				return nil, fmt.Errorf("in %q: %w", v.Name, err)
			}
			list = append(list, b)
		}
		return encoding.Marshal(list)
	case "object":
		members, ok := v.V.([]policy.Value)
		if !ok {
			return wrong()
		}
		var o ordered
		seen := map[string]bool{}
		for _, e := range members {
			name := e.Element
			if name == "" {
				name = e.Name
			}
			if name == "" || seen[name] {
				return nil, fmt.Errorf("member %q of %q is empty or occurs twice", name, v.Name)
			}
			seen[name] = true
			b, err := encodeValue(e)
			if err != nil {
				return nil, fmt.Errorf("in %q: %w", v.Name, err)
			}
			if err := o.add(name, cbor.RawMessage(b)); err != nil {
				return nil, err
			}
		}
		return encoding.Marshal(o)
	}
	return wrong()
}

// coseKey is the public key as a COSE_Key (RFC 9053 7.1, 7.2): required members only.
func coseKey(key crypto.PublicKey) ([]byte, error) {
	const kty, crv, x, y = 1, -1, -2, -3
	var o ordered
	var pairs [][2]any
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k == nil || k.Curve == nil {
			return nil, errors.New("the device has no key")
		}
		point, err := k.Bytes() // uncompressed; refuses points off the curve
		if err != nil {
			return nil, fmt.Errorf("the device key is no point of its curve: %w", err)
		}
		curve := map[string]int{"P-256": 1, "P-384": 2}[k.Curve.Params().Name]
		if curve == 0 {
			return nil, fmt.Errorf("device keys are on P-256, P-384 or Ed25519, not %s", k.Curve.Params().Name)
		}
		half := len(point) / 2
		pairs = [][2]any{{kty, 2}, {crv, curve}, {x, point[1 : 1+half]}, {y, point[1+half:]}}
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, errors.New("the device's Ed25519 key has a wrong length")
		}
		pairs = [][2]any{{kty, 1}, {crv, 6}, {x, []byte(k)}}
	default:
		return nil, fmt.Errorf("device keys are on P-256, P-384 or Ed25519, not %T", key)
	}
	for _, p := range pairs {
		if err := o.add(p[0], p[1]); err != nil {
			return nil, err
		}
	}
	return encoding.Marshal(o)
}
