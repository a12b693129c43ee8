package api

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/internal/fuzzing"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// What the edge takes, it can write down and take again with the same meaning; what it refuses has one of the edge's codes.
func fuzzDecode[Req any](f *testing.F, limit int, valid func(*Req) string) {
	seeds := fuzzing.Strings(`{"document_type":"a","subject":"b","claims":{"a":[1,2.5,null,true,"\u00e9"],"b":{"c":"d"}},"formats":["mso_mdoc"],"replace":true,"proof":"p","evidence":[{"kind":"k","token":"t"}]}`,
		`{"document_type":"a","subject":"b","claims":{"a":1},"proof":"p","proofs":["q"],"android_attestation":[["a","b","c"],["d","e","f"]]}`,
		`{"claims":{"a":1,"a":2}}`, "{\"document_type\":\"\xff\"}", `null`,
		`{"claims":{"a":[1`+strings.Repeat(",1", limit/2-20)+`]}}`, `{"`+strings.Repeat("s", limit-20)+`":1}`, // once megabytes of memory
		`{`+strings.Repeat(`"b`, limit/2-20)) // once 15 ms
	if limit > maxIssueBody {
		for _, text := range []string{"bundle", "status", "proposal", "envelope"} {
			seeds = append(seeds, []byte(`{"`+text+`":"`+strings.Repeat(`\n`, limit/4)+`"}`), []byte(`{"`+text+`":"`+strings.Repeat(`\n1234`, limit/6-3)+`"}`)) // too many escapes; as many as there may be
		}
	}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		seeds = append(seeds, []byte(bodies[name]))
	}
	o := fuzzing.Options{Longest: limit + 100, Decode: func(body []byte) {
		if req, err := decode[Req](body, limit); err == nil {
			_ = valid(&req)
		}
	}}
	fuzzing.Run(f, o, seeds, func(t *testing.T, body []byte) bool {
		req, err := decode[Req](body, limit)
		if err != nil {
			var p *ca.Problem
			if !errors.As(err, &p) || edgeCodes[p.Code] == "" {
				t.Fatalf("refused with %v", err)
			}
			return false
		}
		_ = valid(&req)
		text, err := written(&req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode[Req](text, 2*limit)
		if err != nil {
			t.Fatalf("%v of %s", err, text)
		}
		if second, err := written(&again); err != nil || !bytes.Equal(second, text) {
			t.Fatalf("another request: %s, %s (%v)", text, second, err)
		}
		return true
	})
}

// written is a request as it is hashed, if it is one with a key.
func written(req any) ([]byte, error) {
	text, err := json.Marshal(req, json.Deterministic(true))
	if r, ok := req.(canonical); ok && err == nil {
		var same []byte
		if same, err = r.AppendCanonical(nil); err == nil && !bytes.Equal(same, text) {
			err = fmt.Errorf("%s is hashed as %s", text, same)
		}
	}
	return text, err
}

func FuzzDecodeIssue(f *testing.F)  { fuzzDecode[contract.IssueRequest](f, maxIssueBody, validIssue) }
func FuzzDecodeChange(f *testing.F) { fuzzDecode[contract.ChangeRequest](f, maxBody, validChange) }
func FuzzDecodeState(f *testing.F)  { fuzzDecode[contract.StateRequest](f, maxBody, validState) }
func FuzzDecodePolicy(f *testing.F) {
	fuzzDecode[contract.PolicyRequest](f, maxPolicyBody, validPolicy)
}

func FuzzDecodePhoneStatus(f *testing.F) {
	fuzzDecode[contract.PhoneStatusRequest](f, maxStatusBody, validPhoneStatus)
}

func FuzzDecodeRenewal(f *testing.F) {
	fuzzDecode[contract.RenewalRequest](f, maxBody, validRenewal)
}

func FuzzDecodeSchedule(f *testing.F) {
	fuzzDecode[contract.ScheduleRequest](f, maxBody, validSchedule)
}

func FuzzDecodeScheduleCancel(f *testing.F) {
	fuzzDecode[contract.ScheduleCancel](f, maxBody, validCancel)
}

func FuzzDecodeAcknowledgement(f *testing.F) {
	fuzzDecode[contract.AcknowledgementRequest](f, maxBody, validAcknowledgement)
}
func FuzzDecodeCode(f *testing.F) { fuzzDecode[contract.CodeRequest](f, maxBody, validCode) }

func FuzzDecodeDecisions(f *testing.F) {
	fuzzDecode[contract.DecisionQuery](f, maxBody, validDecisions)
}

func FuzzDecodeSession(f *testing.F) {
	fuzzDecode[contract.SessionRequest](f, maxBody, validSession)
}
func FuzzDecodeNonce(f *testing.F) { fuzzDecode[contract.NonceRequest](f, maxBody, validNonce) }

func FuzzAccept(f *testing.F) {
	seeds := fuzzing.Strings("", "*/*", "application/statuslist+jwt;q=0.5, */*;q=0", "a/b;q=1.0000", ",,;q=", "text/html;level=1;q=0.4", "gzip;q=0,identity")
	o := fuzzing.Options{Longest: 16 << 10, Decode: func(in []byte) { accepts([]string{string(in)}, "a/b") }} // the header of a request has 16 KiB at most
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		s := string(in)
		one := []string{s}
		es := elements(one)
		if len(es) > maxElements {
			t.Fatal("unbounded")
		}
		for _, e := range es {
			if e.q < 0 || e.q > 1000 {
				t.Fatalf("weight %d", e.q)
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
		return len(es) > 0
	})
}

func FuzzIdempotencyKey(f *testing.F) {
	fuzzing.Run(f, fuzzing.Options{}, fuzzing.Strings(goodKey, "short", strings.Repeat("a", 128)), func(t *testing.T, in []byte) bool {
		s := string(in)
		key, err := idempotencyKey(http.Header{"Idempotency-Key": {s}})
		if err == nil && (len(key) < 22 || len(key) > 128 || key != s) {
			t.Fatalf("took %q", s)
		}
		return err == nil
	})
}

// The one name in a client's certificate is read as one role and one id, or not at all.
func FuzzClientName(f *testing.F) {
	seeds := fuzzing.Strings("urn:sealkeeper:client:issuance:office-17", "urn:sealkeeper:client:carrier:a", "urn:sealkeeper:client:officer:a", "urn:sealkeeper:client:desk:", "urn:sealkeeper:client:desk:a:b", "URN:x", "https://a/%2f")
	o := fuzzing.Options{Longest: 16 << 10} // names that our own CA signed
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		u, err := url.Parse(string(in))
		if err != nil {
			return false // then the handshake has no certificate
		}
		now := time.Unix(1_800_000_000, 0)
		leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now, URIs: []*url.URL{u}}
		who, err := caller([]*x509.Certificate{leaf})
		if err == nil && (u.String() != "urn:sealkeeper:client:"+who.Role+":"+who.ID || !slices.Contains(Roles(), who.Role) || strings.Contains(who.ID, ":")) {
			t.Fatalf("%q is %+v", in, who)
		}
		return err == nil
	})
}

func FuzzDecodePropose(f *testing.F) {
	fuzzDecode[contract.ProposeRequest](f, maxSignedBody, validPropose)
}

// The largest bundle fits a proposal, and that the body of a request, if no more than every fifth character needs an escape: of our bundles it is every seventh.
func TestLargestProposalFits(t *testing.T) {
	bundle := strings.Repeat("xxxx\"", policy.MaxFile/5)
	proposal, err := json.Marshal(map[string]string{"bundle": bundle})
	if err != nil || len(proposal) > officer.MaxProposal {
		t.Fatalf("%d bytes: %v", len(proposal), err)
	}
	full := string(proposal) + strings.Repeat("x", officer.MaxEnvelope-len(proposal))
	body, err := json.Marshal(contract.ProposeRequest{Proposal: contract.File(full)})
	if err != nil || len(body) > maxSignedBody {
		t.Fatalf("its body has %d bytes, %d are allowed: %v", len(body), maxSignedBody, err)
	}
	if r, err := decode[contract.ProposeRequest](body, maxSignedBody); err != nil || validPropose(&r) != "" {
		t.Fatal(err)
	}
}

func FuzzDecodeApproval(f *testing.F) {
	fuzzDecode[contract.ApprovalRequest](f, maxSignedBody, validApproval)
}

func FuzzDecodeProposal(f *testing.F) {
	fuzzDecode[contract.ProposalQuery](f, maxBody, validProposal)
}

func FuzzDecodeCards(f *testing.F) { fuzzDecode[contract.CardsQuery](f, maxBody, validCards) }
func FuzzDecodePace(f *testing.F)  { fuzzDecode[contract.CampaignPace](f, maxBody, validPace) }

func FuzzDecodeToken(f *testing.F) { fuzzDecode[contract.TokenRequest](f, maxBody, validToken) }

func FuzzDecodeRegister(f *testing.F) {
	fuzzDecode[contract.RegisterRequest](f, maxEnrolBody, validRegister)
}

func FuzzDecodeRenewClient(f *testing.F) {
	fuzzDecode[contract.RenewClientRequest](f, maxBody, validRenewClient)
}

func FuzzDecodeRekey(f *testing.F) {
	fuzzDecode[contract.RekeyRequest](f, maxEnrolBody, validRekey)
}
func FuzzDecodeRetire(f *testing.F) { fuzzDecode[contract.RetireRequest](f, maxBody, validRetire) }

func FuzzDecodeServer(f *testing.F) {
	fuzzDecode[contract.ServerRequest](f, maxEnrolBody, validServer)
}
