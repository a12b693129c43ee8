package wire

import (
	"bytes"
	"testing"

	"sealkeeper/internal/fuzzing"
)

// A mark has one encoding.
func FuzzParseMark(f *testing.F) {
	seeds := [][]byte{Mark{Counter: 1}.Bytes(), Mark{Counter: 1 << 63, Installation: [16]byte{1}, MAC: [32]byte{2}}.Bytes(), Mark{}.Bytes(), nil}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, b []byte) bool {
		m, err := ParseMark(b)
		if err == nil && (m.Counter == 0 || !bytes.Equal(m.Bytes(), b)) {
			t.Fatal("changed on the way")
		}
		return err == nil
	})
}
