package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"testing"

	"sealkeeper/internal/fuzzing"
)

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestFramesComeBackAsTheyWere(t *testing.T) {
	hello := Hello{Module: "m", Token: "t", Serial: "s", PIN: []byte("1234"), Sessions: 2, Copies: true,
		Keys:   []Key{{ID: "ds-1", CKAID: []byte{1}, Purpose: "mdoc", Algorithm: "ES256", SPKI: bytes.Repeat([]byte{2}, 90), Copies: true}},
		Secret: []Wrapped{{CKAID: []byte{3}, Blob: []byte{4}}}}
	big := Request{ID: 1 << 60, Op: OpSign, Sign: []Sign{{KeyID: "k", Purpose: "p", TBS: bytes.Repeat([]byte{7}, 1<<20)}}}
	resp := Response{ID: 9, Class: Faulty, Error: "e", Results: []Result{{Signature: []byte{1}}, {Class: Stop, Error: "x"}}}
	a, b := net.Pipe()
	go func() {
		for _, v := range []any{hello, big, resp} {
			if err := Write(a, v); err != nil {
				t.Error(err)
			}
		}
		a.Close()
	}()
	r := bufio.NewReader(b)
	var h Hello
	var q Request
	var p Response
	for _, v := range []any{&h, &q, &p} {
		if err := Read(r, v); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(h, hello) || !reflect.DeepEqual(q, big) || !reflect.DeepEqual(p, resp) {
		t.Fatalf("%+v %+v", h, p)
	}
	if err := Read(r, &p); err != io.EOF {
		t.Fatalf("closed between frames: %v", err)
	}
}

func TestReadingLeavesNoPINInTheBuffer(t *testing.T) {
	var w bytes.Buffer
	if err := Write(&w, Hello{PIN: []byte("TheSecretPIN")}); err != nil {
		t.Fatal(err)
	}
	under := w.Bytes()
	r := bufio.NewReader(bytes.NewReader(under))
	r.Peek(len(under))
	seen, _ := r.Peek(len(under)) // the reader's own memory
	var h Hello
	if err := Read(r, &h); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(seen, []byte("PIN")) || string(h.PIN) != "TheSecretPIN" {
		t.Fatalf("left in the buffer: %q", seen)
	}
}

func TestBadFramesAreRefused(t *testing.T) {
	many := append([]byte{0xa1, 0x03, 0x99, 0xff, 0xff}, bytes.Repeat([]byte{0xa0}, 0xffff)...)
	for name, b := range map[string][]byte{
		"larger than MaxFrame": binary.BigEndian.AppendUint32(nil, MaxFrame+1),
		"empty":                frame(nil),
		"cut header":           {0, 0},
		"cut body":             frame([]byte{0xa1, 0x01, 0x05})[:6],
		"unknown field":        frame([]byte{0xa1, 0x18, 0x63, 0x05}),
		"field name":           frame([]byte{0xa1, 0x62, 'I', 'D', 0x05}),
		"duplicate key":        frame([]byte{0xa2, 0x01, 0x05, 0x01, 0x05}),
		"indefinite map":       frame([]byte{0xbf, 0x01, 0x05, 0xff}),
		"tag":                  frame([]byte{0xc1, 0xa1, 0x01, 0x05}),
		"trailing byte":        frame([]byte{0xa1, 0x01, 0x05, 0x00}),
		"too many items":       frame(many),
		"wrong type":           frame([]byte{0xa1, 0x01, 0x61, 'x'}),
	} {
		var q Request
		err := Read(bufio.NewReader(bytes.NewReader(b)), &q)
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Write(io.Discard, Request{Sign: []Sign{{TBS: make([]byte, MaxFrame)}}}); err == nil {
		t.Error("a frame larger than MaxFrame was written")
	}
}

// What is read, written again, is read as the same. The daemon's side reads Ready and Response, the worker's Hello and Request.
func fuzzRead(f *testing.F, seeds []any, kinds ...any) {
	var bodies [][]byte
	for _, v := range seeds {
		var b bytes.Buffer
		Write(&b, v)
		bodies = append(bodies, b.Bytes())
	}
	fuzzing.Run(f, fuzzing.Options{}, bodies, func(t *testing.T, data []byte) (accepted bool) {
		for _, kind := range kinds {
			v := reflect.New(reflect.TypeOf(kind)).Interface()
			if Read(bufio.NewReader(bytes.NewReader(data)), v) != nil {
				continue
			}
			accepted = true
			var b bytes.Buffer
			if err := Write(&b, v); err != nil {
				t.Fatal(err)
			}
			x := bytes.Clone(b.Bytes())
			again := reflect.New(reflect.TypeOf(kind)).Interface()
			if err := Read(bufio.NewReader(&b), again); err != nil {
				t.Fatal(err)
			}
			var y bytes.Buffer
			Write(&y, again)
			if !bytes.Equal(x, y.Bytes()) {
				t.Fatal("changed on the way")
			}
		}
		return accepted
	})
}

func FuzzReadByWorker(f *testing.F) {
	key := Key{ID: "ds-1", CKAID: []byte{1}, Purpose: "mdoc", Algorithm: "ES256", SPKI: make([]byte, 91), Copies: true}
	fuzzRead(f, []any{Hello{PIN: []byte("1")}, Hello{Module: "m", Token: "t", PIN: []byte("1"), Keys: []Key{key, key}, Sessions: 2, Secret: []Wrapped{{CKAID: []byte{1}, Blob: []byte{2}}}},
		Request{ID: 1, Op: OpSign, Sign: []Sign{{}}}, Request{ID: 1 << 40, Op: OpSign, Sign: []Sign{{KeyID: "k", Purpose: "p", TBS: make([]byte, 300)}, {KeyID: "k"}}},
		Request{ID: 2, Op: OpGenerate, Generate: &Generate{Label: "l", Algorithm: "ES256"}}, Request{ID: 3, Op: OpDerive, Label: "l"},
		Request{ID: 4, Op: OpMark, Mark: Mark{Counter: 1}.Bytes()}}, Hello{}, Request{})
}

func FuzzReadByDaemon(f *testing.F) {
	fuzzRead(f, []any{Ready{Serial: "s"}, Ready{Class: Stop, Error: "e"}, Response{Results: []Result{{}}}, Response{ID: 1 << 40, Results: []Result{{Signature: make([]byte, 64)}, {Class: Session, Error: "e"}}},
		Response{ID: 1, Secret: make([]byte, 32)}, Response{CKAID: []byte{1}, SPKI: make([]byte, 91), Blob: []byte{2}},
		Response{ID: 2, Marks: [][]byte{Mark{Counter: 1}.Bytes(), Mark{Counter: 1 << 60}.Bytes()}}}, Ready{}, Response{})
}

// Memory that was given back holds what comes next, and nothing else does.
func TestMemoryIsUsedAgainOnlyWhenGivenBack(t *testing.T) {
	read := func(tbs string) *Request {
		var b bytes.Buffer
		if err := Write(&b, Request{Op: OpSign, Sign: []Sign{{TBS: []byte(tbs)}, {TBS: []byte(tbs + tbs)}}}); err != nil {
			t.Fatal(err)
		}
		r := new(Request)
		if err := Read(bufio.NewReader(&b), r); err != nil {
			t.Fatal(err)
		}
		if string(r.Sign[0].TBS) != tbs || string(r.Sign[1].TBS) != tbs+tbs {
			t.Errorf("%q became %q and %q", tbs, r.Sign[0].TBS, r.Sign[1].TBS)
		}
		return r
	}
	kept := read("kept")
	for _, tbs := range []string{"a long one at first", "short", "", "longer again, and longer than all"} {
		r := read(tbs)
		r.Signed()
		r.Signed()
		if r.Sign[0].TBS != nil {
			t.Error("what was given back is still there")
		}
	}
	if string(kept.Sign[0].TBS) != "kept" || string(kept.Sign[1].TBS) != "keptkept" {
		t.Errorf("what was kept is %q and %q", kept.Sign[0].TBS, kept.Sign[1].TBS)
	}
}
