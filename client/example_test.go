package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"os"

	"sealkeeper/client"
	"sealkeeper/contract"
)

// A ward office asks for a card for a resident's new phone, and tells a refusal from a failure.
func Example() {
	cert, err := tls.LoadX509KeyPair("client.pem", "client.key")
	if err != nil {
		log.Fatal(err)
	}
	anchor, err := os.ReadFile("appliance-ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(anchor)
	c, err := client.New(client.Config{BaseURL: "https://sealkeeper.internal:8443", Certificate: cert, RootCAs: roots})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	nonce, err := c.Nonce(ctx, contract.NonceRequest{DocumentType: "kr-resident"})
	if err != nil {
		log.Fatal(err)
	}
	proof, attestation := askPhone(nonce.Nonce)

	key := client.NewKey() // store it before asking: after a crash the same key brings the same card
	card, err := c.Issue(ctx, key, contract.IssueRequest{
		DocumentType:   "kr-resident",
		Subject:        "900101-1234567",
		Claims:         map[string]any{"family_name": "Hong", "given_name": "Gildong", "birth_date": "1990-01-01"},
		Proof:          proof,
		KeyAttestation: attestation,
	})
	switch client.Code(err) {
	case "":
		if err != nil {
			log.Fatal(err) // no answer: try again later, with the same key
		}
		fmt.Println(len(card.Credentials), "credentials for device", card.Device)
	case "slot.occupied":
		fmt.Println("another phone has the card; ask the resident, then set Replace")
	default:
		log.Fatal(err)
	}
}

func askPhone(nonce string) (proof, attestation string) { return "", "" }
