// Package deploy checks what is shipped beside the programs.
package deploy

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// G10: the daemon's unit is exposed at most 1.1 by systemd's own measure (0 to 10). The measure is static: it reads the unit, it runs nothing.
func TestUnitExposure(t *testing.T) {
	const most = 1.1
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed (Debian and Ubuntu: apt-get install systemd)")
	}
	out, err := exec.Command(tool, "security", "--offline=true", "--no-pager", "../../deploy/systemd/sealkeeper.service").CombinedOutput()
	m := regexp.MustCompile(`Overall exposure level for sealkeeper\.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level: %v\n%s", err, out)
	}
	if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > most {
		t.Errorf("exposure %s, at most %v is allowed:\n%s", m[1], most, out)
	}
}
