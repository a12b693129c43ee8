package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
)

var kinds = []string{evidence.KindInPerson, evidence.KindRegistryMatch, evidence.KindFaceMatch, evidence.KindChipRead, evidence.KindLineOwnership}

// authorities are one for each kind, with a key of its own and one that is switched off.
type authorities struct {
	keys map[string]*ecdsa.PrivateKey // by kind
	list []evidence.Authority
}

func newAuthorities(t testing.TB) authorities {
	a := authorities{keys: map[string]*ecdsa.PrivateKey{}}
	for _, kind := range kinds {
		key := ecKey(t, elliptic.P256())
		a.keys[kind] = key
		a.list = append(a.list, evidence.Authority{ID: "of-" + kind, Kinds: []string{kind}, Keys: []evidence.AuthorityKey{
			{ID: "k1", Public: crypto.PublicKey(&key.PublicKey), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)},
			{ID: "off", Public: crypto.PublicKey(&key.PublicKey), NotBefore: now.Add(-time.Hour), Off: true},
			{ID: "later", Public: crypto.PublicKey(&key.PublicKey), NotBefore: now.Add(time.Minute)},
			{ID: "earlier", Public: crypto.PublicKey(&key.PublicKey), NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Minute)},
		}})
	}
	return a
}

var person = [32]byte{7}

// session opens one for a person, and the nonce is the attempt's from then on.
func (w *world) session(t testing.TB, subject [32]byte, nonce string) (evidence.Session, string) {
	t.Helper()
	thumbprint, err := base64.RawURLEncoding.DecodeString(w.phone.Thumbprint(0))
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := w.verifier.Seal(evidence.NewSession{Client: "office-17", DocumentType: "mrc", Subject: subject, Thumbprint: [32]byte(thumbprint), Nonce: nonce}, now, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.verifier.Open("office-17", "mrc", text)
	if err != nil {
		t.Fatal(err)
	}
	return s, text
}

// body is a good statement of a kind.
func body(t testing.TB, kind, nonce string) any {
	switch unix := func(d time.Duration) *int64 { s := now.Add(d).Unix(); return &s }; kind {
	case evidence.KindInPerson:
		return evidence.InPerson{Officer: "officer-3", Office: "11110-1", District: "11110", Method: "qr", CardSeen: true, NotBefore: unix(-time.Minute), NotAfter: unix(time.Minute)}
	case evidence.KindRegistryMatch:
		salt, digests, err := statement.Digests([16]byte{9}, map[string]jsontext.Value{"family_name": jsontext.Value(`"Hong"`)})
		if err != nil {
			t.Fatal(err)
		}
		return evidence.RegistryMatch{District: "11110", Salt: salt, Attributes: digests, Epoch: 3, CardStatus: "valid", CardExpiry: "2030-01-01"}
	case evidence.KindFaceMatch:
		return evidence.FaceMatch{Level: "high", Liveness: 2, Algorithm: "matcher-5", Reference: "chip_photo"}
	case evidence.KindChipRead:
		return evidence.ChipRead{Passive: true, Chip: "chip_authentication", Challenge: statement.Challenge(nonce), PINVerified: true, Card: "c-1", CardExpiry: "2030-01-01"}
	}
	return evidence.LineOwnership{Line: "line-1", Subscriber: "self", LineKind: "personal"}
}

func (w *world) common(kind string, s evidence.Session) statement.Common {
	return statement.Common{Issuer: "of-" + kind, Subject: w.verifier.Pairwise("of-"+kind, s.Subject()), Session: s.ID(), ID: "0123456789abcdef-" + kind, IssuedAt: now, Expires: now.Add(time.Minute)}
}

func (a *authorities) sign(t testing.TB, kind string, c statement.Common, body any) evidence.Item {
	t.Helper()
	text, err := statement.Sign(a.keys[kind], "k1", c, body)
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Item{Kind: kind, Token: text}
}

// full is a request with a statement of every kind.
func (w *world) full(t testing.TB, a *authorities, subject [32]byte) (evidence.About, evidence.Bundle, string) {
	nonce := w.nonce()
	s, _ := w.session(t, subject, nonce)
	about, b := about(), evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, w.phone.Attest(w.provider, nonce, now))}
	about.Session = s
	for _, kind := range kinds {
		b.Items = append(b.Items, a.sign(t, kind, w.common(kind, s), body(t, kind, nonce)))
	}
	return about, b, nonce
}

func newFullWorld(t testing.TB) (*world, *authorities) {
	w, a := newWorld(t), newAuthorities(t)
	w.trust.SessionKey, w.trust.PairwiseKey, w.trust.Authorities = [32]byte{4}, [32]byte{5}, a.list
	w.verifier = evidence.NewVerifier(w.trust)
	return w, &a
}

func TestEveryKindIsAccepted(t *testing.T) {
	w, a := newFullWorld(t)
	about, b, _ := w.full(t, a, person)
	v, err := w.verifier.Verify(about, b)
	if err != nil {
		t.Fatal(err)
	}
	f := v.Facts()
	if want := append([]string{"key_attestation", "proof_of_possession"}, kinds...); !slices.Equal(f.Kinds, sorted(want)) {
		t.Errorf("kinds %v", f.Kinds)
	}
	if f.Identity != "registry:of-registry_match" || v.About().Subject != person || len(v.Burns()) != 2+len(kinds) {
		t.Errorf("identity %s, subject %x, %d burns", f.Identity, v.About().Subject, len(v.Burns()))
	}
	for _, b := range v.Burns() { // all of it was made for this nonce, by whose time it lies together
		if !bytes.Equal(b.ID[:8], v.Burns()[0].ID[:8]) {
			t.Errorf("the mark of %s is %x, the nonce's %x", b.Kind, b.ID, v.Burns()[0].ID)
		}
	}
	for _, s := range f.Statements {
		if s.Kind == evidence.KindRegistryMatch && (!s.RegistryMatch.Covers("family_name", []byte(` "Ho\u006eg" `)) ||
			s.RegistryMatch.Covers("family_name", []byte(`"Kim"`)) || s.RegistryMatch.Covers("given_name", []byte(`"Hong"`))) {
			t.Error("the register's digests don't cover what they should, or more")
		}
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

// Every item of one good request, put into every other request that differs in one thing, is refused with the code that says in what.
func TestMixAndMatchOfStatements(t *testing.T) {
	w, a := newFullWorld(t)
	about, b, nonce := w.full(t, a, person)
	other, otherBundle, _ := w.full(t, a, [32]byte{8}) // another person, another session
	session, _ := w.session(t, person, w.nonce())      // the same person's next session

	refused := func(t *testing.T, want string, items []evidence.Item) {
		t.Helper()
		bent := b
		bent.Items = items
		v, err := w.verifier.Verify(about, bent)
		var r *evidence.Refusal
		if !errors.As(err, &r) || r.Code() != "evidence."+want || v.Valid() {
			t.Errorf("got %v, want evidence.%s", err, want)
		}
	}
	swap := func(i int, item evidence.Item) []evidence.Item {
		items := slices.Clone(b.Items)
		items[i] = item
		return items
	}
	for i, kind := range kinds {
		good := w.common(kind, about.Session)
		payload := payloadOf(t, b.Items[i].Token)
		sign := func(header, claims map[string]any) evidence.Item {
			h, p := map[string]any{"typ": evidence.StatementType(kind), "kid": "k1"}, map[string]any{}
			for k, v := range payload {
				p[k] = v
			}
			merge(h, header)
			merge(p, claims)
			text, err := statement.Raw(a.keys[kind], h, p)
			if err != nil {
				t.Fatal(err)
			}
			return evidence.Item{Kind: kind, Token: text}
		}
		t.Run(kind, func(t *testing.T) {
			refused(t, kind+"_session", swap(i, otherBundle.Items[i]))
			mine := good
			mine.Subject = w.verifier.Pairwise("of-"+kind, other.Session.Subject())
			refused(t, kind+"_subject", swap(i, a.sign(t, kind, mine, body(t, kind, nonce))))
			mine = good
			mine.Session = session.ID()
			refused(t, kind+"_session", swap(i, a.sign(t, kind, mine, body(t, kind, nonce))))
			for j, second := range kinds { // another kind's statement under this kind's name, and this authority speaking of another kind
				if j != i {
					refused(t, kind+"_type", swap(i, evidence.Item{Kind: kind, Token: b.Items[j].Token}))
					foreign := w.common(second, about.Session)
					foreign.Issuer = "of-" + kind
					refused(t, second+"_authority", swap(j, as(second, a.sign(t, kind, foreign, body(t, second, nonce)))))
				}
			}
			refused(t, "kind_twice", append(slices.Clone(b.Items), b.Items[i]))
			refused(t, kind+"_expired", swap(i, sign(nil, map[string]any{"exp": now.Add(-time.Minute).Unix()})))
			refused(t, kind+"_from_future", swap(i, sign(nil, map[string]any{"iat": now.Add(61 * time.Second).Unix()})))
			refused(t, kind+"_key", swap(i, sign(map[string]any{"kid": "k9"}, nil)))
			refused(t, kind+"_key_off", swap(i, sign(map[string]any{"kid": "off"}, nil)))
			refused(t, kind+"_key_time", swap(i, sign(map[string]any{"kid": "later"}, nil)))
			refused(t, kind+"_key_time", swap(i, sign(map[string]any{"kid": "earlier"}, nil)))
			refused(t, kind+"_authority", swap(i, sign(nil, map[string]any{"iss": "nobody"})))
			refused(t, kind+"_malformed", swap(i, sign(nil, map[string]any{"more": 1})))
			refused(t, kind+"_malformed", swap(i, sign(map[string]any{"jwk": map[string]any{}}, nil)))
			refused(t, kind+"_malformed", swap(i, sign(map[string]any{"crit": []string{"exp"}}, nil)))
			for name := range payload { // each member missing, and of another type
				if name != "reference" || kind == evidence.KindFaceMatch {
					refused(t, kind+"_malformed", swap(i, sign(nil, map[string]any{name: []int{1}})))
				}
			}
			for _, name := range []string{"iss", "sub", "session", "jti", "iat", "exp"} {
				refused(t, kind+"_malformed", swap(i, sign(nil, map[string]any{name: nil})))
			}
			// Signed by somebody else, and every other way to write the signature down.
			for _, second := range kinds {
				if second != kind {
					refused(t, kind+"_signature", swap(i, as(kind, a.sign(t, second, good, body(t, kind, nonce)))))
				}
			}
			text := b.Items[i].Token
			at := strings.LastIndexByte(text, '.') + 1
			raw, _ := base64.RawURLEncoding.DecodeString(text[at:])
			r, s := new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
			s.Sub(elliptic.P256().Params().N, s)
			high := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
			if v, err := w.verifier.Verify(about, with(b, swap(i, evidence.Item{Kind: kind, Token: text[:at] + base64.RawURLEncoding.EncodeToString(high)}))); err != nil {
				t.Errorf("(r, n − s) is a good signature too: %v", err)
			} else if good, _ := w.verifier.Verify(about, b); !slices.Equal(v.Burns(), good.Burns()) {
				t.Error("another signature under the same statement burns something else")
			}
			refused(t, kind+"_malformed", swap(i, evidence.Item{Kind: kind, Token: text + "="}))
			refused(t, kind+"_malformed", swap(i, evidence.Item{Kind: kind, Token: text + ".e30"}))
			refused(t, kind+"_signature", swap(i, evidence.Item{Kind: kind, Token: text[:at] + base64.RawURLEncoding.EncodeToString(append([]byte{0}, raw...))}))

			// The kill switch, and the client through which it comes.
			for code, bend := range map[string]func(*evidence.Authority){
				"_authority_off": func(a *evidence.Authority) { a.Off = true },
				"_scope":         func(a *evidence.Authority) { a.Clients = []string{"another"} },
			} {
				trust := w.trust
				trust.Authorities = slices.Clone(trust.Authorities)
				bend(&trust.Authorities[i])
				if _, err := evidence.NewVerifier(trust).Verify(about, b); err == nil || !strings.HasPrefix(err.Error(), "evidence."+kind+code+":") {
					t.Errorf("got %v, want %s%s", err, kind, code)
				}
			}
		})
	}
	t.Run("members that checks stand on", func(t *testing.T) {
		for i, names := range map[int][]string{0: {"district"}, 1: {"district"}, 3: {"card", "card_expiry"}, 4: {"line"}} {
			for _, name := range names {
				for _, bend := range []func(map[string]any){
					func(p map[string]any) { delete(p, name) },
					func(p map[string]any) { p[name] = nil },
					func(p map[string]any) { p[name] = "" },
				} {
					payload := payloadOf(t, b.Items[i].Token)
					bend(payload)
					text, err := statement.Raw(a.keys[kinds[i]], map[string]any{"typ": evidence.StatementType(kinds[i]), "kid": "k1"}, payload)
					if err != nil {
						t.Fatal(err)
					}
					refused(t, kinds[i]+"_malformed", swap(i, as(kinds[i], evidence.Item{Token: text})))
				}
			}
		}
	})
	t.Run("lines", func(t *testing.T) { // what no event could name is linked to no phone
		for n, good := range map[int]bool{1: true, 128: true, 129: false} {
			items := swap(4, a.sign(t, kinds[4], w.common(kinds[4], about.Session), evidence.LineOwnership{Line: strings.Repeat("l", n), Subscriber: "self", LineKind: "personal"}))
			if !good {
				refused(t, "line_ownership_malformed", items)
			} else if _, err := w.verifier.Verify(about, with(b, items)); err != nil {
				t.Errorf("a line of %d bytes: %v", n, err)
			}
		}
	})
	t.Run("districts", func(t *testing.T) {
		for i, kind := range kinds[:2] {
			trust := w.trust
			trust.Authorities = slices.Clone(trust.Authorities)
			trust.Authorities[i].Districts = []string{"26110"}
			if _, err := evidence.NewVerifier(trust).Verify(about, b); err == nil || !strings.HasPrefix(err.Error(), "evidence."+kind+"_scope:") {
				t.Errorf("an authority of one district spoke of another: %v", err)
			}
		}
	})
	t.Run("window", func(t *testing.T) {
		v := body(t, kinds[0], nonce).(evidence.InPerson)
		past := now.Add(-2 * time.Minute).Unix()
		v.NotAfter = &past
		refused(t, "in_person_window", swap(0, a.sign(t, kinds[0], w.common(kinds[0], about.Session), v)))
	})
	t.Run("challenge", func(t *testing.T) {
		refused(t, "chip_read_challenge", swap(3, a.sign(t, kinds[3], w.common(kinds[3], about.Session), body(t, kinds[3], w.nonce()))))
	})
	t.Run("without a session", func(t *testing.T) {
		plain := about
		plain.Session = evidence.Session{}
		if _, err := w.verifier.Verify(plain, b); err == nil || !strings.HasPrefix(err.Error(), "evidence.session_missing") {
			t.Error(err)
		}
	})
	t.Run("too many", func(t *testing.T) { refused(t, "too_many", slices.Repeat(b.Items, 4)) })
}

// A session opens only where it was made, and binds the proof to one nonce and one key.
func TestSessions(t *testing.T) {
	w, a := newFullWorld(t)
	about, b, _ := w.full(t, a, person)
	_, text := w.session(t, person, w.nonce())
	for i := 0; i < len(text); i += 7 {
		bent := []byte(text)
		bent[i] ^= 1
		if s, err := w.verifier.Open("office-17", "mrc", string(bent)); err == nil || s.Valid() {
			t.Errorf("a session with another character at %d opens", i)
		}
	}
	for _, c := range [][2]string{{"office-18", "mrc"}, {"office-17", "pid"}} {
		if _, err := w.verifier.Open(c[0], c[1], text); err == nil || !strings.HasPrefix(err.Error(), "evidence.session_foreign") {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", text[1:], text + "A", strings.Repeat("A", len(text))} {
		if _, err := w.verifier.Open("office-17", "mrc", bad); err == nil || !strings.HasPrefix(err.Error(), "evidence.session_malformed") {
			t.Error(err)
		}
	}
	if w.verifier.Pairwise("a", person) == w.verifier.Pairwise("b", person) || w.verifier.Pairwise("a", person) == w.verifier.Pairwise("a", [32]byte{8}) {
		t.Error("two authorities, or two persons, have one pseudonym")
	}

	for code, bend := range map[string]func(*evidence.About, *evidence.Bundle){
		"session_nonce": func(o *evidence.About, _ *evidence.Bundle) { o.Session, _ = w.session(t, person, w.nonce()) },
		"session_key": func(_ *evidence.About, b *evidence.Bundle) { // the same phone's other key
			nonce := w.nonce()
			o := about
			o.Session, _ = w.session(t, person, nonce)
			*b = evidence.Bundle{Proof: w.phone.Prove(1, audience, nonce, now, w.phone.Attest(w.provider, nonce, now))}
			about = o
		},
		"session_foreign": func(o *evidence.About, b *evidence.Bundle) {
			o.Client = "office-18"
			nonce, _ := w.verifier.Nonce("office-18", "mrc", now, [16]byte{77})
			*b = evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, w.phone.Attest(w.provider, nonce, now))}
		},
	} {
		bent := b
		bent.Items = nil
		o := about
		if _, err := w.verifier.Verify(o, bent); err != nil {
			t.Fatalf("bad before it is bent: %v", err)
		}
		saved := about
		bend(&o, &bent)
		if code == "session_key" {
			o = about
		}
		about = saved
		if _, err := w.verifier.Verify(o, bent); err == nil || !strings.HasPrefix(err.Error(), "evidence."+code+":") {
			t.Errorf("got %v, want %s", err, code)
		}
	}
	// An expired nonce makes no session; an old session is refused with its nonce.
	nonce, _ := w.verifier.Nonce("office-17", "mrc", now.Add(-time.Hour), [16]byte{3})
	if _, _, err := w.verifier.Seal(evidence.NewSession{Client: "office-17", DocumentType: "mrc", Nonce: nonce}, now, [16]byte{}); err == nil {
		t.Error("a session was made of an old nonce")
	}
	late := about
	late.At = now.Add(time.Hour)
	if _, err := w.verifier.Verify(late, b); err == nil || !strings.HasPrefix(err.Error(), "evidence.nonce_expired") {
		t.Error(err)
	}
}

func as(kind string, i evidence.Item) evidence.Item { i.Kind = kind; return i }

func with(b evidence.Bundle, items []evidence.Item) evidence.Bundle { b.Items = items; return b }

func merge(m, changes map[string]any) {
	for k, v := range changes {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
}

func payloadOf(t testing.TB, text string) map[string]any {
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// The codes that TestMixAndMatchOfStatements and TestSessions show, for the table of all.
func statementCases() (codes []string) {
	codes = []string{"session_malformed", "session_foreign", "code_malformed", "code_foreign", "code_expired", "session_nonce", "session_key", "session_missing", "too_many", "kind_twice"}
	for _, kind := range kinds {
		for _, reason := range []string{"malformed", "type", "authority", "authority_off", "scope", "key", "key_off", "key_time", "from_future", "expired", "session", "subject", "signature"} {
			codes = append(codes, kind+"_"+reason)
		}
	}
	return append(codes, "in_person_window", "chip_read_challenge")
}
