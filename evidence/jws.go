package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/ecsig"
	"sealkeeper/internal/strict"
)

// token is a compact JWS (RFC 7515 7.1) taken apart and not yet believed.
type token struct {
	head               string // the first part as it came; header decodes it
	payload, signature []byte
	input              string // what is signed: the first two parts as they came
	alg                string
}

// split takes a compact JWS apart. Each part must be the one canonical unpadded base64url text of its bytes: otherwise the same
// statement has many texts, and whoever remembers texts can be shown it twice.
func split(text string) (t token, ok bool) {
	head, rest, _ := strings.Cut(text, ".")
	body, sig, _ := strings.Cut(rest, ".")
	if head == "" || body == "" || sig == "" {
		return token{}, false
	}
	var ok1, ok2 bool
	t.payload, ok1 = decode64(body)
	t.signature, ok2 = decode64(sig) // a fourth part would put a dot in here, which is not in the alphabet
	t.head, t.input = head, text[:len(head)+1+len(body)]
	return t, ok1 && ok2
}

// header decodes the first part by one of strict's functions.
func (t *token) header(decode func([]byte, strict.Limits, any) error, l strict.Limits, h any) bool {
	raw, ok := decode64(t.head)
	return ok && decode(raw, l, h) == nil
}

// headers are some that were read before, by their text: the same text says the same. Only those of tokens are kept whose signature was good, of
// which a signer who is believed has few, so that nobody else can fill the memory or push out a good one.
type headers[H any] struct {
	mu sync.RWMutex
	of map[string]H
}

const (
	maxHeaders = 256
	maxHeader  = 8 << 10 // bytes of text
)

func (k *headers[H]) get(text string) (h H, ok bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	h, ok = k.of[text]
	return h, ok
}

func (k *headers[H]) keep(text string, h H) {
	if _, known := k.get(text); known || len(text) > maxHeader {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = map[string]H{}
	}
	for old := range k.of {
		if len(k.of) < maxHeaders {
			break
		}
		delete(k.of, old) // any one; what is still in use comes back with its next token
	}
	k.of[strings.Clone(text)] = h // not the whole token
}

var canonical64 = base64.RawURLEncoding.Strict()

// decode64 decodes canonical unpadded base64url: encoding the result again gives the same text. Go's decoder skips line ends, and
// without Strict ignores the spare bits of the last character.
func decode64(s string) ([]byte, bool) {
	if strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 {
		return nil, false
	}
	b, err := canonical64.DecodeString(s)
	return b, err == nil
}

// signedBy verifies the signature with the one algorithm that belongs to the key's curve; alg must name that one. So there is no way
// to "none", to a MAC under a public key, or to a hash of another length.
//
// The header was decoded strictly already and a second decoder would only be a second opinion on the same bytes (go-jose's costs more
// than the signature: it parses x5c twice); the tests hold this function against go-jose.
func (t *token) signedBy(key crypto.PublicKey) bool { return t.signed(key, ecsig.Verify) }

// signedByKnown is signedBy for the key of a party that signs for many: it costs less once that key has come often.
func (t *token) signedByKnown(keys *ecsig.Keys, key crypto.PublicKey) bool {
	return t.signed(key, keys.Verify)
}

func (t *token) signed(key crypto.PublicKey, ec func(key *ecdsa.PublicKey, digest, raw []byte) bool) bool {
	if algorithm(key) != t.alg {
		return false
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			digest := sha256.Sum256(append(make([]byte, 0, 4096), t.input...)) // of most a copy on the stack
			return ec(key, digest[:], t.signature)
		}
		digest := sha512.Sum384([]byte(t.input))
		return ec(key, digest[:], t.signature)
	case ed25519.PublicKey:
		return ed25519.Verify(key, []byte(t.input), t.signature)
	}
	return false
}

// algorithm is the one JWS algorithm of a key, empty for keys that are not accepted.
func algorithm(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return "ES256"
		case elliptic.P384():
			return "ES384"
		}
	case ed25519.PublicKey:
		return "EdDSA"
	}
	return ""
}

// each walks the elements of an array whose syntax was checked before, and stops with false at anything but an array, at more than max
// elements, or when f says so. It keeps a long array of nothings from becoming a large slice.
func each(array jsontext.Value, max int, f func(jsontext.Value) bool) bool {
	dec := jsontext.NewDecoder(bytes.NewBuffer(array))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return false
	}
	for n := 0; dec.PeekKind() != ']'; n++ {
		v, err := dec.ReadValue()
		if err != nil || n == max || !f(v) {
			return false
		}
	}
	return true
}

// elements gives f each element of the array that comes next; anything else is passed over and no array.
func elements(d *jsontext.Decoder, f func(jsontext.Value)) (array bool, err error) {
	if d.PeekKind() != '[' {
		return false, d.SkipValue()
	}
	if _, err := d.ReadToken(); err != nil {
		return true, err
	}
	for d.PeekKind() != ']' {
		v, err := d.ReadValue()
		if err != nil {
			return true, err
		}
		f(v)
	}
	_, err = d.ReadToken()
	return true, err
}

// text is a JSON string's value.
func text(v jsontext.Value) (string, bool) {
	if v.Kind() != '"' {
		return "", false
	}
	b, err := jsontext.AppendUnquote(nil, v)
	return string(b), err == nil
}

// instant turns a NumericDate into a time; whole seconds of the years 1970 to 9999 only, so that nothing overflows later.
func instant(seconds *int64) (time.Time, bool) {
	if seconds == nil || *seconds < 0 || *seconds > 253402300799 {
		return time.Time{}, false
	}
	return time.Unix(*seconds, 0).UTC(), true
}
