package policy

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"sealkeeper/evidence"
)

var (
	subject = Pseudonym{1}
	phone1  = evidence.Key{Thumbprint: [32]byte{1}}
	phone2  = evidence.Key{Thumbprint: [32]byte{2}}
)

// scene is an issue request of the ward office in Seoul that nothing speaks against; tests alter one thing.
type scene struct {
	facts   facts
	request IssueRequest
	slot    Slot
	at      time.Time
	claims  map[string]any
	text    []byte // of the claims, where they are not to be those above
}

func aScene(typ string) *scene {
	claims := map[string]any{
		"family_name": "홍", "given_name": "길동", "birth_date": "1990-01-01", "issuing_country": "KR", "issuing_authority": "행정안전부",
		"document_number": "D-1", "expiry_date": "2036-01-14", "portrait": base64.RawURLEncoding.EncodeToString([]byte("\xff\xd8\xff\xe0 portrait")),
	}
	maps.Copy(claims, map[string]map[string]any{
		"kr-resident": {"address": "서울특별시 종로구 세종대로 209", "age_over_19": true, "issue_date": "2026-01-15"},
		"eu-pid": {"place_of_birth": map[string]any{"locality": "Seoul", "country": "KR"}, "nationality": []any{"KR"},
			"resident_address": "Sejong-daero 209", "address": map[string]any{"formatted": "Sejong-daero 209"}},
		"mdl": {"issue_date": "2026-01-15", "un_distinguishing_sign": "ROK", "driving_privileges": []any{map[string]any{"vehicle_category_code": "B",
			"issue_date": "2010-05-05", "codes": []any{map[string]any{"code": "01"}}}}},
	}[typ])
	return &scene{
		facts: facts{valid: true, about: evidence.Bound{Client: "ward-office-1", DocumentType: typ, Audience: "https://ward-office-1.example", At: noon},
			keys: []evidence.Key{phone1}, Facts: evidence.Facts{Kinds: []string{"key_attestation", "proof_of_possession"}, Identity: "asserted-by-client",
				KeyStorage: []string{"iso_18045_high"}, UserAuthentication: []string{"iso_18045_high"}, AttestationIssuer: "CN=Wallet"},
			burns: []evidence.Burn{{Kind: evidence.BurnNonce, ID: [32]byte{9}}}},
		request: IssueRequest{Client: "ward-office-1", Operation: OpIssue, DocumentType: typ, Subject: subject},
		at:      noon, claims: claims,
	}
}

func (s *scene) decide(b *Bundle) (*Approval, Decision) {
	data := s.text
	if data == nil {
		var err error
		if data, err = json.Marshal(s.claims, json.Deterministic(true)); err != nil {
			panic(err)
		}
	}
	s.request.Claims = claimsIn(data)
	return b.decideIssue(s.facts, s.request, s.slot, s.at)
}

// bound is a slot that phone1 has, with credentials in both formats.
func bound(made time.Time) Slot {
	return Slot{Epoch: 3, Bound: true, Device: "d1", Keys: [][32]byte{phone1.Thumbprint}, Live: 2, MSOs: 1, Since: made, Newest: made}
}

func locked(s Slot, locks ...Lock) Slot {
	s.Locks = locks
	return s
}

func refresh(s *scene, age time.Duration) {
	s.request.Operation, s.slot = OpRefresh, bound(s.at.Add(-age))
}

const day = 24 * time.Hour

func TestIssueForEachType(t *testing.T) {
	b := load(t, "demo.json")
	for typ, want := range map[string][]Purpose{"kr-resident": {PurposeMDoc, PurposeSDJWT}, "eu-pid": {PurposeMDoc, PurposeSDJWT}, "mdl": {PurposeMDoc}} {
		s := aScene(typ)
		a, d := s.decide(b)
		allowed(t, a, d)
		i, ok := a.Issue()
		if !ok || !slices.Equal(a.purposes, want) || len(i.Formats) != len(want) || i.Subject != subject || len(i.Keys) != 1 || a.Lane() != LaneIssue ||
			a.Client() != "ward-office-1" || !a.At().Equal(noon) || len(a.Conditions().Burns) != 1 {
			t.Errorf("%s: approved %+v for %v in lane %v", typ, i, a.purposes, a.Lane())
		}
		if d.Policy != b.Hash() || d.Version != 1 || d.Identity != "asserted-by-client" || !strings.HasPrefix(d.Rules[len(d.Rules)-1], "office-issues-") {
			t.Errorf("%s: explained as %+v", typ, d)
		}
		if !slices.IsSortedFunc(i.Values, func(a, b Value) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%s: values are not in order", typ)
		}
	}
}

func TestIssueCarriesTheSchema(t *testing.T) {
	b := load(t, "demo.json")
	a, d := aScene("eu-pid").decide(b)
	allowed(t, a, d)
	i, _ := a.Issue()
	var got []string
	for _, v := range i.Values {
		got = append(got, fmt.Sprintf("%s %s %s/%s %s %v %v", v.Name, v.Kind, v.Namespace, v.Element, v.SDName, v.Disclosure, v.V))
	}
	want := []string{
		"address object / address true [{formatted string  Sejong-daero 209    false}]",
		"birth_date date eu.europa.ec.eudi.pid.1/birth_date birthdate true 1990-01-01",
	}
	if !slices.Equal(got[:2], want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got[:2], "\n"), strings.Join(want, "\n"))
	}
	for _, v := range i.Values {
		if v.Name == "issuing_country" && v.Disclosure || v.Name == "resident_address" && v.SDName != "" || v.Name == "nationality" && v.SDName != "nationalities" {
			t.Errorf("misplaced: %+v", v)
		}
	}
	if i.VCT != "urn:eudi:pid:1" || i.DocType != "eu.europa.ec.eudi.pid.1" || i.Lifetime != 30*day || i.TimeGrain != day || i.Decoys != 4 || !i.WaitRevoked {
		t.Errorf("got %+v", i)
	}
}

// Requirements 6, 15, 17, 22, 23, 25 and part b: what is refused, by which code, and in which order of importance.
func TestIssueIsRefused(t *testing.T) {
	telecom, court := Lock{Reason: "telecom_lost", Class: "telecom"}, Lock{Reason: "court", Class: "court"}
	b := load(t, "demo.json")
	for name, c := range map[string]struct {
		alter func(*scene)
		code  string // empty: allowed
		rule  string
	}{
		// I3: one device
		"second phone":               {func(s *scene) { s.slot = bound(noon); s.facts.keys = []evidence.Key{phone2} }, "slot.occupied", "I:one-device"},
		"second phone replaces":      {func(s *scene) { s.slot = bound(noon); s.facts.keys = []evidence.Key{phone2}; s.request.Replace = true }, "", ""},
		"replace with nothing bound": {func(s *scene) { s.request.Replace = true }, "", ""},
		"same phone without replace": {func(s *scene) { s.slot = bound(noon) }, "slot.occupied", "I:one-device"},
		"same phone replaces itself": {func(s *scene) { s.slot = bound(noon); s.request.Replace = true }, "slot.same_device", "I:one-device"},
		"one key of the same phone": {func(s *scene) {
			s.slot = bound(noon)
			s.facts.keys = []evidence.Key{phone2, phone1}
			s.request.Replace = true
		}, "slot.same_device", "I:one-device"},
		"resuming holds the slot":       {func(s *scene) { s.slot = bound(noon); s.request.Resuming = true }, "", ""},
		"resuming does not unlock":      {func(s *scene) { s.slot = locked(bound(noon), court); s.request.Resuming = true }, "card.locked", "I:locks"},
		"expired device is still bound": {func(s *scene) { s.slot = Slot{Bound: true, Keys: [][32]byte{phone2.Thumbprint}} }, "slot.occupied", "I:one-device"},
		"lost phone is replaced": {func(s *scene) {
			s.slot = locked(bound(noon), telecom, Lock{Reason: "self_lost", Class: "holder"})
			s.facts.keys = []evidence.Key{phone2}
			s.request.Replace = true
		}, "", ""},
		"lost phone still occupies":         {func(s *scene) { s.slot = locked(bound(noon), telecom); s.facts.keys = []evidence.Key{phone2} }, "slot.occupied", "I:one-device"},
		"lost phone is not issued to again": {func(s *scene) { s.slot = locked(bound(noon), telecom); s.request.Replace = true }, "slot.same_device", "I:one-device"},
		"court blocks":                      {func(s *scene) { s.slot.Locks = []Lock{court} }, "card.locked", "I:locks"},
		"card_lost blocks a replacement": {func(s *scene) {
			s.slot = locked(bound(noon), telecom, Lock{Reason: "card_lost", Class: "card_system"})
			s.facts.keys = []evidence.Key{phone2}
			s.request.Replace = true
		}, "card.locked", "I:locks"},
		"fraud and hold block": {func(s *scene) {
			s.slot.Locks = []Lock{{Reason: "admin_hold", Class: "ministry"}, {Reason: "fraud", Class: "ministry"}}
		}, "card.locked", "I:locks"},
		"a reason that is not known blocks":  {func(s *scene) { s.slot.Locks = []Lock{{Reason: "novel", Class: "officers"}} }, "card.locked", "I:locks"},
		"invariants come before permissions": {func(s *scene) { s.slot = bound(noon); s.request.Client, s.facts.about.Client = "nobody", "nobody" }, "slot.occupied", "I:one-device"},
		"invariants come before claims":      {func(s *scene) { s.slot = bound(noon); s.claims = nil }, "slot.occupied", "I:one-device"},
		"permissions come before evidence":   {func(s *scene) { s.facts.Kinds = nil; s.request.Client, s.facts.about.Client = "nobody", "nobody" }, "client.forbidden", "D:client"},
		"evidence comes before claims":       {func(s *scene) { s.facts.Kinds = nil; s.claims = nil }, "evidence.missing", "D:evidence"},
		"claims come before rules":           {func(s *scene) { s.claims["birth_date"] = 3 }, "claims.type", "D:claims"},
		"carrier can't issue": {func(s *scene) {
			s.request.Client, s.facts.about.Client, s.facts.about.Audience = "telecom-a", "telecom-a", ""
		}, "client.forbidden", "D:client"},
		"type that nobody has":       {func(s *scene) { s.request.DocumentType, s.facts.about.DocumentType = "passport", "passport" }, "type.unknown", "D:type"},
		"format that the type lacks": {func(s *scene) { s.request.Formats = []Format{"jwt_vc"} }, "format.unavailable", "D:type"},
		"format twice":               {func(s *scene) { s.request.Formats = []Format{MDoc, MDoc} }, "format.unavailable", "D:type"},
		"one format":                 {func(s *scene) { s.request.Formats = []Format{SDJWT} }, "", ""},
		"no attestation":             {func(s *scene) { s.facts.Kinds = []string{"proof_of_possession"} }, "evidence.missing", "D:evidence"},
		"weak key storage":           {func(s *scene) { s.facts.KeyStorage = []string{"iso_18045_basic"} }, "evidence.level", "D:evidence"},
		"no key storage attested":    {func(s *scene) { s.facts.KeyStorage = nil }, "evidence.level", "D:evidence"},
		"weak user authentication":   {func(s *scene) { s.facts.UserAuthentication = []string{"iso_18045_basic"} }, "evidence.level", "D:evidence"},
		"one of several levels":      {func(s *scene) { s.facts.KeyStorage = []string{"vendor", "iso_18045_moderate"} }, "", ""},
		"too many copies":            {func(s *scene) { s.facts.keys = slices.Repeat(s.facts.keys, 5) }, "copies.too_many", "D:copies"},
		"under 17":                   {func(s *scene) { s.claims["birth_date"], s.claims["age_over_19"] = "2009-03-15", false }, "rule.resident-from-17", "resident-from-17"},
		"17th birthday, already over there": {func(s *scene) {
			s.at = noon.Add(4 * time.Hour)
			s.facts.about.At = s.at
			s.claims["birth_date"], s.claims["age_over_19"] = "2009-03-15", false
		}, "", ""},
		"before the law":                      {func(s *scene) { s.at = time.Date(2024, 12, 26, 14, 59, 59, 0, time.UTC); s.facts.about.At = s.at }, "rule.resident-since-law", "resident-since-law"},
		"first second of the law":             {func(s *scene) { s.at = time.Date(2024, 12, 26, 15, 0, 0, 0, time.UTC); s.facts.about.At = s.at }, "", ""},
		"refresh in time":                     {func(s *scene) { refresh(s, 45*day) }, "", ""},
		"refresh too early":                   {func(s *scene) { refresh(s, 45*day-1) }, "refresh.early", "D:refresh-from"},
		"refresh after a lock took the mdocs": {func(s *scene) { refresh(s, day); s.slot.Live, s.slot.MSOs = 3, 0 }, "", ""},
		"refresh after everything expired":    {func(s *scene) { refresh(s, 0); s.slot.Live, s.slot.MSOs, s.slot.Newest = 0, 0, time.Time{} }, "", ""},
		"refresh while locked":                {func(s *scene) { refresh(s, 45*day); s.slot.Locks = []Lock{telecom} }, "card.locked", "I:locks"},
		"refresh of nothing":                  {func(s *scene) { s.request.Operation = OpRefresh }, "slot.empty", "I:one-device"},
		"refresh by another phone":            {func(s *scene) { refresh(s, 45*day); s.facts.keys = []evidence.Key{phone2} }, "refresh.other_device", "I:refresh"},
		"refresh with a foreign key among":    {func(s *scene) { refresh(s, 45*day); s.facts.keys = []evidence.Key{phone1, phone2} }, "refresh.other_device", "I:refresh"},
		"refresh that replaces":               {func(s *scene) { refresh(s, 45*day); s.request.Replace = true }, "refresh.replace", "I:refresh"},
		"refresh is judged anew by claims":    {func(s *scene) { refresh(s, 45*day); delete(s.claims, "address") }, "claims.missing", "D:claims"},
	} {
		t.Run(name, func(t *testing.T) {
			s := aScene("kr-resident")
			c.alter(s)
			a, d := s.decide(b)
			if c.code == "" {
				allowed(t, a, d)
				if a.Conditions().Epoch != s.slot.Epoch {
					t.Errorf("epoch %d, judged %d", a.Conditions().Epoch, s.slot.Epoch)
				}
				return
			}
			denied(t, a, d, c.code)
			if !slices.Contains(d.Rules, c.rule) || d.Policy != b.Hash() {
				t.Errorf("determined by %v, want %s", d.Rules, c.rule)
			}
		})
	}
}

func TestRefreshWithNewlyAttestedKeysWhereTheTypeSaysSo(t *testing.T) {
	b := load(t, "demo.json")
	s := aScene("eu-pid")
	refresh(s, 0)
	s.facts.keys = []evidence.Key{phone2}
	a, d := s.decide(b) // whoever's keys they are
	denied(t, a, d, "refresh.other_device")
	s.facts.Previous = [32]byte{3}
	a, d = s.decide(b)
	denied(t, a, d, "refresh.other_device")
	s.facts.Previous = phone1.Thumbprint
	a, d = s.decide(b)
	allowed(t, a, d)
	s = aScene("eu-pid")
	s.request.Formats = []Format{MDoc}
	a, d = s.decide(b)
	denied(t, a, d, "rule.pid-in-both-formats")
}

// What the conductor brings without a fault can't look like these: nothing is decided, and nothing allowed.
func TestFactsThatDoNotBelongTogetherFail(t *testing.T) {
	b := load(t, "demo.json")
	for name, alter := range map[string]func(*scene){
		"no evidence":         func(s *scene) { s.facts = facts{} },
		"no keys":             func(s *scene) { s.facts.keys = nil },
		"of another client":   func(s *scene) { s.facts.about.Client = "telecom-a" },
		"for another type":    func(s *scene) { s.facts.about.DocumentType = "mdl" },
		"for another issuer":  func(s *scene) { s.facts.about.Audience = "https://ward-office-2.example" },
		"at another instant":  func(s *scene) { s.at = noon.Add(time.Second) },
		"at no instant":       func(s *scene) { s.at, s.facts.about.At = time.Time{}, time.Time{} },
		"no subject":          func(s *scene) { s.request.Subject = Pseudonym{} },
		"another operation":   func(s *scene) { s.request.Operation = OpLock },
		"no operation at all": func(s *scene) { s.request.Operation = "" },
	} {
		s := aScene("kr-resident")
		alter(s)
		if a, d := s.decide(b); a != nil || d.Result != Failed || d.Code != "policy.facts" {
			t.Errorf("%s: %v %s", name, d.Result, d.Code)
		}
	}
	if a, d := aScene("kr-resident").decide(nil); a != nil || d.Result != Failed {
		t.Errorf("without a bundle: %v", d.Result)
	}
	s := aScene("kr-resident")
	s.decide(b)
	for name, v := range map[string]*evidence.Verified{"nil": nil, "zero": {}} {
		if a, d := b.DecideIssue(v, s.request, s.slot, noon); a != nil || d.Result != Failed || d.Code != "policy.facts" {
			t.Errorf("%s Verified: %v %s", name, d.Result, d.Code)
		}
	}
}

// The zero value of an approval, and a nil one, allow nothing.
func TestZeroApprovalAllowsNothing(t *testing.T) {
	for _, a := range []*Approval{nil, {}, {kind: KindIssue}, {decision: Decision{Result: Allowed}}} {
		if a.Valid() || a.Kind() != "" || a.Allows(PurposeMDoc) || a.Allows("") {
			t.Errorf("%+v allows something", a)
		}
	}
}

func TestBatchesDoNotUseTheLaneOfSingleIssues(t *testing.T) {
	b := load(t, "demo.json")
	for copies, lane := range map[int]Lane{1: LaneIssue, 2: LaneIssue, 3: LaneBatch} {
		s := aScene("kr-resident")
		s.facts.keys = slices.Repeat(s.facts.keys, copies)
		a, d := s.decide(b)
		allowed(t, a, d)
		if a.Lane() != lane {
			t.Errorf("%d copies in two formats: lane %v, want %v", copies, a.Lane(), lane)
		}
	}
}

// S2: the technical validity ends with the document, in the document's time zone.
func TestNoCredentialOutlivesItsDocument(t *testing.T) {
	b := load(t, "demo.json")
	for expiry, want := range map[string]time.Duration{
		"2026-06-12": 90 * day,              // 90 days from noon UTC (21:00 in Seoul) on 14 March are within 12 June
		"2026-06-11": 90*day - 21*time.Hour, // midnight in Seoul
		"2026-03-14": 3 * time.Hour,         // today
		"2026-03-13": 0,                     // yesterday
		"1990-01-01": 0,                     // long ago
	} {
		s := aScene("kr-resident")
		s.claims["expiry_date"] = expiry
		a, d := s.decide(b)
		if want == 0 {
			denied(t, a, d, "claims.value")
			continue
		}
		allowed(t, a, d)
		if i, _ := a.Issue(); i.Lifetime != want {
			t.Errorf("%s: %v, want %v", expiry, i.Lifetime, want)
		}
	}
}

// change is one report. The test words are those of the requirements: lost, found.
func change(b *Bundle, client string, op Operation, reason string, s Slot, device string) (*Approval, Decision) {
	return b.DecideChange(ChangeRequest{Client: client, Operation: op, DocumentType: "kr-resident", Subject: subject, Reason: reason, Device: device}, s, noon)
}

// Requirements 23 to 26 and b3: who may add and remove which reason, and what late and doubled reports do.
func TestChange(t *testing.T) {
	b := load(t, "demo.json")
	telecom, self, court := Lock{Reason: "telecom_lost", Class: "telecom", By: "telecom-a"}, Lock{Reason: "self_lost", Class: "holder"}, Lock{Reason: "court", Class: "court"}
	phone := bound(noon)
	for name, c := range map[string]struct {
		client string
		op     Operation
		reason string
		slot   Slot
		device string
		want   string // effect or code
	}{
		"lost":                              {"telecom-a", OpLock, "telecom_lost", phone, "", "apply"},
		"lost, naming the phone":            {"telecom-a", OpLock, "telecom_lost", phone, "d1", "apply"},
		"lost twice":                        {"telecom-a", OpLock, "telecom_lost", locked(phone, telecom), "", "none"},
		"lost while court holds it":         {"telecom-a", OpLock, "telecom_lost", locked(phone, court), "", "apply"},
		"lost after it was replaced":        {"telecom-a", OpLock, "telecom_lost", phone, "d0", "none"},
		"lost without a phone":              {"telecom-a", OpLock, "telecom_lost", Slot{}, "", "slot.empty"},
		"lost phone after its revocation":   {"telecom-a", OpLock, "telecom_lost", Slot{}, "d1", "none"},
		"found":                             {"telecom-a", OpUnlock, "telecom_lost", locked(phone, self, telecom), "", "apply"},
		"found before lost":                 {"telecom-a", OpUnlock, "telecom_lost", phone, "", "none"},
		"found after it was replaced":       {"telecom-a", OpUnlock, "telecom_lost", locked(phone, telecom), "d0", "none"},
		"found without a phone":             {"telecom-a", OpUnlock, "telecom_lost", Slot{}, "", "none"},
		"carrier lifts the court's":         {"telecom-a", OpUnlock, "court", locked(phone, court), "", "reason.forbidden"},
		"carrier adds a court order":        {"telecom-a", OpLock, "court", phone, "", "reason.forbidden"},
		"carrier can't revoke":              {"telecom-a", OpRevoke, "fraud", phone, "", "client.forbidden"},
		"desk lifts the carrier's":          {"loss-desk", OpUnlock, "telecom_lost", locked(phone, telecom), "", "reason.forbidden"},
		"desk lifts its own":                {"loss-desk", OpUnlock, "self_lost", locked(phone, self, telecom), "", "apply"},
		"reason of another class":           {"ministry", OpUnlock, "fraud", locked(phone, Lock{Reason: "fraud", Class: "officers"}), "", "lock.other_authority"},
		"same reason by both classes":       {"ministry", OpUnlock, "fraud", locked(phone, Lock{Reason: "fraud", Class: "ministry"}, Lock{Reason: "fraud", Class: "officers"}), "", "apply"},
		"second class adds the same reason": {"ministry", OpLock, "fraud", locked(phone, Lock{Reason: "fraud", Class: "officers"}), "", "apply"},
		"hold before any phone":             {"ministry", OpLock, "admin_hold", Slot{}, "", "apply"},
		"unknown reason":                    {"ministry", OpLock, "mood", phone, "", "reason.unknown"},
		"revocation reason is no lock":      {"ministry", OpLock, "deceased", phone, "", "reason.unknown"},
		"lock reason is no revocation":      {"loss-desk", OpRevoke, "self_lost", phone, "", "reason.unknown"},
		"user asks":                         {"loss-desk", OpRevoke, "user_request", locked(phone, telecom), "", "apply"},
		"revoked twice":                     {"loss-desk", OpRevoke, "user_request", Slot{Epoch: 4}, "", "none"},
		"revoke the phone of before":        {"loss-desk", OpRevoke, "user_request", phone, "d0", "none"},
		"desk declares somebody dead":       {"loss-desk", OpRevoke, "deceased", phone, "", "reason.forbidden"},
		"auditor only looks":                {"auditor", OpLock, "admin_hold", phone, "", "client.forbidden"},
		"ward office only issues":           {"ward-office-1", OpLock, "self_lost", phone, "", "client.forbidden"},
		"nobody":                            {"nobody", OpLock, "self_lost", phone, "", "client.forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			a, d := change(b, c.client, c.op, c.reason, c.slot, c.device)
			if c.want != "apply" && c.want != "none" {
				denied(t, a, d, c.want)
				return
			}
			allowed(t, a, d)
			got, ok := a.Change()
			if !ok || got.Effect != c.want || a.Conditions().Epoch != c.slot.Epoch || a.Lane() != LaneLock || a.Allows(PurposeList) || got.Device != c.device {
				t.Errorf("approved %+v, lane %v", got, a.Lane())
			}
			if isLock := c.op != OpRevoke; isLock != (got.Lock.Reason == c.reason) || isLock == (got.Reason == c.reason) {
				t.Errorf("approved %+v", got)
			}
		})
	}
}

// Two plastic cards are lost and the first that is found takes the lock with it: the second is found all the same.
func TestTheSecondLostCardIsFound(t *testing.T) {
	b := load(t, "kr-resident.json")
	lost := Lock{Reason: "card_lost", Class: "card_system"}
	both := bound(noon)
	both.Stopped = []string{"a", "b"}
	one := bound(noon)
	one.Stopped = []string{"b"}
	for name, c := range map[string]struct {
		card string
		slot Slot
		want string // effect or code
	}{
		"the first":                         {"a", locked(both, lost), "apply"},
		"the second":                        {"b", one, "apply"},
		"the second, and there is no phone": {"b", Slot{Stopped: []string{"b"}}, "apply"},
		"one that is not lost":              {"a", one, "none"},
		"none in particular":                {"", one, "none"},
		"another authority's":               {"b", locked(one, Lock{Reason: "card_lost", Class: "ministry"}), "lock.other_authority"},
		"of somebody who is closed":         {"b", Slot{Closed: "deceased", Stopped: []string{"b"}}, "none"},
	} {
		a, d := b.DecideChange(ChangeRequest{Client: "card-system", Operation: OpUnlock, DocumentType: "kr-resident", Subject: subject, Reason: "card_lost", Card: c.card}, c.slot, noon)
		got := d.Code
		if a != nil {
			change, _ := a.Change()
			got = change.Effect
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestChangeOfNobodyFails(t *testing.T) {
	b := load(t, "demo.json")
	r := ChangeRequest{Client: "telecom-a", Operation: OpLock, DocumentType: "kr-resident", Subject: subject, Reason: "telecom_lost"}
	for name, alter := range map[string]func(*ChangeRequest){
		"no subject": func(r *ChangeRequest) { r.Subject = Pseudonym{} }, "issue": func(r *ChangeRequest) { r.Operation = OpIssue },
	} {
		r := r
		alter(&r)
		if a, d := b.DecideChange(r, bound(noon), noon); a != nil || d.Result != Failed || d.Code != "policy.facts" {
			t.Errorf("%s: %v %s", name, d.Result, d.Code)
		}
	}
	r.DocumentType = "passport"
	a, d := b.DecideChange(r, bound(noon), noon)
	denied(t, a, d, "type.unknown")
	if a, d := (*Bundle)(nil).DecideChange(r, bound(noon), noon); a != nil || d.Result != Failed {
		t.Errorf("without a bundle: %v", d.Result)
	}
}

// Whatever the state of the card, its own authority's lock gets through; and no class ever removes another's.
func TestLocksAreASetOfReasonsWithOwners(t *testing.T) {
	b := load(t, "demo.json")
	type authority struct {
		client, class, by string
		reasons           []string
	}
	authorities := []authority{{"telecom-a", "telecom", "telecom-a", []string{"telecom_lost"}}, {"loss-desk", "holder", "", []string{"self_lost"}}, {"ministry", "ministry", "", []string{"admin_hold", "fraud"}}}
	lock := rapid.Custom(func(t *rapid.T) Lock {
		return Lock{Reason: rapid.SampledFrom(slices.Concat(deviceLocks, subjectLocks)).Draw(t, "reason"), Class: rapid.SampledFrom(classes).Draw(t, "class"),
			By: rapid.SampledFrom([]string{"", "telecom-a", "telecom-b"}).Draw(t, "carrier")}
	})
	rapid.Check(t, func(t *rapid.T) {
		s := locked(bound(noon), rapid.SliceOfDistinct(lock, func(l Lock) Lock { return l }).Draw(t, "locks")...)
		s.Epoch = rapid.Uint64().Draw(t, "epoch")
		who := rapid.SampledFrom(authorities).Draw(t, "who")
		mine := Lock{Reason: rapid.SampledFrom(who.reasons).Draw(t, "mine"), Class: who.class, By: who.by}
		a, d := change(b, who.client, OpLock, mine.Reason, s, "")
		if c, ok := a.Change(); !ok || c.Lock != mine || (c.Effect == "none") != slices.Contains(s.Locks, mine) {
			t.Fatalf("lock %v on %v: %v %s", mine, s.Locks, d.Result, d.Code)
		}
		other := lock.Draw(t, "other")
		if a, _ := change(b, who.client, OpUnlock, other.Reason, s, ""); a.Valid() {
			if c, _ := a.Change(); c.Lock.Class != who.class || c.Lock.By != who.by || c.Effect == "apply" && !slices.Contains(s.Locks, c.Lock) {
				t.Fatalf("%s removed %v from %v", who.client, c.Lock, s.Locks)
			}
		}
	})
}

// Whatever comes, an approval of an issue never breaks an invariant that the bundle can't switch off.
func TestNoApprovalBreaksAnInvariant(t *testing.T) {
	b := load(t, "demo.json")
	thumbs := rapid.SliceOfNDistinct(rapid.IntRange(1, 4), 0, 3, rapid.ID[int])
	rapid.Check(t, func(t *rapid.T) {
		s := aScene(rapid.SampledFrom([]string{"kr-resident", "eu-pid", "mdl"}).Draw(t, "type"))
		s.request.Operation = rapid.SampledFrom([]Operation{OpIssue, OpRefresh, OpLock}).Draw(t, "operation")
		s.request.Replace, s.facts.valid = rapid.Bool().Draw(t, "replace"), rapid.IntRange(0, 9).Draw(t, "valid") > 0
		s.facts.keys = nil
		for _, n := range thumbs.Draw(t, "keys") {
			s.facts.keys = append(s.facts.keys, evidence.Key{Thumbprint: [32]byte{byte(n)}})
		}
		if rapid.Bool().Draw(t, "bound") {
			s.slot = bound(noon.Add(-100 * day))
			s.slot.Keys = nil
			for _, n := range thumbs.Draw(t, "bound keys") {
				s.slot.Keys = append(s.slot.Keys, [32]byte{byte(n)})
			}
		}
		s.slot.Epoch = rapid.Uint64().Draw(t, "epoch")
		for _, r := range rapid.SliceOfDistinct(rapid.SampledFrom(slices.Concat(deviceLocks, subjectLocks)), rapid.ID[string]).Draw(t, "locks") {
			s.slot.Locks = append(s.slot.Locks, Lock{Reason: r, Class: "officers"})
		}
		a, d := s.decide(b)
		if a.Valid() != (d.Result == Allowed) || a != nil && !a.Valid() {
			t.Fatalf("approval %v beside %v", a, d.Result)
		}
		if !a.Valid() {
			return
		}
		i, _ := a.Issue()
		for _, l := range s.slot.Locks {
			if i.Operation == OpRefresh || slices.Contains(subjectLocks, l.Reason) {
				t.Fatalf("%s was approved under %v", i.Operation, l)
			}
		}
		if !s.facts.valid || len(i.Keys) == 0 || i.Operation == OpLock || a.Conditions().Epoch != s.slot.Epoch ||
			i.Operation == OpIssue && s.slot.Bound && !i.Replace || i.Operation == OpRefresh && (!s.slot.Bound || i.Replace) {
			t.Fatalf("approved %+v for %+v", i, s.slot)
		}
	})
}

func TestReadAndNonce(t *testing.T) {
	b := load(t, "demo.json")
	for client, want := range map[string][2]string{
		"ward-office-1": {"", ""}, "auditor": {"", "client.forbidden"}, "telecom-a": {"client.forbidden", "client.forbidden"},
		"loss-desk": {"", "client.forbidden"}, "nobody": {"client.forbidden", "client.forbidden"},
	} {
		read, nonce := b.DecideRead(client, "kr-resident", noon), b.DecideNonce(client, "kr-resident")
		if read.Code != want[0] || (read.Result == Allowed) != (want[0] == "") || nonce.Code != want[1] || (nonce.Result == Allowed) != (want[1] == "") {
			t.Errorf("%s: read %v %s, nonce %v %s", client, read.Result, read.Code, nonce.Result, nonce.Code)
		}
	}
	if d := b.DecideRead("auditor", "passport", noon); d.Code != "type.unknown" {
		t.Errorf("unknown type: %s", d.Code)
	}
	if d := (*Bundle)(nil).DecideRead("auditor", "mdl", noon); d.Result != Failed {
		t.Errorf("without a bundle: %v", d.Result)
	}
}

func TestAccessorsGiveCopies(t *testing.T) {
	b := load(t, "demo.json")
	c, _ := b.Client("ward-office-1")
	c.May["kr-resident"][0] = OpLock
	delete(c.May, "mdl")
	b.Types()[0].Formats[0] = "x"
	again, _ := b.Client("ward-office-1")
	if again.May["kr-resident"][0] != OpIssue || again.May["mdl"] == nil || b.Types()[0].Formats[0] != MDoc {
		t.Error("an accessor let the bundle be changed")
	}
	if _, ok := b.Client("nobody"); ok {
		t.Error("found nobody")
	}
}

func BenchmarkDecideIssue(b *testing.B) {
	bundle := load(b, "demo.json")
	s := aScene("kr-resident")
	s.decide(bundle)
	b.ReportAllocs()
	for b.Loop() {
		if a, d := bundle.decideIssue(s.facts, s.request, s.slot, s.at); a == nil {
			b.Fatal(d.Code)
		}
	}
}

// One bundle serves every connection at once. (Meant for -race.)
func TestBundleIsSharedByManyRequests(t *testing.T) {
	b := load(t, "demo.json")
	s := aScene("kr-resident")
	s.decide(b)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if a, d := b.decideIssue(s.facts, s.request, s.slot, s.at); !a.Valid() {
					t.Error(d.Code)
				}
				b.Clients()
			}
		})
	}
	all.Wait()
}

// b7: carriers are competitors. Each adds its own lock and lifts its own, however often the other was asked to; who stands above them is data.
func TestCarriersLiftTheirOwn(t *testing.T) {
	var f BundleFile
	if err := json.Unmarshal([]byte(read(t, "demo.json")), &f); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Clients, func(c ClientSpec) bool { return c.ID == "telecom-a" })
	other := f.Clients[i]
	other.ID, other.Unlocks = "telecom-b", 7
	f.Clients = append(f.Clients, other)
	b := parse(t, f)
	byA, byB := Lock{Reason: "telecom_lost", Class: "telecom", By: "telecom-a"}, Lock{Reason: "telecom_lost", Class: "telecom", By: "telecom-b"}
	phone := bound(noon)
	ask := func(client string, op Operation, want string, locks ...Lock) Change {
		t.Helper()
		a, d := change(b, client, op, "telecom_lost", locked(phone, locks...), "")
		if want != "apply" && want != "none" {
			denied(t, a, d, want)
			return Change{}
		}
		allowed(t, a, d)
		c, _ := a.Change()
		charges := a.Conditions().Charges
		if c.Effect != want || (op == OpUnlock && want == "apply" && client != "ministry") != (len(charges) == 1) {
			t.Errorf("%s %s: %+v, charged %+v; want %s", client, op, c, charges, want)
		}
		return c
	}
	ask("telecom-b", OpUnlock, "lock.other_authority", byA)
	if c := ask("telecom-b", OpLock, "apply", byA); c.Lock != byB {
		t.Errorf("added %+v", c.Lock)
	}
	if c := ask("telecom-b", OpUnlock, "apply", byA, byB); c.Lock != byB || c.Any {
		t.Errorf("lifted %+v", c)
	}
	ask("telecom-a", OpUnlock, "lock.other_authority", byB)
	ask("telecom-a", OpUnlock, "lock.other_authority", Lock{Reason: "telecom_lost", Class: "telecom"})
	ask("telecom-a", OpUnlock, "none")
	ask("ministry", OpUnlock, "reason.forbidden", byA)
	a, _ := change(b, "telecom-b", OpUnlock, "telecom_lost", locked(phone, byB), "")
	if c := a.Conditions().Charges; c[0] != (Charge{Budget: UnlockBudget, Whom: "telecom-b", Window: time.Hour, Limit: 7}) {
		t.Errorf("charged %+v", c)
	}

	f.UnlockReasons = map[string][]string{"telecom_lost": {"ministry"}}
	b = parse(t, f)
	if c := ask("ministry", OpUnlock, "apply", byA, byB); !c.Any {
		t.Errorf("a higher authority lifts %+v", c)
	}
	ask("ministry", OpUnlock, "none")
	ask("ministry", OpLock, "reason.forbidden")
	ask("loss-desk", OpUnlock, "reason.forbidden", byA)
	// What came back from published lists after a restore is nobody's to add, and theirs to lift whom the bundle names.
	f.UnlockReasons["restored"] = []string{"ministry"}
	b = parse(t, f)
	if a, d := change(b, "ministry", OpUnlock, "restored", locked(phone, Restored), ""); a == nil {
		t.Errorf("what was restored can't be lifted: %+v", d)
	} else if c, _ := a.Change(); !c.Any || c.Effect != "apply" {
		t.Errorf("what was restored is lifted by %+v", c)
	}
	if a, _ := change(b, "telecom-a", OpUnlock, "restored", locked(phone, Restored), ""); a != nil {
		t.Error("a carrier lifted what was restored")
	}
	if a, _ := change(b, "ministry", OpLock, "restored", phone, ""); a != nil {
		t.Error("somebody locked for what only a restore can")
	}
	for says, bend := range map[string]func(){
		"is no reason to lock": func() { f.UnlockReasons = map[string][]string{"mood": {"ministry"}} },
		"is not known":         func() { f.UnlockReasons = map[string][]string{"court": {"king"}} },
		"a carrier alone":      func() { f.UnlockReasons, f.Clients[0].Unlocks = nil, 1 },
	} {
		bend()
		if _, err := Parse("f", text(t, f)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
