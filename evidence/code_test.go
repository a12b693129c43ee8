package evidence_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/internal/fuzzing"
)

// Fact 22: a code opens sessions for 90 seconds, for its own office and type; the officer's statement may name it instead of the session, the
// others may not; two sessions of it burn the same mark, so that one of two phones gets a card.
func TestCodes(t *testing.T) {
	w, a := newFullWorld(t)
	text, made, until := w.verifier.SealCode("office-17", "mrc", person, now, [16]byte{1})
	if !until.Equal(now.Truncate(time.Second).Add(90 * time.Second)) {
		t.Errorf("until %s", until)
	}
	refused := func(what string, err error, want string) {
		t.Helper()
		var r *evidence.Refusal
		if !errors.As(err, &r) || r.Code() != "evidence."+want {
			t.Errorf("%s: %v, want evidence.%s", what, err, want)
		}
	}
	for at, alive := range map[time.Duration]bool{0: true, 90 * time.Second: true, 91 * time.Second: false, -time.Hour: false} {
		c, err := w.verifier.OpenCode("office-17", "mrc", text, now.Truncate(time.Second).Add(at))
		if alive && (err != nil || c.Subject() != person || c.ID() != made.ID()) {
			t.Errorf("after %s: %v", at, err)
		} else if !alive {
			refused(at.String(), err, "code_expired")
		}
	}
	_, err := w.verifier.OpenCode("office-18", "mrc", text, now)
	refused("another office", err, "code_foreign")
	_, err = w.verifier.OpenCode("office-17", "mdl", text, now)
	refused("another type", err, "code_foreign")
	_, err = w.verifier.OpenCode("office-17", "mrc", text[1:], now)
	refused("cut", err, "code_malformed")

	var marks [][]evidence.Burn
	for range 2 { // two phones' sessions of one code
		nonce := w.nonce()
		thumbprint, _ := evidence.Thumbprint(w.phone.Thumbprint(0))
		sealed, _, err := w.verifier.Seal(evidence.NewSession{Client: "office-17", DocumentType: "mrc", Subject: person, Thumbprint: thumbprint, Nonce: nonce, Code: made}, now, [16]byte{2, byte(len(marks))})
		if err != nil {
			t.Fatal(err)
		}
		s, err := w.verifier.Open("office-17", "mrc", sealed)
		if err != nil {
			t.Fatal(err)
		}
		about, b := about(), evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, w.phone.Attest(w.provider, nonce, now))}
		about.Session = s
		for _, kind := range kinds {
			c := w.common(kind, s)
			if kind == evidence.KindInPerson {
				c.Session = made.ID()
			}
			b.Items = append(b.Items, a.sign(t, kind, c, body(t, kind, nonce)))
		}
		v, err := w.verifier.Verify(about, b)
		if err != nil {
			t.Fatal(err)
		}
		// That of the officer's statement too: it names the code, and so no nonce. Of the others, each is for its own session.
		second := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))[2:]
		marks = append(marks, slices.DeleteFunc(v.Burns(), func(b evidence.Burn) bool {
			return b.Kind != evidence.BurnCode && (b.Kind != evidence.BurnEvidence || !bytes.Equal(b.ID[:6], second))
		}))
		for i, kind := range kinds {
			if kind == evidence.KindInPerson {
				continue
			}
			c := w.common(kind, s)
			c.Session = made.ID()
			bent := b
			bent.Items = slices.Clone(b.Items)
			bent.Items[i] = a.sign(t, kind, c, body(t, kind, nonce))
			_, err := w.verifier.Verify(about, bent)
			refused(kind+" for the code", err, kind+"_session")
		}
		other, _ := w.session(t, person, nonce) // without the code its statement is another session's
		about.Session = other
		_, err = w.verifier.Verify(about, b)
		refused("the officer's word in another session", err, evidence.KindInPerson+"_session")
	}
	if len(marks[0]) != 2 || !slices.Equal(marks[0], marks[1]) {
		t.Errorf("two phones burn %v and %v", marks[0], marks[1])
	}
}

func FuzzCode(f *testing.F) {
	w, _ := newFullWorld(f)
	text, _, _ := w.verifier.SealCode("office-17", "mrc", person, now, [16]byte{1})
	fuzzing.Run(f, fuzzing.Options{}, fuzzing.Strings(text, ""), func(t *testing.T, in []byte) bool {
		c, err := w.verifier.OpenCode("office-17", "mrc", string(in), now)
		if (err == nil) != (string(in) == text) || (err == nil) != c.Valid() {
			t.Errorf("%q: %v", in, err)
		}
		return err == nil
	})
}
