package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The demo as `make demo` runs it. Every step of both stories ends it with an error if it does not come out as told, so what is looked at here is
// that nothing is left out, and that the first story stays what those who verify its files know.
func TestDemo(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.Command(name, args...)
		c.Dir = root
		c.Env = append(os.Environ(), "DEMO_BIN="+dir, "DEMO_WORK="+filepath.Join(dir, "work"), "DEMO_OUT="+filepath.Join(dir, "out"), "DEMO_PHASE=20s")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("go", "build", "-trimpath", "-o", dir+"/", "./cmd/sealkeeperd", "./cmd/sealctl", "./tests/demo")
	said := run(filepath.Join(dir, "demo"))

	// The first story: its chapters, and what it leaves for verifiers.
	titles := regexp.MustCompile(`(?m)^\d+\. .*$`).FindAllString(said, -1)
	first := []string{"1. A new installation", "2. A phone gets its card", "3. What must not work", "4. The phone is lost: the carrier's report locks the card",
		"5. The phone is found: unlock and refresh", "6. A new phone takes its place", "7. The end"}
	if len(titles) < len(first) || !slices.Equal(titles[:len(first)], first) {
		t.Errorf("the first story's chapters are %q", titles)
	}
	for _, file := range []string{"transcript.json", "phone1/credential.mdoc", "phone1/credential.sdjwt", "phone1/holder.jwk", "phone1/status.json", "phone1-refreshed/credential.mdoc",
		"phone2/credential.sdjwt", "status/1-issued/lists.json", "status/2-locked/lists.json", "status/3-unlocked/lists.json", "status/4-replaced/lists.json",
		"trust/iaca.pem", "trust/ds.pem", "trust/sdjwt-issuer.pem", "trust/status-signer.pem", "trust/client-ca.pem", "trust/iaca.crl"} {
		if _, err := os.Stat(filepath.Join(dir, "out", file)); err != nil {
			t.Error(err)
		}
	}
	var transcript []step
	data, err := os.ReadFile(filepath.Join(dir, "out", "transcript.json"))
	if err == nil {
		err = json.Unmarshal(data, &transcript)
	}
	if err != nil || slices.ContainsFunc(transcript, func(s step) bool { return !slices.Contains(first, s.Chapter) }) {
		t.Errorf("the transcript is not the first story's: %v", err)
	}

	// The second: what it is about, in its order.
	rest := said
	for _, want := range []string{
		"8. ", "version 2 moves the whole calendar",
		"9. ", "phase.not_open", "phase.residence_only", "by method/office_qr, phase/phase-3",
		"10. ", "evidence.chip_read_insufficient", "evidence.face_match_session", "registry.uncovered", "by method/ic_chip, phase/phase-3", "by method/office_qr, phase/phase-3", "code.replayed",
		"slot.occupied", "evidence.in_person_missing", "phase.not_open",
		"11. ", "SD-JWT VC SUSPENDED", "applied", "stale", "Hong's old phone                   mdoc INVALID, SD-JWT VC INVALID",
		"12. ", "card.locked",
		"13. ", "are above the hour's threshold", "mdoc VALID, SD-JWT VC SUSPENDED", "$ sealctl floods undo telecom-a", "mdoc VALID, SD-JWT VC VALID",
		"14. ", "$ sealctl policy diff", "$ sealctl policy replay", "denied phase.not_open", "allowed", "bundle.under_signed", "--dry-run", "by method/ic_chip, phase/gov24",
		"15. ", "budgets and begun phases",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("%q is missing, or in another place:\n%s", want, said)
		}
		rest = after
	}
}

// The officers' story as `make demo-officers` tells it, with passphrases that cost less to guess (the build with crash points). Each step ends it with an error if it does
// not come out as told.
func TestDemoOfficers(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.Command(name, args...)
		c.Dir = root
		c.Env = append(os.Environ(), "DEMO_BIN="+dir, "DEMO_WORK="+filepath.Join(dir, "work"))
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("go", "build", "-trimpath", "-tags", "crashpoints", "-o", dir+"/", "./cmd/sealkeeperd", "./cmd/sealctl", "./tests/demo")
	said := run(filepath.Join(dir, "demo"), "officers")
	rest := said
	for _, want := range []string{
		"1. ", "park  P-256 on a SoftHSM token",
		"2. ", "ceremony.missing", "2 of kim, lee, park open it, and kim, lee did", "ceremony.short", "the ceremony is over", "the ledger went on from this head (1)",
		"3. ", "4. ", "ds-2 is active, ds-1 deactivated", "none failed",
		"5. ", "officer.epoch", "officer.unknown",
		"6. ", "issuing.stopped", "officer.short", "none failed",
		"7. ", "ds-3, which stood by, signs", "were made anew", "none failed",
		"8. ", "none failed", "FENCED", "cards are issued again",
		"9. ", "the ledger went on from this head (1)", "signatures counted again",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("%q is missing, or in another place:\n%s", want, said)
		}
		rest = after
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "The officers' story took ") || !strings.Contains(last, "verified offline") {
		t.Errorf("the last line is no summary: %s", last)
	}
}
