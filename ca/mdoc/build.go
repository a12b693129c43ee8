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
	"slices"
	"time"

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
	cose    int64
	sigSize int
	digest  string
	sum     func(to, of []byte) []byte // appends
}{
	"ES256": {-7, 64, "SHA-256", sum256},
	"ES384": {-35, 96, "SHA-384", func(to, of []byte) []byte { s := sha512.Sum384(of); return append(to, s[:]...) }},
	"EdDSA": {-8, 64, "SHA-256", sum256},
}

func sum256(to, of []byte) []byte { s := sha256.Sum256(of); return append(to, s[:]...) }

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
	signed, until, err := p.signer.Validity(p.signedAt, p.grain, p.lifetime)
	if err != nil {
		return nil, err
	}
	s := certified.NewStream(p.seed, "mdoc", p.copy)
	room := certified.TakeRoom()
	defer room.Leave()
	nameSpaces, digests, content, mso := &room.Parts[0], &room.Parts[1], &room.Parts[2], &room.Parts[3]
	if err := items(p, s, alg.sum, nameSpaces, digests, content); err != nil {
		return nil, err
	}
	b := head(*mso, mapOf, 7)
	b = text(text(b, "version"), "1.0")
	b = text(text(b, "digestAlgorithm"), alg.digest)
	b = append(text(b, "valueDigests"), *digests...)
	b = text(head(text(b, "deviceKeyInfo"), mapOf, 1), "deviceKey")
	if b, err = appendKey(b, p.device); err != nil {
		return nil, err
	}
	b = text(text(b, "docType"), p.docType)
	b = head(text(b, "validityInfo"), mapOf, 3)
	b = tdate(text(b, "signed"), signed)
	b = tdate(text(b, "validFrom"), signed)
	b = tdate(text(b, "validUntil"), until)
	b = head(text(b, "status"), mapOf, 1)
	b = head(text(b, "status_list"), mapOf, 2)
	b = head(text(b, "idx"), unsigned, p.index)
	*mso = text(text(b, "uri"), p.uri)
	payload := embedded((*content)[:0], *mso)
	*content = payload
	protected := integer(head(head(make([]byte, 0, 8), mapOf, 1), unsigned, 1), alg.cose)

	tbs := text(head(make([]byte, 0, len(payload)+32), arrayOf, 4), "Signature1") // RFC 9052 4.4
	tbs = octets(octets(octets(tbs, protected), nil), payload)
	return &TBS{bytes: tbs, protected: protected, payload: tbs[len(tbs)-len(payload):], chain: p.signer.Chain, nameSpaces: bytes.Clone(*nameSpaces), sigSize: alg.sigSize,
		notAfter: until}, nil
}

// join writes IssuerSigned around the untagged COSE_Sign1 (WD v4 10.3.3).
func (t *TBS) join(signature []byte) ([]byte, error) {
	if len(signature) != t.sigSize {
		return nil, fmt.Errorf("the signature has %d bytes, the algorithm's have %d", len(signature), t.sigSize)
	}
	out := head(make([]byte, 0, t.Size()), mapOf, 2)
	out = append(text(out, "nameSpaces"), t.nameSpaces...)
	out = head(text(out, "issuerAuth"), arrayOf, 4)
	out = octets(out, t.protected)
	out = head(head(out, mapOf, 1), unsigned, labelX5Chain)
	if len(t.chain) != 1 { // one is a byte string, RFC 9360 2
		out = head(out, arrayOf, uint64(len(t.chain)))
	}
	for _, der := range t.chain {
		out = octets(out, der)
	}
	return octets(octets(out, t.payload), signature), nil
}

func tdate(b []byte, t time.Time) []byte {
	const form = "2006-01-02T15:04:05Z"
	return t.UTC().AppendFormat(head(head(b, tagOf, tagDateTime), textOf, uint64(len(form))), form)
}

// space is one name space: elements first, then decoys, which look the same in valueDigests.
type space struct {
	name   string
	values []*policy.Value
	decoys int
}

// items makes the disclosed items and their digests, each a map of name spaces. Digest ids are a permutation of 0…n-1 that differs in each
// copy: they say nothing of the element and link no two copies (WD v4 12.3.4). Digests stand in the order of their ids, so decoys can't be
// told from elements.
func items(p plain, s *certified.Stream, sum func(to, of []byte) []byte, nameSpaces, digests, content *[]byte) error {
	var spaces []*space
	find := func(name string) *space {
		for _, sp := range spaces {
			if sp.name == name {
				return sp
			}
		}
		sp := &space{name: name}
		spaces = append(spaces, sp)
		return sp
	}
	for i := range p.values {
		v := &p.values[i]
		if v.Element == "" {
			continue
		}
		if v.Namespace == "" {
			return fmt.Errorf("claim %q has an element identifier but no name space", v.Name)
		}
		sp := find(v.Namespace)
		for _, w := range sp.values {
			if w.Element == v.Element {
				return fmt.Errorf("element %q occurs twice in name space %q", v.Element, v.Namespace)
			}
		}
		sp.values = append(sp.values, v)
	}
	if len(spaces) == 0 {
		return errors.New("no claim has an element identifier: an mdoc would be empty")
	}
	for i := range p.decoys {
		spaces[i%len(spaces)].decoys++
	}
	all := head(*nameSpaces, mapOf, uint64(len(spaces)))
	valued := head(*digests, mapOf, uint64(len(spaces)))
	one := *content
	for _, sp := range spaces {
		ids := permutation(s, sp.name, len(sp.values)+sp.decoys)
		byID, sums := make([][]byte, len(ids)), make([]byte, 0, len(ids)*sha512.Size384)
		keep := func(id int, of []byte) {
			from := len(sums)
			sums = sum(sums, of)
			byID[id] = sums[from:]
		}
		all = head(text(all, sp.name), arrayOf, uint64(len(sp.values)))
		for i, v := range sp.values {
			one = itemHead(one[:0], ids[i], s.Bytes(32, "random", sp.name, v.Element), v.Element)
			var err error
			if one, err = appendValue(one, *v); err != nil {
				return err
			}
			from := len(all)
			all = embedded(all, one)
			keep(ids[i], all[from:])
		}
		for i := range sp.decoys {
			keep(ids[len(sp.values)+i], s.Nth(i, 32, "decoy", sp.name))
		}
		valued = head(text(valued, sp.name), mapOf, uint64(len(ids)))
		for id, d := range byID {
			valued = octets(head(valued, unsigned, uint64(id)), d)
		}
	}
	*nameSpaces, *digests, *content = all, valued, one
	return nil
}

// itemHead is an IssuerSignedItem up to its value, which the caller appends.
func itemHead(b []byte, id int, random []byte, identifier string) []byte {
	b = head(text(head(b, mapOf, 4), "digestID"), unsigned, uint64(id))
	b = octets(text(b, "random"), random)
	b = text(text(b, "elementIdentifier"), identifier)
	return text(b, "elementValue")
}

// permutation ranks pseudorandom tags: element i gets the rank of its tag.
func permutation(s *certified.Stream, space string, n int) []int {
	type tagged struct {
		tag [16]byte
		i   int
	}
	order := make([]tagged, n)
	for i := range order {
		order[i] = tagged{[16]byte(s.Nth(i, 16, "order", space)), i}
	}
	slices.SortFunc(order, func(a, b tagged) int { return bytes.Compare(a.tag[:], b.tag[:]) })
	ids := make([]int, n)
	for rank, o := range order {
		ids[o.i] = rank
	}
	return ids
}

// appendValue writes a checked claim. Objects keep the order of their members.
func appendValue(b []byte, v policy.Value) ([]byte, error) {
	switch x := v.V.(type) {
	case string:
		switch v.Kind {
		case "string":
			return text(b, x), nil
		case "date":
			return text(head(b, tagOf, tagFullDate), x), nil
		}
	case bool:
		if v.Kind == "bool" {
			if x {
				return append(b, 0xf5), nil
			}
			return append(b, 0xf4), nil
		}
	case int64:
		if v.Kind == "int" {
			return integer(b, x), nil
		}
	case []byte:
		if v.Kind == "bytes" {
			return octets(b, x), nil
		}
	case []policy.Value:
		switch v.Kind {
		case "array":
			b = head(b, arrayOf, uint64(len(x)))
			for _, e := range x {
				var err error
				if b, err = appendValue(b, e); err != nil {
					return nil, fmt.Errorf("in %q: %w", v.Name, err)
				}
			}
			return b, nil
		case "object":
			b = head(b, mapOf, uint64(len(x)))
			seen := map[string]bool{}
			for _, e := range x {
				name := e.Element
				if name == "" {
					name = e.Name
				}
				if name == "" || seen[name] {
					return nil, fmt.Errorf("member %q of %q is empty or occurs twice", name, v.Name)
				}
				seen[name] = true
				var err error
				if b, err = appendValue(text(b, name), e); err != nil {
					return nil, fmt.Errorf("in %q: %w", v.Name, err)
				}
			}
			return b, nil
		}
	}
	return nil, fmt.Errorf("claim %q of kind %q holds a %T", v.Name, v.Kind, v.V)
}

// appendKey appends a public key as a COSE_Key (RFC 9053 7.1, 7.2): required members only.
func appendKey(b []byte, key crypto.PublicKey) ([]byte, error) {
	const kty, crv, x, y = 1, -1, -2, -3
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k == nil || k.Curve == nil {
			return nil, errors.New("the device has no key")
		}
		point, err := k.Bytes() // uncompressed; refuses points off the curve
		if err != nil {
			return nil, fmt.Errorf("the device key is no point of its curve: %w", err)
		}
		curve := map[string]int64{"P-256": 1, "P-384": 2}[k.Curve.Params().Name]
		if curve == 0 {
			return nil, fmt.Errorf("device keys are on P-256, P-384 or Ed25519, not %s", k.Curve.Params().Name)
		}
		half := len(point) / 2
		b = integer(integer(head(b, mapOf, 4), kty), 2)
		b = integer(integer(b, crv), curve)
		b = octets(integer(b, x), point[1:1+half])
		return octets(integer(b, y), point[1+half:]), nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, errors.New("the device's Ed25519 key has a wrong length")
		}
		b = integer(integer(head(b, mapOf, 3), kty), 1)
		b = integer(integer(b, crv), 6)
		return octets(integer(b, x), k), nil
	}
	return nil, fmt.Errorf("device keys are on P-256, P-384 or Ed25519, not %T", key)
}
