package docs_test

// The Go code that docs/integrator.md shows. It is compiled here, and TestShownCodeCompiles compares the page with it.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/verifier"
)

// begin: issue
func issueCard(ctx context.Context, dir string, phone Phone, order Order) (contract.IssueAnswer, error) {
	none := contract.IssueAnswer{}
	cert, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	if err != nil {
		return none, err
	}
	anchor, err := os.ReadFile(dir + "/ca.pem")
	if err != nil {
		return none, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(anchor)
	c, err := client.New(client.Config{BaseURL: "https://sealkeeper.internal:8443", Certificate: cert, RootCAs: roots})
	if err != nil {
		return none, err
	}
	defer c.Close()

	nonce, err := c.Nonce(ctx, contract.NonceRequest{DocumentType: "kr-resident"})
	if err != nil {
		return none, err
	}
	proof, attestation := phone.Prove(nonce.Nonce)
	r := contract.IssueRequest{DocumentType: "kr-resident", Subject: order.Subject, Claims: order.Claims, Proof: proof, KeyAttestation: attestation}

	// Key and request are stored before they are sent: after a crash the same two bring the same card, and never a second one.
	key := client.NewKey()
	if err := order.Remember(key, r); err != nil {
		return none, err
	}
	card, err := c.Issue(ctx, key, r)
	switch client.Code(err) {
	case "slot.occupied": // another phone has the card: ask the holder; then a new nonce, a new key, and r.Replace = true
		return none, errors.New("the card is on another phone")
	case "card.locked": // a lock that stays with the person
		return none, errors.New("the card is locked")
	}
	return card, err // with an error that is no refusal: send the same key and request again later
}

// end: issue

// begin: verify
func checkCard(ctx context.Context, presented []byte, nonce string, roots []*x509.Certificate) (map[string]any, error) {
	now := time.Now()
	card, err := verifier.VerifySDJWT(presented, roots, now)
	if err != nil {
		return nil, err
	}
	if err := card.VerifyKeyBinding(nonce, "https://bank.example", now, time.Minute); err != nil {
		return nil, err
	}
	if card.Status == nil {
		return nil, errors.New("the card points to no status list")
	}
	list, err := fetch(ctx, card.Status.URI) // in earnest: from a cache that honours max-age
	if err != nil {
		return nil, err
	}
	status, err := verifier.VerifyStatus(list, card.Status.URI, card.Status.Index, roots, now)
	if err != nil {
		return nil, err
	}
	if status != verifier.Valid {
		return nil, fmt.Errorf("the card has status %d", status)
	}
	return card.Claims, nil
}

// end: verify

// Phone and Order are the integrator's own.
type (
	Phone interface {
		Prove(nonce string) (proof, attestation string)
	}
	Order struct {
		Subject  string
		Claims   map[string]any
		Remember func(key string, r contract.IssueRequest) error
	}
)

func fetch(ctx context.Context, uri string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, errors.New(a.Status)
	}
	return io.ReadAll(io.LimitReader(a.Body, 64<<20))
}

var _, _ = issueCard, checkCard
