package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/ledger"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
)

// written is what requests for cards write, table by table: the number of rows and a hash over them. The journal's own denials are not among it.
func (a *appliance) written() map[ledger.Table]string {
	a.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(a.Dir, "data", "ledger.db")+"?mode=ro")
	if err != nil {
		a.t.Fatal(err)
	}
	defer db.Close()
	out := map[ledger.Table]string{}
	for _, table := range []ledger.Table{ledger.TableSlots, ledger.TableReservations, ledger.TableRequests, ledger.TableBurnt, ledger.TableIndices, ledger.TableChanges,
		ledger.TableHorizons, ledger.TableCommitments, ledger.TableCharges, ledger.TableLatches, ledger.TableLines, ledger.TableLinks, ledger.TableLetters, ledger.TableEvents, ledger.TableDue} {
		rows, err := db.Query("SELECT k, v FROM " + string(table) + " ORDER BY k")
		if err != nil {
			a.t.Fatal(err)
		}
		h, n := sha256.New(), 0
		for rows.Next() {
			var k, v []byte
			if err := rows.Scan(&k, &v); err != nil {
				a.t.Fatal(err)
			}
			fmt.Fprintf(h, "%x %x\n", k, v)
			n++
		}
		if err := rows.Err(); err != nil {
			a.t.Fatal(err)
		}
		rows.Close()
		out[table] = fmt.Sprintf("%d rows, %x", n, h.Sum(nil)[:8])
	}
	return out
}

// written anew: every other way to write down a signed statement, with the refusal's end. What is signed are bytes, so none may pass for the one that was
// signed; what can't be read in one way alone is malformed before anybody looks at the signature.
func rewritten(t *testing.T, text string) map[string][2]string {
	t.Helper()
	part := strings.Split(text, ".")
	var raw [3][]byte
	for i, p := range part {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			t.Fatal(err)
		}
		raw[i] = b
	}
	with := func(i int, b []byte) string {
		p := slices.Clone(part)
		p[i] = base64.RawURLEncoding.EncodeToString(b)
		return strings.Join(p, ".")
	}
	member := func(i int, name string, v any) string {
		m := map[string]any{}
		d := json.NewDecoder(bytes.NewReader(raw[i]))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if v == nil {
			delete(m, name)
		} else {
			m[name] = v
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return with(i, b)
	}
	inside := func(i int, at string) string { return with(i, append([]byte("{"+at), raw[i][1:]...)) }
	reversed := func(i int) string { // the same members from the last to the first
		d := json.NewDecoder(bytes.NewReader(raw[i]))
		d.UseNumber()
		_, _ = d.Token()
		var members []string
		for d.More() {
			name, _ := d.Token()
			var v json.RawMessage
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			members = append(members, fmt.Sprintf("%q:%s", name, v))
		}
		slices.Reverse(members)
		return with(i, []byte("{"+strings.Join(members, ",")+"}"))
	}
	n := len(raw[2]) / 2
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[2][:n]), new(big.Int).SetBytes(raw[2][n:])})
	if err != nil {
		t.Fatal(err)
	}
	std := base64.StdEncoding.EncodeToString
	flat := fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, part[1], part[0], part[2])
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	spare := text[:len(text)-1] + string(alphabet[strings.IndexByte(alphabet, text[len(text)-1])|1]) // 64 bytes leave four bits over
	return map[string][2]string{
		"padded":                         {text + "==", "malformed"},
		"each part padded":               {std(raw[0]) + "." + std(raw[1]) + "." + std(raw[2]), "malformed"},
		"spare bits set":                 {spare, "malformed"},
		"a line end after it":            {text + "\n", "malformed"},
		"a line end in it":               {text[:20] + "\n" + text[20:], "malformed"},
		"a space before it":              {" " + text, "malformed"},
		"a fourth part":                  {text + "." + part[2], "malformed"},
		"no signature":                   {part[0] + "." + part[1] + ".", "malformed"},
		"payload detached":               {part[0] + ".." + part[2], "malformed"},
		"flattened JSON":                 {flat, "malformed"},
		"an unprotected header":          {strings.TrimSuffix(flat, "}") + `,"header":{"alg":"none"}}`, "malformed"},
		"header with spaces":             {with(0, bytes.Replace(raw[0], []byte(":"), []byte(" : "), 1)), "signature"},
		"payload with spaces":            {with(1, bytes.Replace(raw[1], []byte(":"), []byte(": "), 1)), "signature"},
		"header in another order":        {reversed(0), "signature"},
		"payload in another order":       {reversed(1), "signature"},
		"payload with a name escaped":    {with(1, bytes.Replace(raw[1], []byte(`"iss"`), []byte(`"\u0069ss"`), 1)), "signature"},
		"payload with a number as 1e0":   {with(1, bytes.Replace(raw[1], []byte(`"iat":`), []byte(`"iat":1e0,"x":`), 1)), "malformed"},
		"payload with a member twice":    {inside(1, `"sub":"x",`), "malformed"},
		"header with a member twice":     {inside(0, `"alg":"none",`), "malformed"},
		"header with alg twice, escaped": {inside(0, `"\u0061lg":"none",`), "malformed"},
		"two values":                     {with(1, append(slices.Clone(raw[1]), raw[1]...)), "malformed"},
		"a byte order mark":              {with(1, append([]byte("\xef\xbb\xbf"), raw[1]...)), "malformed"},
		"alg none":                       {member(0, "alg", "none"), "signature"},
		"alg a MAC":                      {member(0, "alg", "HS256"), "signature"},
		"alg of another curve":           {member(0, "alg", "ES384"), "signature"},
		"alg in lower case":              {member(0, "alg", "es256"), "signature"},
		"alg left out":                   {member(0, "alg", nil), "signature"},
		"typ of a JWT":                   {member(0, "typ", "JWT"), "type"},
		"typ of an event":                {member(0, "typ", evidence.LineEventType), "type"},
		"typ left out":                   {member(0, "typ", nil), "type"},
		"kid of nobody":                  {member(0, "kid", "nobody"), "key"},
		"b64":                            {member(0, "b64", false), "malformed"},
		"crit":                           {member(0, "crit", []string{"exp"}), "malformed"},
		"jwk":                            {member(0, "jwk", map[string]any{"kty": "EC"}), "malformed"},
		"jku":                            {member(0, "jku", "https://x.example"), "malformed"},
		"x5c":                            {member(0, "x5c", []string{"AA"}), "malformed"},
		"zip":                            {member(0, "zip", "DEF"), "malformed"},
		"signature as DER":               {with(2, der), "signature"},
		"signature with a zero before":   {with(2, append([]byte{0}, raw[2]...)), "signature"},
		"signature without its last":     {with(2, raw[2][:len(raw[2])-1]), "signature"},
		"signature of zeros":             {with(2, make([]byte, len(raw[2]))), "signature"},
		"r and s in each other's place":  {with(2, append(slices.Clone(raw[2][n:]), raw[2][:n]...)), "signature"},
	}
}

// Issue 4, acceptance 2: good requests by every method of the shipped programme, of two persons, on two phones and through two clients. Every
// item in the place of every other's of its kind, every item left out, aged, with each field of its binding changed, and written down in every
// other way, is refused with the code of its kind. No request reaches the HSM, and no row of the ledger is another afterwards.
func TestEveryItemInEveryPlace(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	type asked struct {
		name string
		*harness.Case
		dry, ask func(contract.IssueRequest) error
	}
	var all []asked
	vouched := time.Now()
	add := func(c, method string, p *phone.Phone, subject string) {
		of := asked{name: fmt.Sprintf("%s by %s for %s", method, c, subject), Case: a.Case(by, c, method, p, subject)}
		as, ctx := a.As(c), context.Background()
		dry, really := as.DryRun, as.Issue
		if method == "renewal" || method == "technical_refresh" {
			dry, really = as.DryRunRefresh, as.Refresh
		}
		of.dry = func(r contract.IssueRequest) error {
			d, err := dry(ctx, r)
			if err == nil && d.Result != "allowed" {
				err = fmt.Errorf("%s: %s", d.Code, d.Detail)
			}
			return err
		}
		of.ask = func(r contract.IssueRequest) error { _, err := really(ctx, client.NewKey(), r); return err }
		all = append(all, of)
	}
	held := [2]*phone.Phone{newPhone(t, 1), newPhone(t, 1)}
	for i, p := range held { // who has a card may refresh it once a lock took the mdoc
		subject := fmt.Sprint("place-held-", i)
		if _, err := a.ask(a.Case(by, "portal", "ic_chip", p, subject)); err != nil {
			t.Fatal(err)
		}
		a.Change("telecom-a", lock, subject, "telecom_lost", "")
		a.Change("telecom-a", unlock, subject, "telecom_lost", "")
	}
	for _, method := range []string{"office_qr", "ic_chip"} {
		add("ward-office-1", method, newPhone(t, 1), "place-"+method+"-1")
		add("ward-office-1", method, newPhone(t, 1), "place-"+method+"-1") // the same person's other phone
		add("ward-office-1", method, newPhone(t, 1), "place-"+method+"-2")
	}
	add("portal", "ic_chip", newPhone(t, 1), "place-portal")
	for i, method := range []string{"renewal", "technical_refresh"} {
		add("portal", method, held[i], fmt.Sprint("place-held-", i))
		add("portal", method, held[i], fmt.Sprint("place-held-", i)) // the same phone's next session
	}
	for _, c := range all {
		if err := c.dry(c.Request); err != nil {
			t.Fatalf("%s is not good: %v", c.name, err)
		}
	}
	a.settled()
	signed, rows, journal, tried := a.attempts(), a.written(), a.Operations().Journal, 0
	refused := func(c asked, name string, r contract.IssueRequest, want string) {
		t.Helper()
		tried++
		if err := c.ask(r); client.Code(err) != "evidence."+want {
			t.Errorf("%s, %s: %v, want evidence.%s", c.name, name, err, want)
		}
	}
	vouch := func() { // an officer's word is good for 90 seconds, which a slow machine needs more of
		if time.Since(vouched) < 40*time.Second {
			return
		}
		vouched = time.Now()
		for _, c := range all {
			for i, e := range c.Request.Evidence {
				if e.Kind == evidence.KindInPerson {
					c.Request.Evidence[i] = by.Say(c.Case, by.Good(c.Case, e.Kind, "1111051500"), nil)
				}
			}
		}
	}
	for n, c := range all {
		for i := range c.Request.Evidence {
			vouch()
			e := c.Request.Evidence[i]
			kind := e.Kind
			put := func(text string) contract.IssueRequest {
				r := c.Request
				r.Evidence = slices.Clone(r.Evidence)
				r.Evidence[i] = contract.EvidenceItem{Kind: kind, Token: text}
				return r
			}
			for m, other := range all {
				for _, item := range other.Request.Evidence {
					switch {
					case m != n && item.Kind == kind:
						refused(c, "with what "+other.name+" has", put(item.Token), kind+"_session")
					case m == n && item.Kind != kind:
						refused(c, item.Kind+" as "+kind, put(item.Token), kind+"_type")
					}
				}
			}
			body := by.Good(c.Case, kind, "1111051500")
			other := all[(n+1)%len(all)]
			ages := map[string]time.Duration{evidence.KindInPerson: 90 * time.Second, evidence.KindRegistryMatch: 10 * time.Minute, evidence.KindFaceMatch: 10 * time.Minute,
				evidence.KindChipRead: 5 * time.Minute, evidence.KindLineOwnership: 30 * time.Minute}
			for name, f := range map[string]struct {
				bend func(*statement.Common)
				want string
			}{
				"of no session":      {func(s *statement.Common) { s.Session = "" }, "malformed"},
				"of another session": {func(s *statement.Common) { s.Session = other.Session.ID }, "session"},
				"of nobody's":        {func(s *statement.Common) { s.Session = strings.Repeat("A", len(s.Session)) }, "session"},
				"of another person":  {func(s *statement.Common) { s.Subject = all[(n+3)%len(all)].Session.Pseudonyms[s.Issuer] }, "subject"},
				"as others know it":  {func(s *statement.Common) { s.Subject = c.Session.Pseudonyms["court"] + "A" }, "subject"},
				"by nobody":          {func(s *statement.Common) { s.Issuer = "nobody" }, "authority"},
				"by who may not": {func(s *statement.Common) {
					s.Issuer = map[bool]string{true: "register", false: "telecom-a"}[kind != evidence.KindRegistryMatch]
				}, "authority"},
				"aged": {func(s *statement.Common) { s.IssuedAt = time.Now().Add(-ages[kind] - 2*time.Second) }, "stale"},
				"expired": {func(s *statement.Common) {
					s.IssuedAt, s.Expires = time.Now().Add(-3*time.Minute), time.Now().Add(-2*time.Minute)
				}, "expired"},
				"of later": {func(s *statement.Common) {
					s.IssuedAt, s.Expires = time.Now().Add(5*time.Minute), time.Now().Add(6*time.Minute)
				}, "from_future"},
				"of before its key": {func(s *statement.Common) { s.IssuedAt = time.Date(2024, 11, 1, 0, 0, 0, 0, time.UTC) }, "key_time"},
				"with a short jti":  {func(s *statement.Common) { s.ID = "1" }, "malformed"},
			} {
				refused(c, kind+" "+name, put(by.Say(c.Case, body, f.bend).Token), kind+"_"+f.want)
			}
			for name, f := range rewritten(t, e.Token) {
				refused(c, kind+", "+name, put(f[0]), kind+"_"+f[1])
			}
			without := c.Request
			without.Evidence = slices.Delete(slices.Clone(c.Request.Evidence), i, i+1)
			refused(c, "without "+kind, without, kind+"_missing")
			twice := c.Request
			twice.Evidence = append(slices.Clone(c.Request.Evidence), e)
			refused(c, kind+" twice", twice, "kind_twice")
		}
		for m, other := range all {
			if m == n {
				continue
			}
			r := c.Request
			r.Session = other.Session.Session
			want := "session_nonce"
			if other.Client != c.Client {
				want = "session_foreign"
			}
			refused(c, "in the session of "+other.name, r, want)
			r = c.Request
			r.Proof, r.KeyAttestation = other.Request.Proof, other.Request.KeyAttestation
			if other.Client == c.Client {
				refused(c, "with the phone of "+other.name, r, "session_nonce")
			}
		}
	}
	if got := a.attempts(); got != signed {
		t.Errorf("%d refusals cost %d attempts at signatures", tried, got-signed)
	}
	for table, now := range a.written() {
		if now != rows[table] {
			t.Errorf("table %s has %s after %d refusals, and had %s", table, now, tried, rows[table])
		}
	}
	audit, err := ledger.OpenAudit(context.Background(), filepath.Join(a.Dir, "data", "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := audit.Journal(context.Background(), func(seq uint64, leaf ledger.Leaf, _ []byte) error {
		if seq >= journal && (leaf.Client != "" || leaf.Reservation != "" || leaf.Subject != nil) {
			t.Errorf("entry %d of the journal is a %s of %s", seq, leaf.Kind, leaf.Client)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := audit.Close(); err != nil {
		t.Error(err)
	}
	done := map[string]bool{}
	vouch()
	for _, c := range all {
		if err := c.dry(c.Request); err != nil {
			t.Errorf("%s, afterwards: %v", c.name, err)
		}
	}
	for _, c := range all {
		if subject := c.Session.Pseudonyms["register"]; !done[subject] {
			done[subject] = true
			if err := c.ask(c.Request); err != nil {
				t.Errorf("%s, really: %v", c.name, err)
			}
		}
	}
	if a.written()[ledger.TableReservations] == rows[ledger.TableReservations] {
		t.Error("cards were made and no reservation was seen: the comparison sees nothing")
	}
	t.Logf("%d requests refused", tried)
	a.Stop()
	a.Check()
}
