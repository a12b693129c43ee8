package main

import (
	"crypto/x509"
	"testing"
	"time"
)

// Another certificate is due at two thirds of its life, and at once if it begins later than now: the wall that dated it was wrong.
func TestWhenTheServersCertificateIsDue(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: from, NotAfter: from.Add(90 * time.Hour)}
	for after, want := range map[time.Duration]time.Duration{0: 60 * time.Hour, 59 * time.Hour: time.Hour, 60 * time.Hour: 0, 61 * time.Hour: -time.Hour, -time.Second: 0, -70 * 24 * time.Hour: 0} {
		if wait := untilRenewal(leaf, from.Add(after)); wait != want {
			t.Errorf("%v after its begin it is due in %v, want %v", after, wait, want)
		}
	}
}
