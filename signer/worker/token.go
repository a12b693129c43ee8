package worker

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/miekg/pkcs11"

	"sealkeeper/signer/wire"
)

// token is one logged-in token of a loaded module.
type token struct {
	ctx    *pkcs11.Ctx
	module functions // the same module, for signatures in batches
	slot   uint
	serial string
	hello  wire.Hello // without PIN
	mu     sync.Mutex // one rebind at a time
	sync   func() error
	bound  atomic.Pointer[binding]
}

// binding is what was looked up and checked in one go. Handles of two bindings must not be mixed.
type binding struct {
	anchor pkcs11.SessionHandle // session copies and the secret live as long as this session
	keys   map[string]key
	secret pkcs11.ObjectHandle
}

type key struct {
	wire.Key
	handle pkcs11.ObjectHandle
}

// open does, in this order:
//
//	guard{ C_Initialize C_GetSlotList C_GetTokenInfo… C_OpenSession C_Login } wipe PIN
//	for each key: C_FindObjects C_GetAttributeValue… (C_CopyObject C_GetAttributeValue); C_UnwrapKey
//
// BUG(open): the binding hands C_Login a C copy of the PIN that it frees without wiping. It stays in this process, which can't be
// dumped or traced.
func open(hello *wire.Hello, guard func(func() error) error) (*token, error) {
	defer wire.Wipe(hello.PIN)
	t := &token{hello: *hello}
	t.hello.PIN = nil
	if hello.Sessions > MaxSessions {
		return nil, refuse(wire.Stop, "%d sessions are asked for, at most %d make sense", hello.Sessions, MaxSessions)
	}
	var err error
	if t.module, err = load(hello.Module); err != nil {
		return nil, err
	}
	if t.ctx = pkcs11.New(hello.Module); t.ctx == nil {
		return nil, refuse(wire.Stop, "the PKCS#11 module %q can't be loaded a second time", hello.Module)
	}
	if guard == nil {
		guard = func(start func() error) error { return start() }
	}
	var anchor pkcs11.SessionHandle
	tried := false
	err = guard(func() (err error) {
		if tried { // a guard that runs start twice must not cost a second PIN try
			return refuse(wire.Stop, "a start was tried twice in one process")
		}
		tried = true
		if err := calling("C_Initialize", t.ctx.Initialize()); err != nil {
			return err
		}
		if err := t.findSlot(); err != nil {
			return err
		}
		if anchor, err = t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
			return calling("C_OpenSession", err)
		}
		return t.login(anchor, hello.PIN)
	})
	wire.Wipe(hello.PIN)
	if err != nil {
		return nil, fmt.Errorf("token %q: %w", hello.Token, err)
	}
	if !tried {
		return nil, refuse(wire.Worker, "token %q was not started by its guard", hello.Token)
	}
	b, err := t.bind(anchor)
	if err != nil {
		return nil, fmt.Errorf("token %q: %w", hello.Token, err)
	}
	t.bound.Store(b)
	return t, nil
}

// findSlot selects by label and serial, because slot numbers change when tokens are added.
func (t *token) findSlot() error {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return calling("C_GetSlotList", err)
	}
	var found, seen []string
	for _, slot := range slots {
		info, err := t.ctx.GetTokenInfo(slot)
		if err != nil {
			continue // a broken reader next to ours is not our business
		}
		serial := strings.TrimRight(info.SerialNumber, " \x00")
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		seen = append(seen, fmt.Sprintf("%q (serial %s)", info.Label, serial))
		if info.Label == t.hello.Token && (t.hello.Serial == "" || t.hello.Serial == serial) {
			found = append(found, serial)
			t.slot, t.serial = slot, serial
		}
	}
	switch {
	case len(found) == 0:
		return refuse(wire.Worker, "no token with this label and serial %q; the module shows %s: is the HSM connected, the configuration right?",
			t.hello.Serial, strings.Join(append(seen, "nothing else"), ", "))
	case len(found) > 1:
		return refuse(wire.Stop, "%d tokens have this label (serials %s): configure the serial", len(found), strings.Join(found, ", "))
	}
	return nil
}

// login calls C_Login, once in the life of this process.
func (t *token) login(h pkcs11.SessionHandle, pin []byte) error {
	if len(pin) == 0 {
		return refuse(wire.Stop, "no PIN was given")
	}
	err := t.ctx.Login(h, pkcs11.CKU_USER, unsafe.String(&pin[0], len(pin))) // a view, not a copy that could not be wiped
	if class(err) == wire.Stop {
		return fmt.Errorf("the PIN was refused, and is not tried again (each try counts on a real HSM): check the PIN source: C_Login: %w", err)
	}
	return calling("C_Login", err)
}

// bind looks up and checks every key of the registry and the domain secret in session anchor.
func (t *token) bind(anchor pkcs11.SessionHandle) (*binding, error) {
	b := &binding{anchor: anchor, keys: make(map[string]key, len(t.hello.Keys))}
	for _, k := range t.hello.Keys {
		if _, twice := b.keys[k.ID]; twice {
			return nil, refuse(wire.Stop, "key %s: the registry names it twice", k.ID)
		}
		h, err := t.lookUp(anchor, k)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.ID, err)
		}
		b.keys[k.ID] = key{Key: k, handle: h}
	}
	if len(t.hello.Secret) > 0 {
		var err error
		if b.secret, err = t.unwrap(anchor); err != nil {
			return nil, fmt.Errorf("domain secret: %w", err)
		}
	}
	return b, nil
}

// rebind replaces the binding old after a failure of class wire.Session, unless another session did so meanwhile.
//
// The PIN is gone, so a token that logged us out can't be entered again: that needs a new process.
func (t *token) rebind(old *binding) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bound.Load() != old {
		return nil
	}
	again := func() (*binding, error) {
		anchor, err := t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, calling("C_OpenSession", err)
		}
		if err := t.loggedIn(anchor); err != nil {
			return nil, err
		}
		return t.bind(anchor)
	}
	b, err := again()
	if err != nil {
		c := wire.Stop // another process would find the same
		if k := class(err); k == wire.Session || k == wire.Worker {
			c = wire.Worker
		}
		return &failure{c, "binding the keys again", err}
	}
	t.bound.Store(b)
	t.ctx.CloseSession(old.anchor)
	return nil
}

// session is used by one goroutine.
type session struct {
	token  *token
	handle pkcs11.SessionHandle
	open   bool
	batch  batchOf
}

// do runs f; after a failure of class wire.Session once more, in a new session with keys looked up again. f says whether it did something
// that need not be done again: what failed then is another thing, with a second try of its own.
func (s *session) do(f func(h pkcs11.SessionHandle, b *binding) (moved bool, err error)) error {
	for try := 1; ; try++ {
		b := s.token.bound.Load()
		moved := false
		err := s.prepare()
		if err == nil {
			moved, err = f(s.handle, b)
		}
		if class(err) != wire.Session {
			return err
		}
		if moved {
			try = 1
		}
		if try == 2 {
			return &failure{wire.Worker, "again after the keys were looked up anew", err}
		}
		if err := s.token.rebind(b); err != nil {
			return err
		}
		if s.open { // only now: a token logs out with the last session of a process
			s.token.ctx.CloseSession(s.handle)
			s.open = false
		}
	}
}

// sessions opens n of them: a token that has not so many says so before anything is given to this worker.
func (t *token) sessions(n int) ([]*session, error) {
	all := make([]*session, n)
	for i := range all {
		all[i] = &session{token: t}
		if err := all[i].prepare(); err != nil {
			return nil, fmt.Errorf("token %q: session %d of %d for signatures: %w", t.hello.Token, i+1, n, err)
		}
	}
	return all, nil
}

func (s *session) prepare() error {
	if s.open {
		return nil
	}
	h, err := s.token.ctx.OpenSession(s.token.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return calling("C_OpenSession", err)
	}
	s.handle, s.open = h, true
	return nil
}

// sign makes the signatures that are asked for, in order; what the module refuses to sign does not keep it from the others. After an
// error, which ends the process, the result of the one that failed is there, and those after it were not tried.
func (s *session) sign(asked []wire.Sign, results []wire.Result) (done int, err error) {
	for done < len(asked) {
		err := s.do(func(h pkcs11.SessionHandle, b *binding) (bool, error) {
			n, err := s.some(h, b, asked[done:], results[done:])
			done += n
			return n > 0, err
		})
		if err == nil {
			break
		}
		results[done].Class, results[done].Error = class(err), err.Error()
		done++
		if class(err) != wire.Faulty {
			return done, err
		}
	}
	return done, nil
}

// some hashes what is within its key's purpose, and signs it in one call of the module. done have a result; the next one failed with err.
func (s *session) some(h pkcs11.SessionHandle, b *binding, asked []wire.Sign, results []wire.Result) (done int, err error) {
	defer s.batch.reset()
	n := 0
	for ; n < len(asked); n++ {
		k, refused := b.checked(asked[n])
		if refused != nil {
			err = refused
			break
		}
		s.batch.add(algorithms[k.Algorithm], k.handle, asked[n].TBS)
	}
	made, failed := s.token.module.sign(h, &s.batch)
	if failed != nil {
		failed = fmt.Errorf("key %s: %w", asked[made].KeyID, failed)
	} else {
		failed = err
	}
	for i := range made {
		id := asked[i].KeyID
		if results[i].Signature, err = s.batch.signature(i, algorithms[b.keys[id].Algorithm]); err != nil {
			return i, fmt.Errorf("key %s: %w", id, err)
		}
	}
	return made, failed
}

// checked finds the key, if r is within its purpose.
func (b *binding) checked(r wire.Sign) (key, error) {
	k, ok := b.keys[r.KeyID]
	if !ok {
		return k, refuse(wire.Faulty, "this worker has no key %q", r.KeyID)
	}
	if k.Purpose != r.Purpose {
		return k, refuse(wire.Faulty, "key %s is for %q, not for %q", k.ID, k.Purpose, r.Purpose)
	}
	if err := wire.CheckPrefix(k.Purpose, k.Algorithm, r.TBS); err != nil {
		return k, &failure{wire.Faulty, "key " + k.ID, err}
	}
	return k, nil
}

// LabelPrefix is how every label of a derivation from the domain secret begins.
const LabelPrefix = "sealkeeper/v1/"

var hmacSHA256 = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}

// derive computes HMAC-SHA256(domain secret, label) inside the token.
func (s *session) derive(label string) (out []byte, err error) {
	if !strings.HasPrefix(label, LabelPrefix) || len(label) > 256 {
		return nil, refuse(wire.Faulty, "a label begins with %q and has at most 256 bytes", LabelPrefix)
	}
	err = s.do(func(h pkcs11.SessionHandle, b *binding) (bool, error) {
		if b.secret == 0 {
			return false, refuse(wire.Faulty, "token %q has no domain secret", s.token.hello.Token)
		}
		if err := s.token.ctx.SignInit(h, hmacSHA256, b.secret); err != nil {
			return false, calling("domain secret: C_SignInit", err)
		}
		if out, err = s.token.ctx.Sign(h, []byte(label)); err != nil {
			return false, calling("domain secret: C_Sign", err)
		}
		if len(out) != sha256.Size {
			return false, refuse(wire.Worker, "domain secret: a MAC of %d bytes", len(out))
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// algorithm is how PKCS#11 speaks of one of ours.
type algorithm struct {
	keyType   uint
	params    [][]byte // CKA_EC_PARAMS; the first is used to generate, all are recognised
	generate  []*pkcs11.Mechanism
	mechanism []*pkcs11.Mechanism
	digest    func(b, tbs []byte) []byte // appends what C_Sign is given
	size      int                        // of a raw signature
}

// PKCS#11 3.0 names that the binding does not have.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEdDSA               = 0x1057
)

var algorithms = map[string]algorithm{
	wire.ES256: {
		keyType:   pkcs11.CKK_EC,
		params:    [][]byte{{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}}, // OID prime256v1
		generate:  []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		mechanism: []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)},
		digest:    func(b, tbs []byte) []byte { d := sha256.Sum256(tbs); return append(b, d[:]...) },
		size:      64,
	},
	wire.ES384: {
		keyType:   pkcs11.CKK_EC,
		params:    [][]byte{{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}}, // OID secp384r1
		generate:  []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		mechanism: []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)},
		digest:    func(b, tbs []byte) []byte { d := sha512.Sum384(tbs); return append(b, d[:]...) },
		size:      96,
	},
	wire.EdDSA: {
		keyType: ckkECEdwards,
		params: [][]byte{
			append([]byte{0x13, 0x0c}, "edwards25519"...), // PrintableString (PKCS#11 3.0 2.3.10)
			{0x06, 0x03, 0x2b, 0x65, 0x70},                // OID id-Ed25519 (RFC 8410)
		},
		generate:  []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmECEdwardsKeyPairGen, nil)},
		mechanism: []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdDSA, nil)},
		digest:    func(b, tbs []byte) []byte { return append(b, tbs...) },
		size:      64,
	},
}

func (a algorithm) hasParams(p []byte) bool {
	return slices.ContainsFunc(a.params, func(q []byte) bool { return bytes.Equal(p, q) })
}
