package main

import "testing"

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
