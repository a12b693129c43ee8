package evidence

import (
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"sealkeeper/tests/phone"
)

// BenchmarkRead is what comes before the first verification.
func BenchmarkRead(b *testing.B) {
	provider, err := phone.NewProvider(now, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	p, err := phone.New(1)
	if err != nil {
		b.Fatal(err)
	}
	v := NewVerifier(Trust{NonceKey: [32]byte{1}, MaxKeys: 4})
	nonce, _ := v.Nonce("office", "mrc", now, [16]byte{})
	attestation, proof := p.Attest(provider, nonce, now), p.Prove(0, "https://issuer.example", nonce, now, "")
	var statements []Item
	for kind, body := range map[string]string{
		KindInPerson: `"card_seen":true,"district":"1111051500","method":"qr","not_after":1795392600,"not_before":1795391940,"office":"desk-17","officer":"officer-217"`,
		KindRegistryMatch: `"attributes":{"address":"` + digestText + `","age_over_19":"` + digestText + `","birth_date":"` + digestText + `","document_number":"` + digestText +
			`","expiry_date":"` + digestText + `","family_name":"` + digestText + `","given_name":"` + digestText + `","issue_date":"` + digestText + `","issuing_authority":"` + digestText +
			`","issuing_country":"` + digestText + `","portrait":"` + digestText + `"},"card_expiry":"2036-01-14","card_status":"valid","district":"1111051500","epoch":1,"salt":"` + b64(make([]byte, 16)) + `"`,
		KindFaceMatch:     `"algorithm":"matcher-1","level":"high","liveness":2,"reference":"register_photo"`,
		KindChipRead:      `"card":"card-1","card_expiry":"2036-01-14","challenge":"` + digestText + `","chip":"chip_authentication","passive":true,"pin_verified":true`,
		KindLineOwnership: `"line":"line-` + digestText + `","line_kind":"personal","subscriber":"self"`,
	} {
		payload := `{"exp":1795392300,"iat":1795392000,"iss":"authority-1","jti":"` + digestText[:22] + `","session":"` + digestText + `","sub":"` + digestText + `",` + body + `}`
		header := `{"alg":"ES256","kid":"authority-1-1","typ":"` + StatementType(kind) + `"}`
		statements = append(statements, Item{Kind: kind, Token: b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64(make([]byte, 64))})
	}
	own, err := readProof(proof)
	if err != nil {
		b.Fatal(err)
	}
	a, err := v.readAttestation(attestation, Profile{}, own)
	if err != nil {
		b.Fatal(err)
	}
	v.attested.keep(a.head, a.header) // as with all but the first
	about := About{Session: Session{client: "office"}}
	said, err := v.readStatements(about, statements)
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range said {
		v.heads.keep(s.head, s.header)
	}
	for name, read := range map[string]func() error{
		"attestation": func() error { _, err := v.readAttestation(attestation, Profile{}, own); return err },
		"proof":       func() error { _, err := readProof(proof); return err },
		"statements":  func() error { _, err := v.readStatements(about, statements); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var digestText = func() string { d := sha256.Sum256(nil); return b64(d[:]) }()
