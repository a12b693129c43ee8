package worker

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"sealkeeper/signer/wire"
)

func attribute(typ uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(typ, value) }

// must is one attribute and the value that it has to have.
type must struct {
	typ  uint
	name string
	want bool
}

// private is what every signing key has to be. DERIVE and SIGN_RECOVER are other ways to use the private key than C_Sign.
var private = []must{
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true},
	{pkcs11.CKA_SIGN, "CKA_SIGN", true},
	{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", false},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE", false},
}

// wrapping is what the key that wraps the domain secret has to be.
var wrapping = []must{
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true},
	{pkcs11.CKA_WRAP, "CKA_WRAP", true},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", true},
	{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false},
	{pkcs11.CKA_SIGN, "CKA_SIGN", false},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE", false},
}

// secret is what the unwrapped domain secret has to be: it computes MACs and never leaves.
var secret = []must{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", false},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false},
	{pkcs11.CKA_SIGN, "CKA_SIGN", true},
	{pkcs11.CKA_VERIFY, "CKA_VERIFY", false},
	{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false},
	{pkcs11.CKA_WRAP, "CKA_WRAP", false},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE", false},
}

// lookUp finds the key by CKA_ID, checks it against the registry, and returns the handle to sign with: of the token object, or of its
// session copy.
func (t *token) lookUp(h pkcs11.SessionHandle, k wire.Key) (pkcs11.ObjectHandle, error) {
	a, ok := algorithms[k.Algorithm]
	if !ok {
		return 0, refuse(wire.Stop, "unknown algorithm %q", k.Algorithm)
	}
	priv, pub, err := t.pair(h, k.CKAID)
	if err != nil {
		return 0, err
	}
	spki, err := t.spki(h, pub, k.Algorithm)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(spki, k.SPKI) {
		return 0, refuse(wire.Stop, "the public key on the token is not the pinned one: this is another key with the same CKA_ID %x; restore the token "+
			"or retire the key", k.CKAID)
	}
	if err := t.checkPrivate(h, priv, a); err != nil {
		return 0, err
	}
	if !t.hello.Copies || !k.Copies {
		return priv, nil
	}
	// A copy as session object takes SoftHSM's file reads (two opens, six fcntl) out of every signature. It dies with the session h.
	dup, err := t.ctx.CopyObject(h, priv, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false)})
	if err != nil {
		return 0, calling("C_CopyObject", err)
	}
	if err := t.checkPrivate(h, dup, a); err != nil {
		return 0, fmt.Errorf("its session copy: %w", err)
	}
	if err := t.check(h, dup, []must{{pkcs11.CKA_TOKEN, "CKA_TOKEN", false}}); err != nil {
		return 0, fmt.Errorf("its session copy: %w", err)
	}
	return dup, nil
}

// pair returns the one private and the one public object with this CKA_ID. PKCS#11 does not make ids unique.
func (t *token) pair(h pkcs11.SessionHandle, id []byte) (priv, pub pkcs11.ObjectHandle, err error) {
	found, err := t.find(h, id)
	if err != nil {
		return 0, 0, err
	}
	for _, one := range []struct {
		class uint
		name  string
		out   *pkcs11.ObjectHandle
	}{{pkcs11.CKO_PRIVATE_KEY, "private", &priv}, {pkcs11.CKO_PUBLIC_KEY, "public", &pub}} {
		switch n := len(found[one.class]); n {
		case 1:
			*one.out = found[one.class][0]
		case 0:
			return 0, 0, refuse(wire.Missing, "no %s object with CKA_ID %x is on the token: restore the token from its backup or retire the key", one.name, id)
		default:
			return 0, 0, refuse(wire.Stop, "%d %s objects with CKA_ID %x: remove the duplicate, after comparing public keys with the registry", n, one.name, id)
		}
	}
	return priv, pub, nil
}

// find returns all token objects with a CKA_ID, by CKA_CLASS.
func (t *token) find(h pkcs11.SessionHandle, id []byte) (map[uint][]pkcs11.ObjectHandle, error) {
	if len(id) == 0 {
		return nil, refuse(wire.Stop, "it has no CKA_ID in the registry")
	}
	all, err := t.search(h, attribute(pkcs11.CKA_ID, id))
	if err != nil {
		return nil, err
	}
	found := map[uint][]pkcs11.ObjectHandle{}
	for _, o := range all {
		v, err := t.attributes(h, o, pkcs11.CKA_CLASS)
		if err != nil {
			return nil, err
		}
		c := number(v[0])
		found[c] = append(found[c], o)
	}
	return found, nil
}

// search returns the token objects with these attributes, some 64 at most: what has an id, or is a mark, is there once or a few times.
func (t *token) search(h pkcs11.SessionHandle, with ...*pkcs11.Attribute) (all []pkcs11.ObjectHandle, err error) {
	return t.searchFor(h, 64, with...)
}

// searchFor returns some most of them at most.
func (t *token) searchFor(h pkcs11.SessionHandle, most int, with ...*pkcs11.Attribute) (all []pkcs11.ObjectHandle, err error) {
	if err := t.ctx.FindObjectsInit(h, append(with, attribute(pkcs11.CKA_TOKEN, true))); err != nil {
		return nil, calling("C_FindObjectsInit", err)
	}
	for len(all) < most { // the binding's "more" is always false: ask until nothing comes
		var some []pkcs11.ObjectHandle
		if some, _, err = t.ctx.FindObjects(h, 16); err != nil || len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if final := t.ctx.FindObjectsFinal(h); err == nil {
		err = final
	}
	if err != nil {
		return nil, calling("C_FindObjects", err)
	}
	return all, nil
}

func (t *token) attributes(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	ask := make([]*pkcs11.Attribute, len(types))
	for i, typ := range types {
		ask[i] = &pkcs11.Attribute{Type: typ}
	}
	got, err := t.ctx.GetAttributeValue(h, o, ask)
	if err != nil {
		return nil, calling("C_GetAttributeValue", err)
	}
	values := make([][]byte, len(types))
	for i := range got {
		values[i] = got[i].Value
	}
	return values, nil
}

// number is a CK_ULONG.
func number(b []byte) uint {
	if len(b) != 8 {
		return ^uint(0)
	}
	return uint(binary.NativeEndian.Uint64(b))
}

func (t *token) check(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, list []must) error {
	types := make([]uint, len(list))
	for i, m := range list {
		types[i] = m.typ
	}
	values, err := t.attributes(h, o, types...)
	if err != nil {
		return err
	}
	var wrong []string
	for i, m := range list {
		if len(values[i]) != 1 || values[i][0] > 1 || (values[i][0] == 1) != m.want {
			wrong = append(wrong, fmt.Sprintf("%s is %x and must be %t", m.name, values[i], m.want))
		}
	}
	if wrong != nil {
		return refuse(wire.Stop, "%s: a key that was made or changed outside the appliance is not used; make a new one", strings.Join(wrong, ", "))
	}
	return nil
}

// checkPrivate checks type, curve, attributes and the one allowed mechanism.
func (t *token) checkPrivate(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, a algorithm) error {
	v, err := t.attributes(h, o, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_ALLOWED_MECHANISMS)
	if err != nil {
		return err
	}
	if number(v[0]) != a.keyType || !a.hasParams(v[1]) {
		return refuse(wire.Stop, "key type %#x on curve %x is not what the registry's algorithm needs", number(v[0]), v[1])
	}
	if number(v[2]) != a.mechanism[0].Mechanism {
		return refuse(wire.Stop, "CKA_ALLOWED_MECHANISMS is %x and must be the one mechanism %#x: make a new key", v[2], a.mechanism[0].Mechanism)
	}
	return t.check(h, o, private)
}

// spki returns the public object's key as DER SubjectPublicKeyInfo.
func (t *token) spki(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, alg string) ([]byte, error) {
	a := algorithms[alg]
	v, err := t.attributes(h, o, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	if number(v[0]) != a.keyType || !a.hasParams(v[1]) {
		return nil, refuse(wire.Stop, "the public object's key type %#x on curve %x does not fit %s", number(v[0]), v[1], alg)
	}
	spki, err := publicKey(alg, v[2])
	if err != nil {
		return nil, refuse(wire.Stop, "the public object: %v", err)
	}
	return spki, nil
}

// publicKey makes SubjectPublicKeyInfo from CKA_EC_POINT, which is a DER OCTET STRING around the point (PKCS#11 3.0 2.3.3), though some
// modules give the bare point. An uncompressed point begins with the tag of OCTET STRING, so only the length tells them apart.
func publicKey(alg string, point []byte) ([]byte, error) {
	size := map[string]int{wire.ES256: 65, wire.ES384: 97, wire.EdDSA: ed25519.PublicKeySize}[alg]
	if len(point) != size {
		var inner []byte
		if rest, err := asn1.Unmarshal(point, &inner); err != nil || len(rest) != 0 || len(inner) != size {
			return nil, fmt.Errorf("CKA_EC_POINT of %d bytes is not a point of %s", len(point), alg)
		}
		point = inner
	}
	switch alg {
	case wire.EdDSA:
		return x509.MarshalPKIXPublicKey(ed25519.PublicKey(point))
	case wire.ES384:
		return ecSPKI(elliptic.P384(), point)
	default:
		return ecSPKI(elliptic.P256(), point)
	}
}

func ecSPKI(c elliptic.Curve, point []byte) ([]byte, error) {
	k, err := ecdsa.ParseUncompressedPublicKey(c, point)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(k)
}

// writable runs f in a read-write session of its own, and returns only when what f made would survive a power cut. SoftHSM does not fsync its
// files, and the ledger is about to register the key. (sync(2) waits for the disk on Linux; keys are made rarely.)
func (t *token) writable(f func(h pkcs11.SessionHandle) error) error {
	h, err := t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return calling("C_OpenSession", err)
	}
	defer t.ctx.CloseSession(h)
	if err := t.loggedIn(h); err != nil {
		return err
	}
	if err := f(h); err != nil {
		return err
	}
	if err := t.loggedIn(h); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

// loggedIn is asked by whoever takes something that is not found for something that is not there: a token that ended our login shows no private object,
// and makes no error of it.
func (t *token) loggedIn(h pkcs11.SessionHandle) error {
	info, err := t.ctx.GetSessionInfo(h)
	if err != nil {
		return calling("C_GetSessionInfo", err)
	}
	if info.State != pkcs11.CKS_RO_USER_FUNCTIONS && info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return refuse(wire.Worker, "the token has ended our login")
	}
	return nil
}

const idSize = 16

func newID() []byte {
	id := make([]byte, idSize)
	rand.Read(id) // never fails (Go 1.24)
	return id
}

func mechanisms(m uint) *pkcs11.Attribute {
	return attribute(pkcs11.CKA_ALLOWED_MECHANISMS, binary.NativeEndian.AppendUint64(nil, uint64(m)))
}

// generate makes a key pair on the token and reads its attributes back before anyone hears of it.
//
// DESTROYABLE is true: a key that failed its checks, and one that is retired for good, must be removable without C_InitToken, which would
// take all keys; against someone who has PIN and token, false would protect nothing, since he can initialise the token as well.
// MODIFIABLE and COPYABLE are false, except for keys that are made for session copies (SoftHSM wants both). The CKA_ID is random, because the
// public key's hash is not known yet when the object is made; the registry binds id and public key.
func (t *token) generate(g wire.Generate) (id, spki []byte, err error) {
	a, ok := algorithms[g.Algorithm]
	if !ok {
		return nil, nil, refuse(wire.Faulty, "unknown algorithm %q", g.Algorithm)
	}
	if g.Label == "" || len(g.Label) > 64 {
		return nil, nil, refuse(wire.Faulty, "a key's label has 1 to 64 bytes")
	}
	if id = bytes.Clone(g.CKAID); len(id) == 0 {
		id = newID()
	} else if len(id) != idSize {
		return nil, nil, refuse(wire.Faulty, "a CKA_ID has %d bytes", idSize)
	}
	public := []*pkcs11.Attribute{
		attribute(pkcs11.CKA_TOKEN, true),
		attribute(pkcs11.CKA_PRIVATE, false),
		attribute(pkcs11.CKA_ID, id),
		attribute(pkcs11.CKA_LABEL, g.Label),
		attribute(pkcs11.CKA_EC_PARAMS, a.params[0]),
		attribute(pkcs11.CKA_VERIFY, true),
		attribute(pkcs11.CKA_VERIFY_RECOVER, false),
		attribute(pkcs11.CKA_ENCRYPT, false),
		attribute(pkcs11.CKA_WRAP, false),
		attribute(pkcs11.CKA_MODIFIABLE, false),
		attribute(pkcs11.CKA_COPYABLE, false),
	}
	priv := []*pkcs11.Attribute{
		attribute(pkcs11.CKA_TOKEN, true),
		attribute(pkcs11.CKA_PRIVATE, true),
		attribute(pkcs11.CKA_ID, id),
		attribute(pkcs11.CKA_LABEL, g.Label),
		attribute(pkcs11.CKA_SENSITIVE, true),
		attribute(pkcs11.CKA_EXTRACTABLE, false),
		attribute(pkcs11.CKA_SIGN, true),
		attribute(pkcs11.CKA_SIGN_RECOVER, false),
		attribute(pkcs11.CKA_DECRYPT, false),
		attribute(pkcs11.CKA_UNWRAP, false),
		attribute(pkcs11.CKA_DERIVE, false),
		attribute(pkcs11.CKA_MODIFIABLE, g.Copies),
		attribute(pkcs11.CKA_COPYABLE, g.Copies),
		attribute(pkcs11.CKA_DESTROYABLE, true),
		mechanisms(a.mechanism[0].Mechanism),
	}
	err = t.writable(func(h pkcs11.SessionHandle) error {
		if there, err := t.made(h, id, g, a); err != nil || there != nil {
			spki = there
			return err
		}
		pubObject, privObject, err := t.ctx.GenerateKeyPair(h, a.generate, public, priv)
		if err != nil {
			return calling("C_GenerateKeyPair", err)
		}
		if err = t.checkNew(h, privObject, g, a); err == nil {
			spki, err = t.spki(h, pubObject, g.Algorithm)
		}
		if err == nil { // nothing else on the token has this id
			_, _, err = t.pair(h, id)
		}
		if err != nil {
			t.ctx.DestroyObject(h, privObject)
			t.ctx.DestroyObject(h, pubObject)
			return withdrawn("the new key", err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return id, spki, nil
}

// checkNew checks a private key that was just made.
func (t *token) checkNew(h pkcs11.SessionHandle, priv pkcs11.ObjectHandle, g wire.Generate, a algorithm) error {
	if err := t.checkPrivate(h, priv, a); err != nil {
		return err
	}
	return t.check(h, priv, []must{{pkcs11.CKA_TOKEN, "CKA_TOKEN", true}, {pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", g.Copies}, {pkcs11.CKA_COPYABLE, "CKA_COPYABLE", g.Copies}})
}

// made looks for a pair that was made under this id before a crash, and returns its public key. Half a pair is removed.
func (t *token) made(h pkcs11.SessionHandle, id []byte, g wire.Generate, a algorithm) (spki []byte, _ error) {
	found, err := t.find(h, id)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if len(found[pkcs11.CKO_PRIVATE_KEY]) == 1 && len(found[pkcs11.CKO_PUBLIC_KEY]) == 1 {
		priv, pub, err := t.pair(h, id)
		if err != nil {
			return nil, err
		}
		if err := t.checkNew(h, priv, g, a); err != nil {
			return nil, &failure{wire.Faulty, "what is on the token under the planned CKA_ID", err} // the other keys go on
		}
		return t.spki(h, pub, g.Algorithm)
	}
	return nil, t.remove(h, id)
}

// remove destroys every object with a CKA_ID, and looks that they are gone: C_DestroyObject of SoftHSM may fail and say nothing.
func (t *token) remove(h pkcs11.SessionHandle, id []byte) error {
	found, err := t.find(h, id)
	if err != nil {
		return err
	}
	for _, objects := range found {
		for _, o := range objects {
			if err := t.ctx.DestroyObject(h, o); err != nil {
				return &failure{wire.Faulty, "C_DestroyObject", err}
			}
		}
	}
	if found, err = t.find(h, id); err == nil && len(found) > 0 {
		err = refuse(wire.Faulty, "objects with CKA_ID %x are still on the token after they were destroyed", id)
	}
	return err
}

// destroy takes a key off the token; one that is not there is no error, since a crash may have come after it.
func (t *token) destroy(id []byte) error {
	if len(id) != idSize {
		return refuse(wire.Faulty, "a CKA_ID has %d bytes", idSize)
	}
	return t.writable(func(h pkcs11.SessionHandle) error { return t.remove(h, id) })
}

// mostKeys is how many private keys are named. It is far above what a registry has, so among more than that there are named ones of strangers.
const mostKeys = 1024

// privateKeys names the private keys on the token. It is not the first few of them: a key that nobody registered could hide behind those. An id
// that is longer than any of ours is cut, so that an answer has a bound.
//
// A token that can't be looked over is no reason to end this worker (class Faulty), unless the session is what is broken: it may sign as before.
func (s *session) privateKeys() (ids [][]byte, err error) {
	t := s.token
	err = s.do(func(h pkcs11.SessionHandle, _ *binding) (bool, error) {
		ids = nil
		all, err := t.searchFor(h, mostKeys, attribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
		for _, o := range all {
			if err != nil {
				break
			}
			var v [][]byte
			if v, err = t.attributes(h, o, pkcs11.CKA_ID); err == nil {
				ids = append(ids, v[0][:min(len(v[0]), 4*idSize)])
			}
		}
		if err != nil && class(err) != wire.Session {
			return false, &failure{wire.Faulty, "looking over the private keys", err}
		}
		if err == nil {
			err = t.loggedIn(h)
		}
		return false, err
	})
	return ids, err
}

// withdrawn: something that the token made wrongly was removed again. That is no reason to stop the keys that are well.
func withdrawn(what string, err error) error {
	if c := class(err); c != wire.Stop && c != wire.Session && c != wire.Missing {
		return fmt.Errorf("%s was removed again: %w", what, err)
	}
	return &failure{wire.Faulty, what + " was removed again", err}
}

var (
	keyWrapPad    = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil)} // RFC 5649
	aesKeyGen     = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}
	genericKeyGen = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)}
)

const secretSize = 32

// newSecret makes the domain secret: an AES-256 wrapping key that stays on the token, and 32 random bytes that exist only as a sensitive
// session object and, wrapped, in the answer.
func (t *token) newSecret() (id, blob []byte, err error) {
	id = newID()
	err = t.writable(func(h pkcs11.SessionHandle) error {
		w, err := t.ctx.GenerateKey(h, aesKeyGen, []*pkcs11.Attribute{
			attribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			attribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			attribute(pkcs11.CKA_VALUE_LEN, 32),
			attribute(pkcs11.CKA_TOKEN, true),
			attribute(pkcs11.CKA_PRIVATE, true),
			attribute(pkcs11.CKA_ID, id),
			attribute(pkcs11.CKA_LABEL, "sealkeeper domain secret"),
			attribute(pkcs11.CKA_SENSITIVE, true),
			attribute(pkcs11.CKA_EXTRACTABLE, false),
			attribute(pkcs11.CKA_WRAP, true),
			attribute(pkcs11.CKA_UNWRAP, true),
			attribute(pkcs11.CKA_ENCRYPT, false),
			attribute(pkcs11.CKA_DECRYPT, false),
			attribute(pkcs11.CKA_SIGN, false),
			attribute(pkcs11.CKA_VERIFY, false),
			attribute(pkcs11.CKA_DERIVE, false),
			attribute(pkcs11.CKA_MODIFIABLE, false),
			attribute(pkcs11.CKA_COPYABLE, false),
			attribute(pkcs11.CKA_DESTROYABLE, true),
			mechanisms(pkcs11.CKM_AES_KEY_WRAP_PAD),
		})
		if err != nil {
			return calling("C_GenerateKey (AES)", err)
		}
		blob, err = t.wrapNew(h, w)
		if err != nil {
			t.ctx.DestroyObject(h, w)
			return withdrawn("the new wrapping key", err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return id, blob, nil
}

func (t *token) wrapNew(h pkcs11.SessionHandle, w pkcs11.ObjectHandle) ([]byte, error) {
	if err := t.check(h, w, wrapping); err != nil {
		return nil, err
	}
	s, err := t.ctx.GenerateKey(h, genericKeyGen, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		attribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		attribute(pkcs11.CKA_VALUE_LEN, secretSize),
		attribute(pkcs11.CKA_TOKEN, false),
		attribute(pkcs11.CKA_PRIVATE, true),
		attribute(pkcs11.CKA_SENSITIVE, true),
		attribute(pkcs11.CKA_EXTRACTABLE, true), // so that it can be wrapped; it lives until the end of this function
	})
	if err != nil {
		return nil, calling("C_GenerateKey (generic secret)", err)
	}
	defer t.ctx.DestroyObject(h, s)
	blob, err := t.ctx.WrapKey(h, keyWrapPad, w, s)
	if err != nil {
		return nil, calling("C_WrapKey", err)
	}
	if len(blob) != secretSize+8 {
		return nil, refuse(wire.Stop, "the wrapped secret has %d bytes instead of %d", len(blob), secretSize+8)
	}
	return blob, nil
}

// unwrap makes the domain secret a session object of h that can compute MACs and nothing else.
func (t *token) unwrap(h pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
	for _, w := range t.hello.Secret {
		found, err := t.find(h, w.CKAID)
		if err != nil {
			return 0, err
		}
		keys := found[pkcs11.CKO_SECRET_KEY]
		if len(keys) == 0 {
			continue // wrapped to another token
		}
		if len(keys) > 1 {
			return 0, refuse(wire.Stop, "%d wrapping keys with CKA_ID %x: remove the duplicate", len(keys), w.CKAID)
		}
		if err := t.check(h, keys[0], wrapping); err != nil {
			return 0, fmt.Errorf("its wrapping key: %w", err)
		}
		template := []*pkcs11.Attribute{
			attribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			attribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			mechanisms(pkcs11.CKM_SHA256_HMAC),
		}
		for _, m := range secret {
			template = append(template, attribute(m.typ, m.want))
		}
		o, err := t.ctx.UnwrapKey(h, keyWrapPad, keys[0], w.Blob, template)
		if err != nil {
			return 0, calling("C_UnwrapKey", err)
		}
		if err := t.check(h, o, secret); err != nil {
			return 0, err
		}
		return o, nil
	}
	return 0, refuse(wire.Missing, "none of its %d wrapping keys is on this token: restore the token from its backup", len(t.hello.Secret))
}
