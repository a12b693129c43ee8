package main

import (
	"encoding/json"
	"testing"

	"sealkeeper/internal/fuzzing"
)

func FuzzFenceRequest(f *testing.F) {
	seed := `{"v":1,"registry":"{}","journal_size":7,"journal_root":"ab","lost":["Lost: 3 of 10 journal entries."]}`
	fuzzing.Run(f, fuzzing.Options{}, fuzzing.Strings(seed), func(t *testing.T, in []byte) bool {
		r, err := parseFenceRequest(in)
		if err != nil {
			return false
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseFenceRequest(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
		return true
	})
}
