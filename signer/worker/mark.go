package worker

import (
	"github.com/miekg/pkcs11"

	"sealkeeper/signer/wire"
)

// markLabel is the CKA_LABEL of marks, and the only thing beside keys that this program writes to a token.
const markLabel = "sealkeeper mark"

var markKind = []*pkcs11.Attribute{attribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), attribute(pkcs11.CKA_LABEL, markLabel)}

// mark returns the marks on the token, after it wrote one if there is a value.
func (s *session) mark(value []byte) (marks [][]byte, err error) {
	if len(value) > 0 {
		m, err := wire.ParseMark(value)
		if err != nil {
			return nil, &failure{wire.Faulty, "writing a mark", err}
		}
		if err := s.token.putMark(m); err != nil {
			return nil, err
		}
	}
	err = s.do(func(h pkcs11.SessionHandle, _ *binding) (bool, error) {
		marks = nil
		return false, s.token.eachMark(h, func(_ pkcs11.ObjectHandle, m wire.Mark) { marks = append(marks, m.Bytes()) })
	})
	return marks, err
}

// eachMark calls f for every object that looks like a mark. What doesn't is left alone.
func (t *token) eachMark(h pkcs11.SessionHandle, f func(pkcs11.ObjectHandle, wire.Mark)) error {
	found, err := t.search(h, markKind...)
	if err != nil {
		return err
	}
	for _, o := range found {
		v, err := t.attributes(h, o, pkcs11.CKA_VALUE)
		if err != nil {
			continue // another worker, which has the same token, removed it just now
		}
		if m, err := wire.ParseMark(v[0]); err == nil {
			f(o, m)
		}
	}
	return nil
}

// putMark leaves m as the newest mark of its installation. The new object is made, and made durable, before older ones go: whenever this
// process dies, the token has one or the other. Marks of other installations stay.
//
// Whatever the token answers is no reason to end this worker (class Faulty): an HSM that refuses data objects, or a full disk, can sign as before.
func (t *token) putMark(m wire.Mark) (err error) {
	defer func() {
		if err != nil {
			err = &failure{wire.Faulty, "the token does not take the mark", err}
		}
	}()
	h, err := t.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return calling("C_OpenSession", err)
	}
	defer t.ctx.CloseSession(h)
	var older []pkcs11.ObjectHandle
	there := false
	if err := t.eachMark(h, func(o pkcs11.ObjectHandle, k wire.Mark) {
		switch {
		case k == m:
			there = true // written by a worker that shares the token
		case k.Installation == m.Installation && k.Counter < m.Counter:
			older = append(older, o)
		}
	}); err != nil {
		return err
	}
	if !there {
		if _, err := t.ctx.CreateObject(h, []*pkcs11.Attribute{
			attribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
			attribute(pkcs11.CKA_TOKEN, true),
			attribute(pkcs11.CKA_PRIVATE, true),
			attribute(pkcs11.CKA_MODIFIABLE, false),
			attribute(pkcs11.CKA_LABEL, markLabel),
			attribute(pkcs11.CKA_APPLICATION, "sealkeeper"),
			attribute(pkcs11.CKA_VALUE, m.Bytes()),
		}); err != nil {
			return calling("C_CreateObject", err)
		}
		if t.sync != nil {
			if err := t.sync(); err != nil {
				return err
			}
		}
	}
	for _, o := range older {
		_ = t.ctx.DestroyObject(h, o) // the highest counts: one that stays does no harm, and goes the next time
	}
	return nil
}
