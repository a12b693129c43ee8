package mdoc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/ca/certified"
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
	docType  string
	values   []policy.Value // those without an element identifier stay out
	device   crypto.PublicKey
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

func build(p plain) (*TBS, error) {
	if !p.signer.Valid() {
		return nil, errors.New("there is no certified key to sign with")
	}
	alg, ok := algorithms[p.signer.Algorithm]
	if !ok {
		return nil, fmt.Errorf("algorithm %q can't sign an mdoc: ES256, ES384 or EdDSA", p.signer.Algorithm)
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
	signed, until, err := p.signer.Validity(p.signedAt, p.grain, p.lifetime)
	if err != nil {
		return nil, err
	}
	s, err := certified.NewStream(p.seed, "mdoc", p.copy)
	if err != nil {
		return nil, err
	}
	nameSpaces, digests, err := items(p, s, alg.sum)
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
		bytes: tbs, protected: protected, payload: payload, chain: p.signer.Chain, nameSpaces: nameSpaces, sigSize: alg.sigSize, notAfter: until,
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
func items(p plain, s *certified.Stream, sum func([]byte) []byte) (nameSpaces, digests ordered, err error) {
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
			b, err := embedded(item{ids[i], s.Bytes(32, "random/%q/%q", sp.name, v.Element), v.Element, value})
			if err != nil {
				return nameSpaces, digests, err
			}
			list = append(list, b)
			sp.digests[ids[i]] = sum(b)
		}
		for i := range sp.decoys {
			sp.digests[ids[len(sp.values)+i]] = sum(s.Bytes(32, "decoy/%q/%d", sp.name, i))
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
func permutation(s *certified.Stream, space string, n int) []uint32 {
	tags, order := make([][]byte, n), make([]int, n)
	for i := range n {
		tags[i], order[i] = s.Bytes(16, "order/%q/%d", space, i), i
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
