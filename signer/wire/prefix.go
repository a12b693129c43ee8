package wire

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/internal/strict"
)

// Algorithms of signing keys, and how the objects that are signed name them.
const (
	ES256 = "ES256" // P-256, SHA-256
	ES384 = "ES384" // P-384, SHA-384
	EdDSA = "EdDSA" // Ed25519
)

// cose is the algorithm's number in a COSE header (RFC 9053 2), oid the DER AlgorithmIdentifier (RFC 5758 3.2, RFC 8410 3).
var (
	cose = map[string]int64{ES256: -7, ES384: -35, EdDSA: -8}
	oid  = map[string][]byte{
		ES256: {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02},
		ES384: {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03},
		EdDSA: {0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70},
	}
)

// CheckPrefix refuses bytes that do not begin like an object of the key's purpose (the strings of policy.Purpose). It is the border that
// keeps a broken daemon from using a key for another purpose: the worker asks it before every signature. It knows no policy, and it is
// deliberately narrower than the specifications: it accepts what the appliance itself makes.
func CheckPrefix(purpose, algorithm string, tbs []byte) error {
	if _, ok := cose[algorithm]; !ok {
		return fmt.Errorf("unknown algorithm %q", algorithm)
	}
	var err error
	switch purpose {
	case "mdoc":
		err = checkMSO(algorithm, tbs)
	case "sd-jwt":
		err = checkJWS("dc+sd-jwt", algorithm, tbs)
	case "status-list":
		if len(tbs) > 0 && tbs[0] == 0x84 { // never the beginning of base64url
			err = checkListCWT(algorithm, tbs)
		} else {
			err = checkJWS("statuslist+jwt", algorithm, tbs)
		}
	case "token":
		err = checkJWS("sealkeeper-enrolment+jwt", algorithm, tbs)
	case "iaca", "client-ca": // each certifies, and revokes what it certified
		if err = checkDER(algorithm, tbs, certificate); err != nil {
			if list := checkDER(algorithm, tbs, revocationList); list == nil {
				err = nil
			} else {
				err = errors.Join(err, list)
			}
		}
	default:
		return fmt.Errorf("unknown purpose %q", purpose)
	}
	if err != nil {
		return fmt.Errorf("these bytes are not what a key for %q with %s signs: %w", purpose, algorithm, err)
	}
	return nil
}

// structure is a COSE Sig_structure (RFC 9052 4.4).
type structure struct {
	_         struct{} `cbor:",toarray"`
	Context   string
	Protected []byte
	External  []byte
	Payload   []byte
}

// sigStructure decodes a Sig_structure for COSE_Sign1 with empty external_aad, in its one deterministic encoding.
func sigStructure(tbs []byte) (s structure, err error) {
	if err := dec.Unmarshal(tbs, &s); err != nil {
		return s, err
	}
	again := borrow()
	defer giveBack(again)
	switch err := enc.MarshalToBuffer(s, again); {
	case err != nil:
		return s, err
	case !bytes.Equal(again.Bytes(), tbs):
		return s, errors.New("the Sig_structure is not in deterministic encoding")
	case s.Context != "Signature1":
		return s, fmt.Errorf("the Sig_structure's context is %q", s.Context)
	case s.External == nil || len(s.External) != 0:
		return s, errors.New("the Sig_structure's external_aad is not the empty byte string")
	}
	return s, nil
}

// checkMSO: protected is exactly {1: alg}; the payload is #6.24(bstr .cbor map) (ISO/IEC 18013-5 9.1.2.4).
func checkMSO(algorithm string, tbs []byte) error {
	s, err := sigStructure(tbs)
	if err != nil {
		return err
	}
	if !bytes.Equal(s.Protected, protected[algorithm]) {
		return fmt.Errorf("the protected header is not exactly {1: %d}", cose[algorithm])
	}
	var inner mapping
	if len(s.Payload) < 2 || s.Payload[0] != 0xd8 || s.Payload[1] != 24 || dec.Unmarshal(s.Payload[2:], &inner) != nil ||
		s.Payload[2]>>5 != 2 || !inner.is {
		return errors.New("the payload is not tag 24 of an encoded map")
	}
	return nil
}

// protected is the one header of an MSO's signature: {1: alg}.
var protected = func() map[string][]byte {
	all := map[string][]byte{}
	for name, alg := range cose {
		b, err := coreDet.Marshal(map[int64]int64{1: alg})
		if err != nil {
			panic(err) // constants
		}
		all[name] = b
	}
	return all
}()

// mapping is read from a byte string, and says whether a map is what it contains.
type mapping struct{ is bool }

func (m *mapping) UnmarshalBinary(b []byte) error { m.is = isMap(b); return nil }

// checkListCWT: protected has alg and typ (16) of a Token Status List CWT, and may carry kid (4) and x5chain (33); the payload is a map.
func checkListCWT(algorithm string, tbs []byte) error {
	s, err := sigStructure(tbs)
	if err != nil {
		return err
	}
	var h struct {
		Alg     int64           `cbor:"1,keyasint"`
		Kid     []byte          `cbor:"4,keyasint,omitempty"`
		Typ     string          `cbor:"16,keyasint"`
		X5Chain cbor.RawMessage `cbor:"33,keyasint,omitempty"`
	}
	if err := dec.Unmarshal(s.Protected, &h); err != nil {
		return fmt.Errorf("the protected header: %w", err)
	}
	if h.Alg != cose[algorithm] || h.Typ != "application/statuslist+cwt" {
		return fmt.Errorf("the protected header has alg %d and typ %q", h.Alg, h.Typ)
	}
	if !isMap(s.Payload) {
		return errors.New("the payload is not a map")
	}
	return nil
}

func isMap(b []byte) bool { return len(b) > 0 && b[0]>>5 == 5 }

// checkJWS: base64url(header) "." base64url(payload), header with alg and the one typ, payload an object (RFC 7515 5.1). Parameters that
// change what is signed (crit, b64) are unknown and so refused.
func checkJWS(typ, algorithm string, tbs []byte) error {
	head, payload, ok := bytes.Cut(tbs, []byte("."))
	if !ok || !base64url(payload) {
		return errParts
	}
	known := accepted.Load()
	if known == nil || known.typ != typ || known.algorithm != algorithm || !bytes.Equal(known.head, head) {
		if !base64url(head) {
			return errParts
		}
		if err := checkHeader(typ, algorithm, head); err != nil {
			return err
		}
		accepted.Store(&header{typ, algorithm, bytes.Clone(head)})
	}
	var begin [3]byte
	if n, err := base64.RawURLEncoding.Decode(begin[:], payload[:min(4, len(payload))]); err != nil || n == 0 || begin[0] != '{' {
		return errors.New("the payload is not a JSON object")
	}
	return nil
}

var errParts = errors.New("not two base64url parts with one dot between them")

// header that was accepted. A key's are the same for as long as its certificate, and to read its certificate each time costs more than the rest
// of the check.
type header struct {
	typ, algorithm string
	head           []byte
}

var accepted atomic.Pointer[header] // the last one

func checkHeader(typ, algorithm string, head []byte) error {
	raw, err := base64.RawURLEncoding.Strict().AppendDecode(nil, head)
	if err != nil {
		return fmt.Errorf("the header: %w", err)
	}
	var h struct {
		Alg string   `json:"alg"`
		Typ string   `json:"typ"`
		Kid string   `json:"kid"`
		X5C []string `json:"x5c"`
	}
	if err := strict.JSON(raw, strict.Limits{Bytes: 64 << 10, Depth: 3}, &h); err != nil {
		return fmt.Errorf("the header: %w", err)
	}
	if h.Alg != algorithm || h.Typ != typ {
		return fmt.Errorf("the header has alg %q and typ %q, not %q and %q", h.Alg, h.Typ, algorithm, typ)
	}
	return nil
}

// base64url reports whether b is not empty, of possible length and without any character outside the alphabet (line breaks, which
// encoding/base64 skips, are outside).
func base64url(b []byte) bool {
	outside := byte(0)
	for _, c := range b {
		outside |= alphabet[c]
	}
	return outside == 0 && len(b) > 0 && len(b)%4 != 1
}

// alphabet is 0 for the characters of base64url, of which what is signed has thousands.
var alphabet = func() (outside [256]byte) {
	for c := range outside {
		if !bytes.ContainsRune([]byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), rune(c)) {
			outside[c] = 1
		}
	}
	return outside
}()

type derKind int

const (
	certificate    derKind = iota // RFC 5280 4.1: [0] version, INTEGER serial, AlgorithmIdentifier
	revocationList                // RFC 5280 5.1: INTEGER 1 (v2), AlgorithmIdentifier
)

// checkDER: one SEQUENCE and nothing after it, begun as kind says, with the AlgorithmIdentifier of the key.
func checkDER(algorithm string, tbs []byte, kind derKind) error {
	var outer, first asn1.RawValue
	if rest, err := asn1.Unmarshal(tbs, &outer); err != nil || len(rest) != 0 || outer.Class != 0 || outer.Tag != asn1.TagSequence || !outer.IsCompound {
		return errors.New("not exactly one DER SEQUENCE")
	}
	rest := outer.Bytes
	switch kind {
	case certificate:
		v3, ok := bytes.CutPrefix(rest, []byte{0xa0, 0x03, 0x02, 0x01, 0x02})
		if !ok {
			return errors.New("not a TBSCertificate of version 3")
		}
		var err error
		if rest, err = asn1.Unmarshal(v3, &first); err != nil || first.Class != 0 || first.Tag != asn1.TagInteger || first.IsCompound {
			return errors.New("no serial number after the version")
		}
	case revocationList:
		v2, ok := bytes.CutPrefix(rest, []byte{0x02, 0x01, 0x01})
		if !ok {
			return errors.New("not a TBSCertList of version 2")
		}
		rest = v2
	}
	after, ok := bytes.CutPrefix(rest, oid[algorithm])
	if !ok {
		return errors.New("another signature algorithm than the key's")
	}
	if len(after) == 0 || after[0] != 0x30 {
		return errors.New("no issuer name after the signature algorithm")
	}
	return nil
}
