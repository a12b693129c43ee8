package api

import (
	"errors"
	"net/http"
	"testing"

	"github.com/go-json-experiment/json"

	"sealkeeper/ca"
	"sealkeeper/contract"
)

// What the edge takes, it can write down and take again with the same meaning; what it refuses has one of the edge's codes.
func fuzzDecode[Req any](f *testing.F, limit int, valid func(*Req) string) {
	for _, b := range bodies {
		f.Add([]byte(b))
	}
	f.Add([]byte(`{"document_type":"a","subject":"b","claims":{"a":[1,2.5,null,true,"\u00e9"],"b":{"c":"d"}},"formats":["mso_mdoc"],"replace":true,"proof":"p","evidence":[{"kind":"k","token":"t"}]}`))
	f.Add([]byte(`{"claims":{"a":1,"a":2}}`))
	f.Add([]byte("{\"document_type\":\"\xff\"}"))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decode[Req](body, limit)
		if err != nil {
			var p *ca.Problem
			if !errors.As(err, &p) || edgeCodes[p.Code] == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		_ = valid(&req)
		first, err := fingerprint("/x", "c", req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(req, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode[Req](text, 2*limit)
		if err != nil {
			t.Fatalf("%v of %s", err, text)
		}
		if second, err := fingerprint("/x", "c", again); err != nil || second != first {
			t.Fatalf("another request: %s (%v)", text, err)
		}
	})
}

func FuzzDecodeIssue(f *testing.F)  { fuzzDecode[contract.IssueRequest](f, maxIssueBody, validIssue) }
func FuzzDecodeChange(f *testing.F) { fuzzDecode[contract.ChangeRequest](f, maxBody, validChange) }
func FuzzDecodeState(f *testing.F)  { fuzzDecode[contract.StateRequest](f, maxBody, validState) }
func FuzzDecodeNonce(f *testing.F)  { fuzzDecode[contract.NonceRequest](f, maxBody, validNonce) }

func FuzzAccept(f *testing.F) {
	for _, s := range []string{"", "*/*", "application/statuslist+jwt;q=0.5, */*;q=0", "a/b;q=1.0000", ",,;q=", "text/html;level=1;q=0.4", "gzip;q=0,identity"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		one := []string{s}
		if es := elements(one); len(es) > maxElements {
			t.Fatal("unbounded")
		} else {
			for _, e := range es {
				if e.q < 0 || e.q > 1000 {
					t.Fatalf("weight %d", e.q)
				}
			}
		}
		const jwt = "application/statuslist+jwt"
		// What stands there exactly with weight 1 stays acceptable, whatever follows.
		if !accepts([]string{jwt, s}, jwt) {
			t.Fatalf("%q takes away what stands there with weight 1", s)
		}
		if gzip, _ := coding(one, false); gzip {
			t.Fatal("gzip without a gzip form")
		}
		coding(one, true)
	})
}

func FuzzIdempotencyKey(f *testing.F) {
	f.Add(goodKey)
	f.Add("short")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := idempotencyKey(http.Header{"Idempotency-Key": {s}})
		if err == nil && (len(key) < 22 || len(key) > 128 || key != s) {
			t.Fatalf("took %q", s)
		}
	})
}
