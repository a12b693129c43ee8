package phone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"time"
)

// Provider is a wallet provider: a root that stays in its safe, an intermediate, and the leaf that signs key attestations.
type Provider struct {
	root    *x509.Certificate
	chain   []*x509.Certificate // leaf first, without the root
	leafKey crypto.Signer
}

// Bend changes how a provider's certificates are made, for tests of bad chains.
type Bend struct {
	Name          string                               // of the provider; empty: Simulated Wallet Provider
	Intermediates *int                                 // how many; nil: 1
	Certificate   func(depth int, c *x509.Certificate) // template of each certificate before it is signed; 0 is the leaf, then upwards
	Key           func(depth int) crypto.Signer        // a key of another kind; nil result: P-256
}

// NewProvider makes a provider whose certificates are valid from a day before now for a year (the leaf) or ten. random gives the serial
// numbers; keys come from the system's source, as crypto/ecdsa takes no other.
func NewProvider(now time.Time, random io.Reader) (*Provider, error) {
	return NewBentProvider(now, random, Bend{})
}

// NewBentProvider is NewProvider with something changed.
func NewBentProvider(now time.Time, random io.Reader, bend Bend) (*Provider, error) {
	if bend.Name == "" {
		bend.Name = "Simulated Wallet Provider"
	}
	between := 1
	if bend.Intermediates != nil {
		between = *bend.Intermediates
	}
	p := &Provider{}
	var parent *x509.Certificate
	var parentKey crypto.Signer
	for depth := between + 1; depth >= 0; depth-- { // root first
		var key crypto.Signer
		if bend.Key != nil {
			key = bend.Key(depth)
		}
		if key == nil {
			var err error
			if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
				return nil, fmt.Errorf("make a wallet provider's key: %w", err)
			}
		}
		serial := make([]byte, 16)
		if _, err := io.ReadFull(random, serial); err != nil {
			return nil, fmt.Errorf("read a serial number: %w", err)
		}
		serial[0] = serial[0]&0x7f | 0x40 // positive and of full length
		c := &x509.Certificate{
			SerialNumber:          new(big.Int).SetBytes(serial),
			Subject:               pkix.Name{Country: []string{"UT"}, Organization: []string{bend.Name}},
			NotBefore:             now.Add(-24 * time.Hour).Truncate(time.Second),
			NotAfter:              now.Add(10 * 365 * 24 * time.Hour).Truncate(time.Second),
			BasicConstraintsValid: true,
		}
		switch depth {
		case 0:
			c.Subject.CommonName, c.KeyUsage = "key attestation", x509.KeyUsageDigitalSignature
			c.NotAfter = now.Add(365 * 24 * time.Hour).Truncate(time.Second)
		case between + 1:
			c.Subject.CommonName, c.KeyUsage, c.IsCA = "root", x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true
		default:
			c.Subject.CommonName, c.KeyUsage, c.IsCA = fmt.Sprintf("intermediate %d", depth), x509.KeyUsageCertSign, true
		}
		if bend.Certificate != nil {
			bend.Certificate(depth, c)
		}
		if parent == nil {
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
		if err != nil {
			return nil, fmt.Errorf("make a wallet provider's certificate: %w", err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read back a wallet provider's certificate: %w", err)
		}
		if depth == between+1 {
			p.root = cert
		} else {
			p.chain = append([]*x509.Certificate{cert}, p.chain...)
		}
		parent, parentKey = cert, key
	}
	p.leafKey = parentKey
	return p, nil
}

// Anchor is the root certificate.
func (p *Provider) Anchor() *x509.Certificate { return p.root }

// AnchorPEM is the root certificate as an operator would configure it.
func (p *Provider) AnchorPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.root.Raw})
}

// Leaf is the certificate of the key that signs attestations.
func (p *Provider) Leaf() *x509.Certificate { return p.chain[0] }

// X5C is the chain as it goes into a JOSE header: leaf first, the root left out (HAIP 1.0).
func (p *Provider) X5C() []string {
	var x5c []string
	for _, c := range p.chain {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return x5c
}
