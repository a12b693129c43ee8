package verifier

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// MDoc is the issuer data of a verified mdoc.
type MDoc struct {
	DocType    string
	Claims     map[string]map[string]any // name space → element → string (also dates), bool, int64, float64, []byte, []any, map[string]any, nil
	Hidden     int                       // digests without a disclosed element
	DeviceKey  crypto.PublicKey          // *ecdsa.PublicKey or ed25519.PublicKey: the key that device authentication must use
	Signed     time.Time
	ValidFrom  time.Time
	ValidUntil time.Time
	Status     *StatusRef // nil: none
	Signer     *x509.Certificate
}

// documentSigner purposes: mdlDS of ISO/IEC 18013-5 B.3, and that of ISO/IEC 23220-3.
var documentSigner = []asn1.ObjectIdentifier{{1, 0, 18013, 5, 1, 2}, {1, 0, 23220, 4, 1, 2}}

// VerifyMDoc checks IssuerSigned (CBOR, as OpenID4VCI delivers it or as it stands in a DeviceResponse): the document signer's chain, the
// signature, every element's digest, and the validity at the given instant. It does not fetch the status.
func VerifyMDoc(issuerSigned []byte, roots []*x509.Certificate, at time.Time) (*MDoc, error) {
	o, err := openMDoc(issuerSigned)
	if err != nil {
		return nil, err
	}
	leaf, err := checkChain(o.auth.chain, roots, at)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(leaf.UnknownExtKeyUsage, func(id asn1.ObjectIdentifier) bool {
		return slices.ContainsFunc(documentSigner, id.Equal)
	}) {
		return nil, fmt.Errorf("certificate %s is not one of a document signer (ISO/IEC 18013-5 B.3)", leaf.Subject)
	}
	if err := o.auth.verify(leaf.PublicKey); err != nil {
		return nil, err
	}
	m := o.doc
	m.Signer = leaf
	switch {
	case m.Signed.Before(leaf.NotBefore) || m.ValidUntil.After(leaf.NotAfter):
		return nil, errors.New("the mdoc's validity is not inside its signer's certificate's (ISO/IEC 18013-5 12.3.4)")
	case m.ValidFrom.Before(m.Signed) || !m.ValidUntil.After(m.ValidFrom):
		return nil, errors.New("the mdoc's times contradict each other")
	case at.Before(m.ValidFrom):
		return nil, fmt.Errorf("the mdoc is valid from %s", m.ValidFrom.Format(time.RFC3339))
	case !at.Before(m.ValidUntil):
		return nil, fmt.Errorf("the mdoc was valid until %s", m.ValidUntil.Format(time.RFC3339))
	}
	return m, nil
}

// loose decodes what a trusted issuer signed, where later editions may add members; tight what travels beside it.
var loose, tight = func() (a, b cbor.DecMode) {
	o := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   maxDepth,
		MaxArrayElements:  1 << 14,
		MaxMapPairs:       1 << 14,
		IndefLength:       cbor.IndefLengthForbidden,
		IntDec:            cbor.IntDecConvertSignedOrFail,
		TimeTagToAny:      cbor.TimeTagToRFC3339,
		BignumTag:         cbor.BignumTagForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}
	a, err := o.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	o.ExtraReturnErrors = cbor.ExtraDecErrorUnknownField
	if b, err = o.DecMode(); err != nil {
		panic(err)
	}
	return a, b
}()

// major type of the first data item; 255 if there is none.
func major(b []byte) byte {
	if len(b) == 0 {
		return 255
	}
	return b[0] >> 5
}

// encodedCBOR opens #6.24(bstr .cbor …).
func encodedCBOR(b []byte) ([]byte, error) {
	var t cbor.RawTag
	if major(b) != 6 {
		return nil, errors.New("embedded CBOR (tag 24) is missing")
	}
	if err := tight.Unmarshal(b, &t); err != nil {
		return nil, err
	}
	var content cbor.ByteString
	if t.Number != 24 || major(t.Content) != 2 {
		return nil, errors.New("embedded CBOR (tag 24) is missing")
	}
	err := tight.Unmarshal(t.Content, &content)
	return []byte(content), err
}

// sign1 is a COSE_Sign1 whose signature is not yet verified.
type sign1 struct {
	alg                           string
	typ                           string // header 16; empty: none
	chain                         [][]byte
	protected, payload, signature []byte
}

// openSign1 decodes the array of a COSE_Sign1. The x5chain must stand where the format wants it.
func openSign1(b []byte, chainProtected bool) (*sign1, error) {
	if major(b) != 4 {
		return nil, errors.New("a COSE_Sign1 array is missing")
	}
	var a struct {
		_           struct{} `cbor:",toarray"`
		Protected   cbor.ByteString
		Unprotected map[any]cbor.RawMessage
		Payload     cbor.ByteString
		Signature   cbor.ByteString
	}
	if err := tight.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("COSE_Sign1: %w", err)
	}
	var protected map[any]cbor.RawMessage
	if err := tight.Unmarshal([]byte(a.Protected), &protected); err != nil {
		return nil, fmt.Errorf("COSE protected header: %w", err)
	}
	s := &sign1{protected: []byte(a.Protected), payload: []byte(a.Payload), signature: []byte(a.Signature)}
	if _, crit := protected[int64(2)]; crit {
		return nil, errors.New("COSE header parameter crit is not supported")
	}
	var alg int64
	if err := tight.Unmarshal(protected[int64(1)], &alg); err != nil {
		return nil, fmt.Errorf("COSE algorithm: %w", err)
	}
	if s.alg = coseAlgorithms[alg]; s.alg == "" {
		return nil, fmt.Errorf("COSE algorithm %d is not supported", alg)
	}
	if raw, ok := protected[int64(16)]; ok {
		if err := tight.Unmarshal(raw, &s.typ); err != nil {
			return nil, fmt.Errorf("COSE type: %w", err)
		}
	}
	holder := a.Unprotected
	if chainProtected {
		holder = protected
	}
	if raw, ok := holder[int64(33)]; ok {
		switch major(raw) {
		case 2:
			var one cbor.ByteString
			if err := tight.Unmarshal(raw, &one); err != nil {
				return nil, fmt.Errorf("x5chain: %w", err)
			}
			s.chain = [][]byte{[]byte(one)}
		default:
			var many []cbor.ByteString
			if err := tight.Unmarshal(raw, &many); err != nil {
				return nil, fmt.Errorf("x5chain: %w", err)
			}
			if len(many) < 2 || len(many) > maxChain {
				return nil, fmt.Errorf("an x5chain array has 2 to %d certificates, not %d (RFC 9360)", maxChain, len(many))
			}
			for _, c := range many {
				s.chain = append(s.chain, []byte(c))
			}
		}
	}
	return s, nil
}

func (s *sign1) verify(key crypto.PublicKey) error {
	tbs, err := cbor.Marshal([]any{"Signature1", s.protected, []byte{}, s.payload}) // RFC 9052 4.4
	if err != nil {
		return err
	}
	return verifySignature(s.alg, key, tbs, s.signature)
}

type opened struct {
	doc  *MDoc
	auth *sign1
}

type mso struct {
	Version         string                                `cbor:"version"`
	DigestAlgorithm string                                `cbor:"digestAlgorithm"`
	ValueDigests    map[string]map[uint64]cbor.ByteString `cbor:"valueDigests"`
	DeviceKeyInfo   struct {
		DeviceKey cbor.RawMessage `cbor:"deviceKey"`
	} `cbor:"deviceKeyInfo"`
	DocType      string `cbor:"docType"`
	ValidityInfo struct {
		Signed     cbor.RawMessage `cbor:"signed"`
		ValidFrom  cbor.RawMessage `cbor:"validFrom"`
		ValidUntil cbor.RawMessage `cbor:"validUntil"`
	} `cbor:"validityInfo"`
	Status cbor.RawMessage `cbor:"status"`
}

// openMDoc decodes and recomputes every digest; the signature is still to be verified.
func openMDoc(data []byte) (*opened, error) {
	if len(data) > MaxCredential {
		return nil, fmt.Errorf("the mdoc has %d bytes, at most %d are allowed", len(data), MaxCredential)
	}
	var outer struct {
		NameSpaces map[string][]cbor.RawMessage `cbor:"nameSpaces"`
		IssuerAuth cbor.RawMessage              `cbor:"issuerAuth"`
	}
	if err := tight.Unmarshal(data, &outer); err != nil {
		return nil, fmt.Errorf("IssuerSigned: %w", err)
	}
	auth, err := openSign1(outer.IssuerAuth, false)
	if err != nil {
		return nil, fmt.Errorf("issuerAuth: %w", err)
	}
	content, err := encodedCBOR(auth.payload)
	if err != nil {
		return nil, fmt.Errorf("mobile security object: %w", err)
	}
	var o mso
	if err := loose.Unmarshal(content, &o); err != nil {
		return nil, fmt.Errorf("mobile security object: %w", err)
	}
	if o.Version != "1.0" || o.DocType == "" {
		return nil, fmt.Errorf("mobile security object of version %q is not supported", o.Version)
	}
	m := &MDoc{DocType: o.DocType}
	if m.DeviceKey, err = coseKey(o.DeviceKeyInfo.DeviceKey); err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	for _, t := range []struct {
		name string
		raw  []byte
		to   *time.Time
	}{
		{"signed", o.ValidityInfo.Signed, &m.Signed},
		{"validFrom", o.ValidityInfo.ValidFrom, &m.ValidFrom},
		{"validUntil", o.ValidityInfo.ValidUntil, &m.ValidUntil},
	} {
		if *t.to, err = tdate(t.raw); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if len(o.Status) > 0 { // also null: a status that only others can read would be taken for none, and a revoked card for a good one
		var s struct {
			List *struct {
				Index *uint64 `cbor:"idx"`
				URI   string  `cbor:"uri"`
			} `cbor:"status_list"`
		}
		if err := loose.Unmarshal(o.Status, &s); err != nil {
			return nil, fmt.Errorf("status: %w", err)
		}
		if s.List == nil {
			return nil, errStatus
		}
		if s.List.Index == nil || s.List.URI == "" {
			return nil, errors.New("the status list reference is not whole")
		}
		m.Status = &StatusRef{URI: s.List.URI, Index: *s.List.Index}
	}
	if m.Claims, m.Hidden, err = checkDigests(outer.NameSpaces, &o); err != nil {
		return nil, err
	}
	return &opened{m, auth}, nil
}

// checkDigests compares each IssuerSignedItemBytes, exactly as received, with the signed digest of its id.
func checkDigests(spaces map[string][]cbor.RawMessage, o *mso) (claims map[string]map[string]any, hidden int, err error) {
	var sum func([]byte) []byte
	switch o.DigestAlgorithm {
	case "SHA-256":
		sum = func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	case "SHA-384":
		sum = func(b []byte) []byte { s := sha512.Sum384(b); return s[:] }
	case "SHA-512":
		sum = func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }
	default:
		return nil, 0, fmt.Errorf("digest algorithm %q is not supported", o.DigestAlgorithm)
	}
	for _, ids := range o.ValueDigests {
		hidden += len(ids)
	}
	claims = map[string]map[string]any{}
	for _, space := range slices.Sorted(maps.Keys(spaces)) { // one order, so that the first error is always the same one
		items := spaces[space]
		claims[space] = map[string]any{}
		seen := map[uint64]bool{}
		for _, raw := range items {
			content, err := encodedCBOR(raw)
			if err != nil {
				return nil, 0, fmt.Errorf("an element of %q: %w", space, err)
			}
			var item struct {
				DigestID   *uint64         `cbor:"digestID"`
				Random     cbor.ByteString `cbor:"random"`
				Identifier string          `cbor:"elementIdentifier"`
				Value      cbor.RawMessage `cbor:"elementValue"`
			}
			if err := tight.Unmarshal(content, &item); err != nil {
				return nil, 0, fmt.Errorf("an element of %q: %w", space, err)
			}
			if item.DigestID == nil || len(item.Random) < 16 || item.Identifier == "" || len(item.Value) == 0 {
				return nil, 0, fmt.Errorf("element %q of %q is not whole (ISO/IEC 18013-5 12.3.5)", item.Identifier, space)
			}
			if _, twice := claims[space][item.Identifier]; twice || seen[*item.DigestID] {
				return nil, 0, fmt.Errorf("element %q of %q or its digest id occurs twice", item.Identifier, space)
			}
			seen[*item.DigestID] = true
			want, ok := o.ValueDigests[space][*item.DigestID]
			if !ok || !bytes.Equal(sum(raw), []byte(want)) {
				return nil, 0, fmt.Errorf("element %q of %q is not what the issuer signed", item.Identifier, space)
			}
			var v any
			if err := loose.Unmarshal(item.Value, &v); err != nil {
				return nil, 0, fmt.Errorf("element %q of %q: %w", item.Identifier, space, err)
			}
			if claims[space][item.Identifier], err = plainValue(v); err != nil {
				return nil, 0, fmt.Errorf("element %q of %q: %w", item.Identifier, space, err)
			}
			hidden--
		}
	}
	return claims, hidden, nil
}

// plainValue strips the tags of dates and gives maps text keys.
func plainValue(v any) (any, error) {
	switch x := v.(type) {
	case cbor.Tag:
		if s, ok := x.Content.(string); ok && x.Number == 1004 {
			if _, err := time.Parse(time.DateOnly, s); err != nil {
				return nil, errors.New("a full-date is no date")
			}
			return s, nil
		}
		return nil, fmt.Errorf("CBOR tag %d is not supported", x.Number)
	case []any:
		for i := range x {
			var err error
			if x[i], err = plainValue(x[i]); err != nil {
				return nil, err
			}
		}
		return x, nil
	case map[any]any:
		m := make(map[string]any, len(x))
		for k, e := range x {
			name, ok := k.(string)
			if !ok {
				return nil, errors.New("a map key is not text")
			}
			var err error
			if m[name], err = plainValue(e); err != nil {
				return nil, err
			}
		}
		return m, nil
	}
	return v, nil
}

// tdate is tag 0 text in UTC with whole seconds (ISO/IEC 18013-5 12.3.4).
func tdate(b []byte) (time.Time, error) {
	var t cbor.RawTag
	if major(b) != 6 {
		return time.Time{}, errors.New("a date-time (tag 0) is missing")
	}
	if err := loose.Unmarshal(b, &t); err != nil {
		return time.Time{}, err
	}
	var s string
	if err := loose.Unmarshal(t.Content, &s); err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", s)
	if err != nil || t.Number != 0 || len(s) != len("2006-01-02T15:04:05Z") { // Parse takes fractions of seconds by itself
		return time.Time{}, fmt.Errorf("%q is no date-time in UTC with whole seconds", s)
	}
	return at, nil
}

// coseKey reads a public COSE_Key (RFC 9053 7).
func coseKey(b []byte) (crypto.PublicKey, error) {
	var k struct {
		KeyType int64           `cbor:"1,keyasint"`
		Curve   int64           `cbor:"-1,keyasint"`
		X       cbor.ByteString `cbor:"-2,keyasint"`
		Y       cbor.RawMessage `cbor:"-3,keyasint"`
		D       cbor.RawMessage `cbor:"-4,keyasint"`
	}
	if err := loose.Unmarshal(b, &k); err != nil {
		return nil, err
	}
	if k.D != nil {
		return nil, errors.New("it is a private key")
	}
	switch {
	case k.KeyType == 1 && k.Curve == 6 && len(k.X) == ed25519.PublicKeySize:
		return ed25519.PublicKey(k.X), nil
	case k.KeyType == 2 && (k.Curve == 1 || k.Curve == 2) && major(k.Y) == 2:
		var y cbor.ByteString
		if err := loose.Unmarshal(k.Y, &y); err != nil {
			return nil, err
		}
		return point(map[int64]elliptic.Curve{1: elliptic.P256(), 2: elliptic.P384()}[k.Curve], []byte(k.X), []byte(y))
	}
	return nil, fmt.Errorf("key type %d with curve %d is not supported", k.KeyType, k.Curve)
}
