package evidence

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/strict"
)

var jwkLimits = strict.Limits{Bytes: 4 << 10, Depth: 3}

// ParseKey reads a public JWK of a kind that statements can be signed with: EC P-256, EC P-384 or OKP Ed25519.
func ParseKey(jwk []byte) (Key, error) {
	if len(jwk) > jwkLimits.Bytes {
		return Key{}, refuse("jwk_malformed", "a public key is larger than 4 KiB")
	}
	return readJWK(jwk)
}

// readJWK reads a public key (RFC 7517, 7518 6.2, 8037 2) of a kind that a card can be bound to. Members without meaning for us may be
// present (RFC 7517 4), members of a private key may not: a secret that travels is none, and must not be repeated to the next one.
func readJWK(raw []byte) (Key, error) {
	var j struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Y   string `json:"y"`
		Use string `json:"use"`
		Alg string `json:"alg"`

		D   jsontext.Value `json:"d"`
		K   jsontext.Value `json:"k"`
		P   jsontext.Value `json:"p"`
		Q   jsontext.Value `json:"q"`
		DP  jsontext.Value `json:"dp"`
		DQ  jsontext.Value `json:"dq"`
		QI  jsontext.Value `json:"qi"`
		Oth jsontext.Value `json:"oth"`
	}
	if jsontext.Value(raw).Kind() != '{' {
		return Key{}, refuse("jwk_malformed", "a public key is not a JWK object")
	}
	if err := strict.Loose(raw, jwkLimits, &j); err != nil {
		return Key{}, refuse("jwk_malformed", "a public key is not a well-formed JWK with members of the right types")
	}
	if slices.ContainsFunc([]jsontext.Value{j.D, j.K, j.P, j.Q, j.DP, j.DQ, j.QI, j.Oth}, func(v jsontext.Value) bool { return len(v) > 0 }) {
		return Key{}, refuse("jwk_private", "a JWK holds members of a private or symmetric key; consider that key lost")
	}
	if j.Use != "" && j.Use != "sig" {
		return Key{}, refuse("jwk_unsupported", "a JWK is meant for something else than signatures (use)")
	}
	var key Key
	var err error
	switch {
	case j.Kty == "EC" && j.Crv == "P-256":
		key, err = ecKey(elliptic.P256(), 32, j.X, j.Y)
	case j.Kty == "EC" && j.Crv == "P-384":
		key, err = ecKey(elliptic.P384(), 48, j.X, j.Y)
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		key, err = edKey(j.X, j.Y)
	default:
		return Key{}, refuse("jwk_unsupported", "a JWK is none of EC P-256, EC P-384 and OKP Ed25519")
	}
	if err != nil {
		return Key{}, err
	}
	if j.Alg != "" && j.Alg != algorithm(key.Public) {
		return Key{}, refuse("jwk_unsupported", "a JWK names an algorithm that doesn't belong to its curve (alg)")
	}
	// The members required by RFC 7638 3.2 in lexicographic order. The values need no escaping: they were compared or decoded above.
	if j.Kty == "EC" {
		key.JWK = []byte(`{"crv":"` + j.Crv + `","kty":"EC","x":"` + j.X + `","y":"` + j.Y + `"}`)
	} else {
		key.JWK = []byte(`{"crv":"Ed25519","kty":"OKP","x":"` + j.X + `"}`)
	}
	key.Thumbprint = sha256.Sum256(key.JWK)
	return key, nil
}

func ecKey(curve elliptic.Curve, size int, xs, ys string) (Key, error) {
	x, okX := decode64(xs)
	y, okY := decode64(ys)
	if !okX || !okY || len(x) != size || len(y) != size { // full length, RFC 7518 6.2.1.2: one text for each point
		return Key{}, refuse("jwk_malformed", "a JWK's coordinates are not unpadded base64url of the curve's full length")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return Key{}, refuse("jwk_off_curve", "a JWK's coordinates are not a point of its curve")
	}
	return Key{Public: public}, nil
}

func edKey(xs, ys string) (Key, error) {
	raw, ok := decode64(xs)
	if !ok || len(raw) != ed25519.PublicKeySize || ys != "" {
		return Key{}, refuse("jwk_malformed", "an Ed25519 JWK must have x of 32 bytes, unpadded base64url, and no y")
	}
	if !edPoint(raw) {
		return Key{}, refuse("jwk_off_curve", "an Ed25519 JWK is not the canonical encoding of a point of large order")
	}
	return Key{Public: crypto.PublicKey(ed25519.PublicKey(raw))}, nil
}

var (
	edP    = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	edD, _ = new(big.Int).SetString("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3", 16)
)

// edPoint says whether raw is the canonical encoding (RFC 8032 5.1.3) of a point whose order isn't 1, 2, 4 or 8: under a key of small
// order a signature for any message can be written down without a secret. crypto/ed25519 has no such check.
func edPoint(raw []byte) bool {
	le := slices.Clone(raw)
	le[31] &= 0x7f
	slices.Reverse(le)
	one := big.NewInt(1)
	y := new(big.Int).SetBytes(le)
	if y.Cmp(edP) >= 0 {
		return false
	}
	y2 := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(y2, one) // x² = (y² − 1) / (d·y² + 1)
	v := new(big.Int).Mul(edD, y2)
	v.Add(v, one).Mod(v, edP)
	x2 := new(big.Int).Mul(u, new(big.Int).ModInverse(v, edP)) // v is never 0: −1/d is no square
	x2.Mod(x2, edP)
	if big.Jacobi(x2, edP) != 1 || y.Sign() == 0 { // off the curve; or x = 0: order 1 or 2; or y = 0: order 4
		return false
	}
	return new(big.Int).Mod(y2.Add(y2, x2), edP).Sign() != 0 // x² + y² = 0: twice the point has y = 0, order 8
}
