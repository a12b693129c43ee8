package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	harness "sealkeeper/tests/appliance"
)

// A wrong PIN is tried once, by one worker, and never again until a person said so: an HSM counts tries and locks the token for good.
func TestWrongPIN(t *testing.T) {
	t.Parallel()
	a := install(t)
	pin, marker := filepath.Join(a.Dir, "data", "pins", "online"), filepath.Join(a.Dir, "data", "pin-refused-online")
	right := read(t, a, "data/pins/online")
	setPIN := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(pin, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func() string {
		t.Helper()
		before := len(a.Log.String())
		a.Launch()
		if code := a.Wait(); code != 4 {
			t.Fatalf("ended with %d\n%s", code, a.Log.String())
		}
		return a.Log.String()[before:]
	}

	setPIN([]byte("99999999\n"))
	log := start()
	if !strings.Contains(log, "CKR_PIN_INCORRECT") || !strings.Contains(log, "remove "+marker) || !strings.Contains(log, "PIN at its source") {
		t.Errorf("the log does not say what to do:\n%s", log)
	}
	if says, ended := strings.Count(log, `"msg":"worker says"`), strings.Count(log, `"msg":"worker ended"`); says > 1 || ended != 1 { // it may be told to go before it said why
		t.Errorf("%d workers ended, %d complained: only one may try the PIN\n%s", ended, says, log)
	}
	text := string(read(t, a, "data/pin-refused-online"))
	if !strings.Contains(text, "CKR_PIN_INCORRECT") || strings.Contains(text+log, "99999999") {
		t.Errorf("marker: %q", text)
	}

	// Not even the right PIN is tried while the marker is there; the token is not touched.
	setPIN(right)
	log = start()
	if !strings.Contains(log, "refused its PIN before") || !strings.Contains(log, "remove "+marker) {
		t.Errorf("the second start:\n%s", log)
	}
	if strings.Contains(log, `"msg":"worker`) {
		t.Errorf("a worker was started:\n%s", log)
	}
	if r := execute(t, harness.Binary, "", "check", "--config", filepath.Join(a.Dir, "sealkeeper.yaml")); r.code != 5 || !strings.Contains(r.out, "then remove "+marker) {
		t.Errorf("check: %+v", r)
	}

	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.Issue(newPhone(t, 1), "pin-1", false)
	a.Stop()
	a.Check()
}

// C_Login truncates token.object before it writes it, so a crash can leave it empty. The next start puts the copy back.
func TestTokenObjectCutByACrash(t *testing.T) {
	t.Parallel()
	a := install(t)
	for _, token := range []string{"online", "iaca"} {
		found, err := filepath.Glob(filepath.Join(a.Dir, "data", "tokens", token, "tokens", "*", "token.object"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v %v", token, found, err)
		}
		if err := os.Truncate(found[0], 0); err != nil {
			t.Fatal(err)
		}
	}
	a.start()
	if log := a.Log.String(); !strings.Contains(log, "token repaired") || !strings.Contains(log, "restored from") {
		t.Errorf("the log does not say that the token was repaired:\n%s", log)
	}
	a.Issue(newPhone(t, 1), "cut-1", false)
	a.Stop()
	a.Check()
}
