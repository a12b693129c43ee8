package policy

import (
	"os"
	"path/filepath"
	"testing"
)

// load parses one of the bundles that we deploy.
func load(t testing.TB, name string) *Bundle {
	t.Helper()
	file := filepath.Join("..", "deploy", "policies", name)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExampleBundles(t *testing.T) {
	for name, types := range map[string]int{"kr-resident.json": 1, "eu-pid.json": 1, "mdl.json": 1, "demo.json": 3} {
		b := load(t, name)
		if len(b.Types()) != types || len(b.Clients()) != 5 {
			t.Errorf("%s: %d types and %d clients", name, len(b.Types()), len(b.Clients()))
		}
	}
}
