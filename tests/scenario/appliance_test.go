// Package scenario tests the appliance from outside: the real daemon as a process, over real mTLS, with SoftHSM and SQLite behind it.
package scenario

import (
	"os"
	"testing"

	harness "sealkeeper/tests/appliance"
)

func TestMain(m *testing.M) {
	if pid := os.Getenv(spyOn); pid != "" {
		os.Exit(spy(pid))
	}
	os.Exit(harness.Main(m))
}

// The harness's words, short.
const (
	kr        = harness.KR
	publicURL = harness.PublicURL
	audience  = harness.Audience
	canary    = harness.Canary
	race      = harness.Race
)

var (
	lock, unlock, revoke = harness.Lock, harness.Unlock, harness.Revoke
	newPhone             = harness.NewPhone
	claims               = harness.Claims
	code                 = harness.Code
	byFormat             = harness.ByFormat
)

// appliance is the harness's, with what only these tests do with it.
type appliance struct {
	*harness.Appliance
	t *testing.T
}

func install(t *testing.T) *appliance { return &appliance{harness.Install(t), t} }

func installAnew(t *testing.T, lines string) *appliance {
	return &appliance{harness.InstallAnew(t, lines), t}
}

func (a *appliance) start(env ...string) *appliance {
	a.Start(env...)
	return a
}
