package scenario

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealkeeper/contract"
)

// spoken is an open connection that requests are sent on, one after the other.
type spoken struct {
	*tls.Conn
	r *bufio.Reader
}

func (a *appliance) dial(id string) (*spoken, error) {
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]), a.TLS(id))
	if err != nil {
		return nil, err
	}
	return &spoken{c, bufio.NewReader(c)}, nil
}

// ask gives the status of one answer, and the code of a refusal.
func (s *spoken) ask() (int, string, error) {
	if err := s.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, "", err
	}
	if _, err := io.WriteString(s, "GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return 0, "", err
	}
	w, err := http.ReadResponse(s.r, nil)
	if err != nil {
		return 0, "", err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		return 0, "", err
	}
	var p struct{ Code string }
	_ = json.Unmarshal(b, &p) // an answer has none
	return w.StatusCode, p.Code, nil
}

// A client's kill switch: its next request on a connection that is open is refused within a second, while 1,000 other connections go on without one
// failure; a restart does not forget it, a list of the client CA names its certificate, and the table of clients says so.
func TestRevokedClientIsOutOnAnOpenConnection(t *testing.T) {
	g := installGoverned(t)
	g.start()
	const others = 1000
	open := make([]*spoken, others)
	var dialling sync.WaitGroup
	for part := range 8 {
		dialling.Go(func() {
			for i := part; i < others; i += 8 {
				c, err := g.dial("ward-office-1")
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				if status, code, err := c.ask(); err != nil || status != 200 { // one that never asked would be closed after some seconds
					t.Errorf("connection %d: %d %s %v", i, status, code, err)
					return
				}
				open[i] = c
				if i/8%25 != 24 {
					continue
				}
				for j := part; j <= i; j += 8 { // a minute without a request closes one, and all of them may take longer than that
					if status, code, err := open[j].ask(); err != nil || status != 200 {
						t.Errorf("connection %d: %d %s %v", j, status, code, err)
						return
					}
				}
			}
		})
	}
	dialling.Wait()
	if t.Failed() {
		t.FailNow()
	}
	var stop atomic.Bool
	var asked, failed atomic.Int64
	var going sync.WaitGroup
	for part := range 8 {
		going.Go(func() {
			for round := 0; !stop.Load() || round == 0; round++ {
				for i := part; i < others; i += 8 {
					if status, code, err := open[i].ask(); err != nil || status != 200 {
						failed.Add(1)
						t.Errorf("connection %d: %d %s %v", i, status, code, err)
						return
					}
					asked.Add(1)
				}
			}
		})
	}
	carrier, err := g.dial("telecom-a")
	if err != nil {
		t.Fatal(err)
	}
	if status, code, err := carrier.ask(); status != 200 || err != nil {
		t.Fatalf("%d %s %v", status, code, err)
	}
	p := g.officer(0, "kim", "propose", "client.revoke", `clients:=["telecom-a"]`, "reason=its machine was stolen")
	g.officer(0, "park", "approve", p.ID)
	if status, _, err := carrier.ask(); status != 200 || err != nil {
		t.Fatalf("an approved proposal is no revocation: %d %v", status, err)
	}
	if p = g.execute(0, p.ID); p.State != "executed" {
		t.Fatalf("%+v", p)
	}
	done := time.Now()
	status, code, err := carrier.ask()
	if took := time.Since(done); err != nil || status != 403 || code != "client.revoked" || took > time.Second && !race { // the race detector and eight others take as long as they take
		t.Errorf("after %s: %d %s %v", took, status, code, err)
	} else {
		t.Logf("refused %s after the revocation was acknowledged, on the connection that was open", took.Round(time.Microsecond))
	}
	if _, _, err := carrier.ask(); err == nil {
		t.Error("the connection of a revoked client was kept")
	}
	stop.Store(true)
	going.Wait()
	t.Logf("%d other connections asked %d times, %d failures", others, asked.Load(), failed.Load())
	for _, c := range open {
		c.Close()
	}
	g.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool {
		return len(l.RevokedCertificateEntries) == 1 && l.RevokedCertificateEntries[0].ReasonCode == 9
	})
	var list contract.Clients
	if err := json.Unmarshal([]byte(g.sealctl(0, "clients")), &list); err != nil {
		t.Fatal(err)
	}
	seen := map[string]contract.ClientInfo{}
	for _, c := range list.Clients {
		seen[c.Client] = c
	}
	if c := seen["telecom-a"]; c.State != "revoked" || c.Reason != "dismissed" || c.Seen.IsZero() || len(c.May) > 0 {
		t.Errorf("%+v", c)
	}
	if c := seen["ward-office-1"]; c.State != "active" || time.Since(c.Seen) > time.Minute || time.Until(c.Until) < 24*time.Hour || len(c.May["kr-resident"]) == 0 {
		t.Errorf("%+v", c)
	}
	g.Stop()
	g.start()
	late, err := g.dial("telecom-a")
	if err != nil {
		t.Fatal(err)
	}
	if status, code, err := late.ask(); status != 403 || code != "client.revoked" || err != nil {
		t.Errorf("after a restart: %d %s %v", status, code, err)
	}
	g.Stop()
	g.Check()
}
