package signer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/ledger"
	"sealkeeper/signer/wire"
	"sealkeeper/softhsm"
)

// A token is known by its mark: each start takes the newest one and nothing else, until a person accepts another.
func TestMark(t *testing.T) {
	module, err := softhsm.FindModule("")
	if err != nil {
		t.Skip("SoftHSM is not installed: ", err)
	}
	root := t.TempDir()
	dir, ctx := filepath.Join(root, "token"), context.Background()
	must(t, softhsm.Prepare(dir))
	child := func(mode string) *exec.Cmd {
		c := exec.Command("/proc/self/exe")
		c.Env = append(append(os.Environ(), childVariable+"="+mode, "SIGNER_TEST_DIR="+dir), softhsm.Env(dir)...)
		return c
	}
	serial, err := softhsm.RunInit(child("init"), dir, module, "mark-test", []byte("so-pin-1234"), []byte("user-pin-1234"))
	must(t, err)
	l := newLedger(t, nil)
	begin := func() *Signer {
		t.Helper()
		s, err := New(ctx, Options{Ledger: l, Deadline: 5 * time.Second, Tokens: []Token{{Name: "online", Module: module, Label: "mark-test", Serial: serial, Workers: 2,
			Sessions: 2, PIN: func() ([]byte, error) { return []byte("user-pin-1234"), nil }, Command: func() *exec.Cmd { return child("worker") }}}})
		must(t, err)
		return s
	}
	s := begin()
	id, blob, err := s.NewSecret(ctx, "online")
	must(t, err)
	value, err := cbor.Marshal(wire.Wrapped{CKAID: id, Blob: blob})
	must(t, err)
	must(t, l.PutMeta(ctx, SecretMeta("online"), value))
	must(t, s.Close(ctx))

	mark := func() (uint64, error) {
		t.Helper()
		s := begin()
		defer s.Close(ctx)
		started := time.Now()
		defer func() { t.Logf("comparing and marking took %s", time.Since(started)) }()
		return s.Mark(ctx, "online")
	}
	good := func(want uint64) {
		t.Helper()
		if n, err := mark(); err != nil || n != want {
			t.Fatalf("mark %d, not %d: %v", n, want, err)
		}
	}
	keep := func(name string) { t.Helper(); must(t, exec.Command("cp", "-a", dir, filepath.Join(root, name)).Run()) }
	put := func(name string) {
		t.Helper()
		must(t, os.RemoveAll(dir))
		must(t, exec.Command("cp", "-a", filepath.Join(root, name), dir).Run())
	}
	old := func() {
		t.Helper()
		for range 2 {
			if _, err := mark(); !errors.Is(err, ErrOldToken) {
				t.Fatalf("an old token: %v", err)
			}
		}
	}

	keep("none")
	good(1)
	keep("one")
	good(2)
	keep("two")
	put("one")
	old()
	put("none")
	old()
	put("two")
	good(3) // the newest one heals
	put("two")
	old()
	if why, ahead, err := MarkFence(ctx, l, "online"); why == "" || ahead || err != nil {
		t.Fatal(why, ahead, err)
	}
	must(t, AcceptMark(ctx, l, "online"))
	good(4)
	keep("four")

	// A crash between the ledger's word and the token's leaves one of two, and either is taken.
	must(t, markRecord{Held: 4, Wanted: 5}.put(ctx, l, "online"))
	good(6)
	put("four")
	must(t, markRecord{Held: 3, Wanted: 4}.put(ctx, l, "online"))
	good(5)

	// A mark that the ledger never wrote down: the ledger is what is old.
	must(t, markRecord{Held: 3, Wanted: 3}.put(ctx, l, "online"))
	var fenced *ledger.Fenced
	if _, err := mark(); !errors.As(err, &fenced) {
		t.Fatalf("an old ledger: %v", err)
	}
	if why, ahead, err := MarkFence(ctx, l, "online"); why == "" || !ahead || err != nil {
		t.Fatal(why, ahead, err)
	}
	must(t, l.Unfence(ctx))
	must(t, AcceptMark(ctx, l, "online"))
	if why, ahead, err := MarkFence(ctx, l, "online"); why != "" || ahead || err != nil { // it is not lifted once more
		t.Fatal(why, ahead, err)
	}
	good(6)

	// Marks that somebody else makes count nothing, however high.
	s = begin()
	p, err := s.pool("online")
	must(t, err)
	forged := sealed([]byte("another key"), 1<<40)
	key, err := s.Derive(ctx, labelMark)
	must(t, err)
	forged.Installation = sealed(key[:], 1).Installation
	if answers, failed := p.each(ctx, wire.Request{Op: wire.OpMark, Mark: forged.Bytes()}, time.Minute); len(failed) > 0 || len(answers) != 2 {
		t.Fatal(failed)
	}
	must(t, s.Close(ctx))
	old()
	must(t, AcceptMark(ctx, l, "online"))
	good(7)
}

// An old token that was accepted, and then takes no mark, is accepted as it was and no older one is.
func TestAnAcceptedTokenIsAcceptedOnce(t *testing.T) {
	r := markRecord{Held: 7, Wanted: 7, Fenced: "token has mark 4 and had 7", Accepted: true}.next(4)
	if r != (markRecord{Held: 4, Wanted: 8}) {
		t.Errorf("%+v", r)
	}
	for found, want := range map[uint64]bool{3: false, 4: true, 8: true, 9: false} {
		if why, _ := r.judge("online", found, 0); (why == "") != want {
			t.Errorf("a token with mark %d: %q", found, why)
		}
	}
}

func FuzzMarkRecord(f *testing.F) {
	seeds := [][]byte{[]byte(`{"held":1,"wanted":2}`), []byte(`{"held":0,"wanted":1,"fenced":"x","ahead":true,"accepted":true}`), []byte(`{"held":3,"wanted":2}`), []byte(`{}`)}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, b []byte) bool {
		r, err := parseMarkRecord(b)
		if err == nil && r.Held > r.Wanted {
			t.Fatal(r)
		}
		return err == nil
	})
}
