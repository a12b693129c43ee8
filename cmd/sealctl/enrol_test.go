package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/internal/fuzzing"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

var offices = policy.Enrolment{Role: "issuance", Channel: "office", Life: 86400}

func TestOfficesFromAFile(t *testing.T) {
	got, err := parseEnrolments([]byte("office,client,district,life\r\n11110,office-1,11,24h\r\n\"26440\",office-2,26,30m\r\n"), offices, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Enrolment{{ID: "office-1", Role: "issuance", Channel: "office", Office: "11110", District: "11", Life: 86400}, {ID: "office-2", Role: "issuance", Channel: "office", Office: "26440", District: "26", Life: 1800}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	ids, err := parseClients([]byte("office,client,district,life\n11110,office-1,11,24h\n26440,office-2,26,30m\n"))
	if err != nil || !reflect.DeepEqual(ids, []string{"office-1", "office-2"}) {
		t.Errorf("%v %v", ids, err)
	}
}

// A file with a mistake enrols nobody, and says in which line it is.
func TestBadFilesOfOffices(t *testing.T) {
	many := "client\n"
	for i := range policy.MaxEnrolments + 1 {
		many += fmt.Sprintf("o%d\n", i)
	}
	for name, c := range map[string]struct {
		data  string
		given string
		says  []string
	}{
		"empty":                      {"", "", []string{"line 1", "empty"}},
		"header alone":               {"client\n", "", []string{"line 2", "no client"}},
		"no header":                  {"office-1,11110\n", "", []string{"line 1", "no column", "office-1"}},
		"no column of clients":       {"role,office\nissuance,1\n", "", []string{"line 1", "no column client"}},
		"unknown column":             {"client,district,may\na,1,issue\n", "", []string{"line 1", `"may"`}},
		"column in another writing":  {"Client\na\n", "", []string{"line 1", `"Client"`}},
		"column twice":               {"client,office,office\na,1,2\n", "", []string{"line 1", "twice"}},
		"column and flag":            {"client,office\na,1\n", "office", []string{"line 1", "office", "given"}},
		"byte order mark":            {"\xef\xbb\xbfclient\na\n", "", []string{"line 1", "byte order mark"}},
		"not UTF-8":                  {"client,office\na,1\nb,\xb0\n", "", []string{"line 3", "UTF-8"}},
		"one field less":             {"client,office\na,1\nb\n", "", []string{"line 3", "number of fields"}},
		"one field more":             {"client,office\na,1\nb,2,3\n", "", []string{"line 3", "number of fields"}},
		"quote inside":               {"client,office\na,1\nb,2\"2\n", "", []string{"line 3", "quote"}},
		"quote not ended":            {"client,office\na,1\nb,\"2\n", "", []string{"line 3", "quote"}},
		"long line":                  {"client,office\na,1\nb," + strings.Repeat(",", maxEnrolLine) + "\n", "", []string{"line 3", "bytes"}},
		"value over two lines":       {"client,office\na,\"1\n2\"\n", "", []string{"line 2", "quote"}},
		"same client":                {"client,office\na,1\nb,2\na,3\n", "", []string{"line 4", "client a", "line 2"}},
		"no id":                      {"client,office\n,1\n", "", []string{"line 2", "not an id"}},
		"id with a space":            {"client,office\n a,1\n", "", []string{"line 2", "not an id"}},
		"id that leaves a directory": {"client,office\n../a,1\n", "", []string{"line 2", "not an id"}},
		"id in another alphabet":     {"client\nоffice-1\n", "", []string{"line 2", "not an id"}},
		"long id":                    {"client\n" + strings.Repeat("a", 65) + "\n", "", []string{"line 2", "not an id"}},
		"unknown role":               {"client,role\na,king\n", "", []string{"line 2", "king"}},
		"empty role":                 {"client,role\na,\n", "", []string{"line 2", "role"}},
		"office with a formula":      {"client,office\na,=1+1\n", "", []string{"line 2", "codes"}},
		"carrier of an office":       {"client,carrier\na,telecom-a\n", "", []string{"line 2", "carrier"}},
		"life without unit":          {"client,life\na,86400\n", "", []string{"line 2", "life"}},
		"life of half a second":      {"client,life\na,1.5s\n", "", []string{"line 2", "life"}},
		"life too long":              {"client,life\na,2000h\n", "", []string{"line 2", "would live"}},
		"negative life":              {"client,life\na,-24h\n", "", []string{"line 2", "would live"}},
		"too many":                   {many, "", []string{fmt.Sprint("line ", policy.MaxEnrolments+2), "at most"}},
		"several mistakes":           {"client,life\nA,24h\nb,24h\nc,x\n", "", []string{"line 2", "line 4"}},
		"more mistakes than shown":   {"client\n" + strings.Repeat("A\n", mostMistakes+7), "", []string{"line 21:", "was not read"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseEnrolments([]byte(c.data), offices, map[string]bool{c.given: true})
			if err == nil || got != nil {
				t.Fatalf("it was taken: %d clients", len(got))
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in: %s", s, err)
				}
			}
		})
	}
}

// What is taken is what officers' proposals take, and what is refused names a line.
func FuzzOffices(f *testing.F) {
	seeds := fuzzing.Strings("client,role,channel,office,district,carrier,life\noffice-1,issuance,office,11110,11,,24h\noffice-2,carrier,,,,telecom-a,30m\n", "client\na\nb\n\"c\"\n", "client,office\r\na,1\r\n",
		"client\n\"", "client,client\n", strings.Repeat(",", 64<<10), strings.Repeat("client\n", 8<<10), "client\n"+strings.Repeat("\"\"", 30<<10))
	o := fuzzing.Options{Decode: func(in []byte) { _, _ = parseEnrolments(in, offices, nil) }}
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		all, err := parseEnrolments(in, offices, nil)
		ids, idErr := parseClients(in)
		if err != nil {
			if all != nil || !strings.HasPrefix(err.Error(), "line ") {
				t.Fatalf("%d clients, %v", len(all), err)
			}
			return false
		}
		if err := policy.CheckEnrolments(all); err != nil {
			t.Fatal(err)
		}
		if idErr != nil || len(ids) != len(all) {
			t.Fatalf("%v: %d to enrol, %d to revoke", idErr, len(all), len(ids))
		}
		return true
	})
}

// Officers see of a list how many, its hash, and how it spreads, and each change of it is seen.
func TestWhatOfficersSeeOfManyOffices(t *testing.T) {
	file := "client,office,district\n"
	for i := range 3500 {
		file += fmt.Sprintf("office-%d,%05d,%d\n", i, i, 11+i%17)
	}
	all, err := parseEnrolments([]byte(file), offices, nil)
	if err != nil {
		t.Fatal(err)
	}
	var people []officer.Officer
	for _, id := range []string{"kim", "lee"} {
		key, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		people = append(people, officer.Officer{ID: id, Name: id, Role: officer.RoleOfficer, Key: key})
	}
	shown := func() string {
		r := &officer.Registry{Installation: "AAAAAAAAAAAAAAAAAAAAAA", Epoch: 1, Rules: officer.DefaultRules(), Officers: people}
		now := time.Now()
		p, err := r.Propose("kim", officer.ClientEnrol, &officer.Enrol{Clients: all, Until: now.Add(time.Hour).UTC().Truncate(time.Second), Reason: "all"}, 0, now, strings.NewReader(strings.Repeat("n", 64)))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(p.Text(), "\n")
	}
	text := shown()
	for _, s := range []string{"Enrol 3500 clients", policy.EnrolmentsDigest(all).String(), "role: issuance by channel office × 3500", "11 × 206", "27 × 205", "certificates of: 24h0m0s × 3500"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is not in: %s", s, text)
		}
	}
	all[1700].Office = "99999"
	if shown() == text {
		t.Error("another office looks the same")
	}
}

// tokens answers as the appliance does.
type tokens func(id string) (contract.TokenAnswer, error)

func (f tokens) Token(_ context.Context, r contract.TokenRequest) (contract.TokenAnswer, error) {
	return f(r.Client)
}

// A run that is repeated asks for no token whose file is there, since that would end it; clients that need none are no failure.
func TestTokensAreFetchedOnce(t *testing.T) {
	dir := t.TempDir()
	asked := make(chan string, 100)
	broken := true
	c := tokens(func(id string) (contract.TokenAnswer, error) {
		asked <- id
		switch {
		case id == "b":
			return contract.TokenAnswer{}, &client.Problem{Problem: contract.Problem{Code: "enrolment.registered", Detail: "it has"}}
		case id == "c" && broken:
			return contract.TokenAnswer{}, errors.New("lost")
		case id == "d":
			return contract.TokenAnswer{Client: "a", Token: "x"}, nil
		}
		return contract.TokenAnswer{Client: id, Token: "token of " + id, URL: "https://ra.example", Fingerprint: "ab"}, nil
	})
	fetch := func(ids ...string) fetchedTokens {
		return fetchTokens(t.Context(), c, ids, dir, false, newCount(io.Discard, len(ids)))
	}
	got := fetch("a", "b", "c", "d")
	if len(got.Tokens) != 1 || got.Tokens[0].Token != "" || len(got.Not) != 1 || len(got.Failed) != 2 {
		t.Errorf("%+v", got)
	}
	path := filepath.Join(dir, "a.token")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st, err)
	}
	if b, _ := os.ReadFile(path); string(b) != "token of a\n" {
		t.Errorf("%q", b)
	}
	broken = false
	for len(asked) > 0 {
		<-asked
	}
	got = fetch("a", "c")
	if len(got.There) != 1 || len(got.Tokens) != 1 || len(asked) != 1 || <-asked != "c" {
		t.Errorf("%+v", got)
	}
}
