package statuslist

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/ca/certified"
	"sealkeeper/policy"
)

var b64 = base64.RawURLEncoding

// algorithms by JOSE name: COSE number and size of the raw signature.
var algorithms = map[string]struct{ cose, sigSize int }{
	"ES256": {-7, 64},
	"ES384": {-35, 96},
	"EdDSA": {-8, 64},
}

// encoding keeps the fields' order, with preferred heads and definite lengths.
var encoding = func() cbor.EncMode {
	m, err := cbor.EncOptions{Sort: cbor.SortNone, IndefLength: cbor.IndefLengthForbidden}.EncMode()
	if err != nil {
		panic(err) // constant options
	}
	return m
}()

type jwtHeader struct {
	Algorithm string   `json:"alg"`
	Type      string   `json:"typ"`
	X5C       [][]byte `json:"x5c"` // standard base64 (RFC 7515 4.1.6)
}

type jwtClaims struct {
	Subject  string  `json:"sub"`
	IssuedAt int64   `json:"iat"`
	Expires  int64   `json:"exp"`
	TTL      int64   `json:"ttl"`
	List     jwtList `json:"status_list"`
	Version  uint64  `json:"sealkeeper_version"`
}

type jwtList struct {
	Bits int    `json:"bits"`
	List string `json:"lst"`
}

type cwtHeader struct {
	Algorithm int    `cbor:"1,keyasint"`
	Type      string `cbor:"16,keyasint"`
	X5Chain   any    `cbor:"33,keyasint"` // in the protected header, other than in IssuerAuth (WD v4 12.3.6.3)
}

type cwtClaims struct {
	Subject  string  `cbor:"2,keyasint"`
	IssuedAt int64   `cbor:"6,keyasint"`
	Expires  int64   `cbor:"4,keyasint"`
	TTL      int64   `cbor:"65534,keyasint"`
	List     cwtList `cbor:"65533,keyasint"`
	Version  uint64  `cbor:"sealkeeper_version"`
}

type cwtList struct {
	Bits int    `cbor:"bits"`
	List []byte `cbor:"lst"`
}

func build(l policy.List, k *certified.Key, level int) (*TBS, error) {
	alg, ok := algorithms[k.Algorithm]
	if !ok {
		return nil, fmt.Errorf("algorithm %q can't sign a status list: ES256, ES384 or EdDSA", k.Algorithm)
	}
	iat, exp, ttl := l.IssuedAt.Unix(), l.Expires.Unix(), int64(l.TTL.Seconds())
	switch {
	case l.URI == "" || len(l.Image) == 0 || l.Version == 0:
		return nil, errors.New("a status list needs a URI, an image and a version")
	case iat <= 0 || exp <= iat || ttl <= 0 || ttl > exp-iat:
		return nil, fmt.Errorf("status list %s: iat %d, exp %d and ttl %d don't fit together", l.ID, iat, exp, ttl)
	case l.IssuedAt.After(k.NotAfter()):
		return nil, fmt.Errorf("status list %s is of %d, its signer's certificate ended at %d: rotate the key", l.ID, iat, k.NotAfter().Unix())
	}
	lst, err := deflate(l.Image, level)
	if err != nil {
		return nil, err
	}
	switch {
	case l.Format == policy.SDJWT && (l.Bits == 1 || l.Bits == 2 || l.Bits == 4 || l.Bits == 8):
		header, err := json.Marshal(jwtHeader{k.Algorithm, "statuslist+jwt", k.Chain})
		if err != nil {
			return nil, err
		}
		claims, err := json.Marshal(jwtClaims{l.URI, iat, exp, ttl, jwtList{l.Bits, b64.EncodeToString(lst)}, l.Version})
		if err != nil {
			return nil, err
		}
		input := make([]byte, 0, b64.EncodedLen(len(header))+1+b64.EncodedLen(len(claims))+1+b64.EncodedLen(alg.sigSize))
		input = b64.AppendEncode(input, header)
		input = append(input, '.')
		input = b64.AppendEncode(input, claims)
		return &TBS{bytes: input, media: MediaJWT, sigSize: alg.sigSize}, nil
	case l.Format == policy.MDoc && l.Bits == 1: // WD v4 12.3.6.5: bits shall be 1
		var x5chain any = k.Chain
		if len(k.Chain) == 1 {
			x5chain = k.Chain[0]
		}
		protected, err := encoding.Marshal(cwtHeader{alg.cose, MediaCWT, x5chain})
		if err != nil {
			return nil, err
		}
		payload, err := encoding.Marshal(cwtClaims{l.URI, iat, exp, ttl, cwtList{l.Bits, lst}, l.Version})
		if err != nil {
			return nil, err
		}
		tbs, err := encoding.Marshal([]any{"Signature1", protected, []byte{}, payload}) // RFC 9052 4.4
		if err != nil {
			return nil, err
		}
		return &TBS{bytes: tbs, media: MediaCWT, protected: protected, payload: payload, sigSize: alg.sigSize}, nil
	}
	return nil, fmt.Errorf("a status list for %s can't have %d bits", l.Format, l.Bits)
}

// join writes the compact JWS, or COSE_Sign1 with its tag 18 and never the CWT tag 61 (draft-20 5.2).
func (t *TBS) join(signature []byte) ([]byte, error) {
	if len(signature) != t.sigSize {
		return nil, fmt.Errorf("the signature has %d bytes, the algorithm's have %d", len(signature), t.sigSize)
	}
	if t.media == MediaJWT {
		return b64.AppendEncode(append(append([]byte{}, t.bytes...), '.'), signature), nil
	}
	return encoding.Marshal(cbor.Tag{Number: 18, Content: []any{t.protected, map[int]any{}, t.payload, signature}})
}

// deflate compresses in the ZLIB format (draft-20 4.1).
func deflate(image []byte, level int) ([]byte, error) {
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	if err != nil {
		return nil, fmt.Errorf("compressing a status list: %w", err)
	}
	if _, err := w.Write(image); err != nil {
		return nil, fmt.Errorf("compressing a status list: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing a status list: %w", err)
	}
	return b.Bytes(), nil
}
