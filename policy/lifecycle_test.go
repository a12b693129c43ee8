package policy

import (
	"strings"
	"testing"
	"time"

	"sealkeeper/evidence"
)

// Which lock lets a new phone have the card by which method is data: for each reason and method of the shipped programme, that and nothing
// else is allowed. Locks that stay with the person allow none (the invariant), whatever a bundle says.
func TestReissueByReason(t *testing.T) {
	b := load(t, "kr-resident.json")
	table := map[string]map[string]string{
		"":             {"office_qr": "", "ic_chip": ""},
		"telecom_lost": {"office_qr": "", "ic_chip": ""},
		"self_lost":    {"office_qr": "", "ic_chip": ""},
		"line_changed": {"office_qr": "", "ic_chip": "reissue.method"},
		"card_lost":    {"office_qr": "card.locked", "ic_chip": "card.locked"},
		"admin_hold":   {"office_qr": "card.locked", "ic_chip": "card.locked"},
		"court":        {"office_qr": "card.locked", "ic_chip": "card.locked"},
		"fraud":        {"office_qr": "card.locked", "ic_chip": "card.locked"},
	}
	for reason, methods := range table {
		for method, want := range methods {
			s := bound(noon)
			if reason != "" {
				s.Locks = []Lock{{Reason: reason, Class: "telecom"}}
			}
			refusal := oneDevice(facts{keys: []evidence.Key{{Thumbprint: [32]byte{9}}}}, IssueRequest{Operation: OpIssue, Replace: true}, s, b.types["kr-resident"])
			if refusal == nil {
				refusal = b.types["kr-resident"].judgeLife(facts{}, IssueRequest{Operation: OpIssue, Replace: true, Method: method}, s)
			}
			got := ""
			if refusal != nil {
				got = refusal.code
			}
			if got != want {
				t.Errorf("locked by %q, %s: %q, want %q", reason, method, got, want)
			}
		}
	}
}

// S7, S8: the same word of the register makes a Korean card one to be renewed and revokes a European one; late words change nothing.
func TestAttributeChangeByJurisdiction(t *testing.T) {
	for file, revoke := range map[string]bool{"kr-resident.json": false, "eu-pid.json": true} {
		b := load(t, file)
		q := RenewRequest{Client: "ministry", DocumentType: strings.TrimSuffix(file, ".json"), Subject: subject, Reasons: []string{"name", "address", "name"}, Attributes: 5}
		a, d := b.DecideRenew(q, bound(noon), noon)
		allowed(t, a, d)
		c, _ := a.Change()
		if c.Renewal.Revoke != revoke || c.Renewal.Show == revoke || len(c.Renewal.Reasons) != 2 || c.Effect != "apply" {
			t.Errorf("%s: %+v", file, c)
		}
		for _, s := range []Slot{{Epoch: 1, Closed: "deceased"}, {Epoch: 1, Attributes: 5}} {
			a, d := b.DecideRenew(q, s, noon)
			allowed(t, a, d)
			if c, _ := a.Change(); c.Effect != "none" {
				t.Errorf("%s with %+v: %s", file, s, c.Effect)
			}
		}
		q.Reasons = nil
		a, d = b.DecideRenew(q, bound(noon), noon)
		denied(t, a, d, "reason.unknown")
		q.Reasons, q.Client = []string{"address"}, "loss-desk"
		a, d = b.DecideRenew(q, bound(noon), noon)
		denied(t, a, d, "client.forbidden")
	}
}

// A card that has to be renewed may be refreshed at once, by a method that heeds the reason and by what the register says now.
func TestRenewalIsHeeded(t *testing.T) {
	k := load(t, "kr-resident.json").types["kr-resident"]
	s := bound(noon)
	s.Newest, s.Live, s.MSOs = noon, 2, 1
	if r := k.judgeRefresh(s, noon); r == nil || r.code != "refresh.early" {
		t.Errorf("fresh: %v", r)
	}
	s.Renew, s.Attributes = []string{"photo"}, 3
	if r := k.judgeRefresh(s, noon); r != nil {
		t.Errorf("to be renewed: %v", r)
	}
	says := func(epoch uint64) facts {
		return facts{Facts: evidence.Facts{Statements: []evidence.Statement{{Kind: evidence.KindRegistryMatch, RegistryMatch: &evidence.RegistryMatch{Epoch: epoch}}}}}
	}
	for _, c := range []struct {
		method string
		epoch  uint64
		want   string
	}{{"technical_refresh", 3, "renewal.method"}, {"renewal", 2, "evidence.registry_match_outdated"}, {"renewal", 3, ""}, {"renewal", 4, ""}} {
		got := ""
		if r := k.judgeLife(says(c.epoch), IssueRequest{Operation: OpRefresh, Method: c.method}, s); r != nil {
			got = r.code
		}
		if got != c.want {
			t.Errorf("%s with epoch %d: %q, want %q", c.method, c.epoch, got, c.want)
		}
	}
}

func TestOrdersAreJudged(t *testing.T) {
	b := load(t, "kr-resident.json")
	good := OrderRequest{Client: "ministry", DocumentType: "kr-resident", Subject: subject, ID: "n", Operation: OpLock, Reason: "admin_hold", From: noon.Add(time.Hour), To: noon.Add(2 * time.Hour)}
	theirs := Order{ID: "o", Class: "court", Lock: Lock{Reason: "court", Class: "court"}, From: noon.Add(time.Hour)}
	full := Slot{Epoch: 1}
	for i := range MaxOrders {
		full.Orders = append(full.Orders, Order{ID: string(rune('a' + i)), Class: "ministry"})
	}
	for name, c := range map[string]struct {
		bend func(*OrderRequest)
		slot Slot
		want string
	}{
		"a lock":                    {nil, Slot{}, ""},
		"in the place of another":   {func(r *OrderRequest) { r.Replaces = "a" }, full, ""},
		"a ninth":                   {nil, full, "schedule.full"},
		"of another authority":      {func(r *OrderRequest) { r.Replaces = "o" }, Slot{Orders: []Order{theirs}}, "schedule.other_authority"},
		"an id of another":          {func(r *OrderRequest) { r.ID = "o" }, Slot{Orders: []Order{theirs}}, "schedule.known"},
		"not there":                 {func(r *OrderRequest) { r.Replaces = "z" }, full, "schedule.unknown"},
		"closed":                    {nil, Slot{Closed: "deceased"}, "subject.closed"},
		"never":                     {func(r *OrderRequest) { r.From = time.Time{} }, Slot{}, "schedule.time"},
		"in twenty years":           {func(r *OrderRequest) { r.To = noon.AddDate(20, 0, 0) }, Slot{}, "schedule.time"},
		"over before it is ordered": {func(r *OrderRequest) { r.From, r.To = noon.Add(-2*time.Hour), noon.Add(-time.Hour) }, Slot{}, "schedule.time"},
		"a closing":                 {func(r *OrderRequest) { r.Operation, r.Reason, r.To = OpRevoke, "deceased", time.Time{} }, Slot{}, ""},
		"a closing that ends":       {func(r *OrderRequest) { r.Operation, r.Reason = OpRevoke, "deceased" }, Slot{}, "schedule.time"},
		"a revocation":              {func(r *OrderRequest) { r.Operation, r.Reason, r.To = OpRevoke, "fraud", time.Time{} }, Slot{}, "schedule.reason"},
		"a reason of others":        {func(r *OrderRequest) { r.Reason = "court" }, Slot{}, "reason.forbidden"},
		"a phone, later":            {func(r *OrderRequest) { r.Client, r.Reason = "loss-desk", "self_lost" }, Slot{}, "schedule.reason"},
	} {
		q := good
		if c.bend != nil {
			c.bend(&q)
		}
		a, d := b.DecideOrder(q, c.slot, noon)
		if c.want == "" && a == nil || d.Code != c.want {
			t.Errorf("%s: %s %s, want %q", name, d.Code, d.Detail, c.want)
		}
	}
}

// A bundle that says something of life that can't be is refused where it stands.
func TestLifecycleIsChecked(t *testing.T) {
	for bad, says := range map[string]string{
		`"lifecycle": {"attribute_change": "ignore"}`:          "neither renew nor revoke",
		`"lifecycle": {"reissue": {"card_lost": ["ic_chip"]}}`: "stays with the person",
		`"lifecycle": {"reissue": {"self_lost": ["renewal"]}}`: "no method",
		`"lifecycle": {"renewal": {"photo": ["nowhere"]}}`:     "no method",
		`"lifecycle": {"acknowledge_within": "48h"}`:           "acknowledge_within",
	} {
		data := read(t, "kr-resident.json")
		i := strings.Index(data, `"lifecycle": {`)
		j := i + strings.Index(data[i:], "\n      },")
		_, err := Parse("kr", []byte(data[:i]+bad+data[j+len("\n      }"):]))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
