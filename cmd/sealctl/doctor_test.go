package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestMeasured(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "sealkeeper_signatures_total{key=\"ds-1\",purpose=\"mdoc\",result=\"bad\"} 0\nsealkeeper_disk_free_bytes 2e+09\nsealkeeper_disk_size_bytes 1e+10\n", ""},
		{"good signatures", "sealkeeper_signatures_total{key=\"ds-1\",purpose=\"mdoc\",result=\"ok\"} 7\n", ""},
		{"bad signature", "# HELP sealkeeper_x y\nsealkeeper_signatures_total{key=\"ds-1\",purpose=\"mdoc\",result=\"bad\"} 1\n", "critical bad-signature"},
		{"little room", "sealkeeper_disk_free_bytes 9e+08\nsealkeeper_disk_size_bytes 1e+10\n", "warning disk-filling"},
		{"no room", "sealkeeper_disk_free_bytes 2e+08\nsealkeeper_disk_size_bytes 1e+10\n", "critical disk-filling"},
	} {
		got := ""
		for _, f := range measured(c.text) {
			got += f.Severity + " " + f.Name
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What is a rate is a condition if it is beyond the alert rule's bound between two looks, and not because of what was before.
func TestHappening(t *testing.T) {
	const requests = `sealkeeper_http_requests_total{listener="issuance",route="/v1/credentials",status=`
	for _, c := range []struct{ name, before, now, want string }{
		{"nothing", requests + "\"200\"} 5\n", requests + "\"200\"} 105\n", ""},
		{"one in two hundred", requests + "\"200\"} 5\n", requests + "\"200\"} 204\n" + requests + "\"503\"} 1\n", ""},
		{"turned away", requests + "\"429\"} 5\n", requests + "\"429\"} 7\n", "overload"},
		{"turned away before", requests + "\"429\"} 5\n", requests + "\"429\"} 5\n", ""},
		{"shed", "sealkeeper_shed_total{lane=\"issue\"} 0\n", "sealkeeper_shed_total{lane=\"issue\"} 1\n", "overload"},
		{"failed", requests + "\"200\"} 5\n", requests + "\"200\"} 7\n" + requests + "\"500\"} 1\n", "issuing-fails"},
		{"undecided", "sealkeeper_decisions_total{result=\"allowed\"} 5\n", "sealkeeper_decisions_total{result=\"allowed\"} 6\nsealkeeper_decisions_total{result=\"failed\"} 1\n", "issuing-fails"},
		{"a slow disk", histogram("commit", 9, 9, 9), histogram("commit", 9, 9, 12), "ledger-slow"},
		{"a disk that was slow", histogram("commit", 9, 9, 12), histogram("commit", 12, 12, 15), ""},
		{"slow locks", histogram("lock_to_published", 9, 9, 9), histogram("lock_to_published", 9, 9, 12), "lock-slow"},
		{"locks in half a second", histogram("lock_to_published", 9, 9, 9), histogram("lock_to_published", 9, 12, 12), ""},
		{"another process", requests + "\"429\"} 9\n", requests + "\"429\"} 1\n", ""},
	} {
		look := func(text string) *sample {
			m, err := parseMetrics(text)
			if err != nil {
				t.Fatal(err)
			}
			return &sample{metrics: m}
		}
		var got []string
		for _, f := range happening(look(c.before), look(c.now)) {
			got = append(got, f.Name)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}

// histogram of seconds that saw so many of at most 0.1, 1 and 2.
func histogram(name string, a, b, c int) string {
	return strings.ReplaceAll(fmt.Sprintf("X{le=\"0.1\"} %d\nX{le=\"1\"} %d\nX{le=\"2\"} %d\nX{le=\"+Inf\"} %d\n", a, b, c, c), "X", "sealkeeper_"+name+"_seconds_bucket")
}
