package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/internal/sandbox"
)

// MaxItems bounds every array of a frame: keys of a worker, signatures of a batch.
const MaxItems = 4096

var (
	enc = func() cbor.UserBufferEncMode {
		m, err := cbor.CoreDetEncOptions().UserBufferEncMode()
		if err != nil {
			panic(err) // constant options
		}
		return m
	}()
	coreDet cbor.EncMode = enc
	// Both ends are this program, so anything that is not exactly what Write makes is a fault: nothing is skipped or guessed.
	dec = func() cbor.DecMode {
		m, err := cbor.DecOptions{
			DupMapKey:         cbor.DupMapKeyEnforcedAPF,
			ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
			IndefLength:       cbor.IndefLengthForbidden,
			TagsMd:            cbor.TagsForbidden,
			MaxArrayElements:  MaxItems,
			MaxMapPairs:       16,
			MaxNestedLevels:   4,
		}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
	// Buffers start large enough for a Hello with hundreds of keys, so that growing leaves no unwiped copy of a PIN behind.
	buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, 64<<10)) }}
)

const keep = 1 << 20 // larger buffers are not kept

func borrow() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

// giveBack wipes what was written.
func giveBack(b *bytes.Buffer) {
	Wipe(b.Bytes())
	b.Reset()
	if b.Cap() <= keep {
		buffers.Put(b)
	}
}

// WriteSecret is Write, with the encoded bytes in memory that is not swapped.
func WriteSecret(w io.Writer, v any) error {
	place, free := sandbox.Locked(64 << 10)
	defer free()
	return write(w, v, bytes.NewBuffer(place[:0]))
}

// Write writes v as one frame in one call of w.Write. The encoded bytes are wiped afterwards.
func Write(w io.Writer, v any) error {
	b := borrow()
	defer giveBack(b)
	return write(w, v, b)
}

func write(w io.Writer, v any, b *bytes.Buffer) error {
	b.Write([]byte{0, 0, 0, 0})
	if err := enc.MarshalToBuffer(v, b); err != nil {
		return fmt.Errorf("encoding %T: %w", v, err)
	}
	n := b.Len() - 4
	if n > MaxFrame {
		return fmt.Errorf("a frame of %d bytes is larger than %d: send fewer items at once", n, MaxFrame)
	}
	binary.BigEndian.PutUint32(b.Bytes(), uint32(n))
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	return nil
}

// Read reads one frame into v, which must be a pointer to a zero value. The frame is wiped from r's buffer and from the body buffer;
// v's own byte strings are copies. The error is io.EOF exactly when the peer closed between frames.
func Read(r *bufio.Reader, v any) error {
	head, err := r.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			return err
		}
		return fmt.Errorf("reading a frame: %w", err)
	}
	n := int(binary.BigEndian.Uint32(head))
	r.Discard(4)
	if n == 0 || n > MaxFrame {
		return fmt.Errorf("a frame claims %d bytes, 1 to %d are allowed", n, MaxFrame)
	}
	body := buffers.Get().(*bytes.Buffer).AvailableBuffer()
	defer func() {
		Wipe(body) // behind it nothing was written
		if cap(body) <= keep {
			buffers.Put(bytes.NewBuffer(body[:0]))
		}
	}()
	for len(body) < n {
		if _, err := r.Peek(1); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading a frame: %w", err)
		}
		part, _ := r.Peek(min(r.Buffered(), n-len(body)))
		if len(body)+len(part) > cap(body) { // memory follows what has arrived, not what the first four bytes claim
			larger := make([]byte, len(body), min(n, 2*cap(body)+len(part)))
			copy(larger, body)
			Wipe(body)
			body = larger
		}
		body = append(body, part...)
		Wipe(part)
		r.Discard(len(part))
	}
	if err := dec.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decoding %T: %w", v, err)
	}
	return nil
}

// Wipe overwrites b.
func Wipe(b []byte) { clear(b) }
