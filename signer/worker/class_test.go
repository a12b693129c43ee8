package worker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"sealkeeper/signer/wire"
)

// Every code that PKCS#11 names has one of these classes; the rest, and vendor codes, restart the worker.
func TestClassOfEveryReturnValue(t *testing.T) {
	golden := map[wire.Class]string{
		wire.Session: "50 60 82 90 91 b0 b3 101 f0 113",
		wire.Stop:    "65 a0 a1 a2 a3 a4 1b8 103 104 105 1b0 1b1",
		wire.Faulty: "7 10 11 12 13 1b 20 21 40 41 62 63 64 66 67 68 69 6a 70 71 b5 c0 c1 d0 d1 e2 f1 f2 110 112 114 115 " +
			"130 140 1b9",
	}
	want := map[uint]wire.Class{}
	for c, codes := range golden {
		for _, s := range strings.Fields(codes) {
			var n uint
			fmt.Sscanf(s, "%x", &n)
			want[n] = c
		}
	}
	if len(want) != len(classes) {
		t.Errorf("the table has %d codes, expected %d", len(classes), len(want))
	}
	for code := uint(1); code <= 0x400; code++ {
		w, ok := want[code]
		if !ok {
			w = wire.Worker
		}
		err := fmt.Errorf("C_Sign: %w", pkcs11.Error(code))
		if got := class(err); got != w {
			t.Errorf("%v: class %q, want %q", err, got, w)
		}
	}
	for err, w := range map[error]wire.Class{
		nil:                          wire.OK,
		pkcs11.Error(0x80000001):     wire.Worker,
		errors.New("something else"): wire.Worker,
		refuse(wire.Faulty, "x"):     wire.Faulty,
		&failure{wire.Stop, "x", pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)}: wire.Stop,
	} {
		if got := class(err); got != w {
			t.Errorf("%v: class %q, want %q", err, got, w)
		}
	}
}
