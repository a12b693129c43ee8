package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sealkeeper/contract"
)

// Identity is a client's key and certificate in a directory: key.pem, cert.pem and ca.pem. It enrols, renews and changes its key at the registration
// authority, by the protocol of `step`; a client made with it never stops for that. When another root takes the place of that in ca.pem, a renewal brings it.
type Identity struct {
	dir, url string
	roots    atomic.Pointer[[]*x509.Certificate]
	now      atomic.Pointer[identity]
	changing chan struct{} // has room for one: who changes what is in use and in the directory
	wait     func(ctx context.Context, d time.Duration) error

	unwritten map[string][]byte // files that the directory does not have as they are in use; of who changes
}

type identity struct {
	certificate tls.Certificate
	generation  uint64
}

// Enrol registers a new key with a one-time token and writes it to dir. Nothing has to be known before: the token names the registration authority and the
// hash of its root. An Enrol that was cut off is repeated with the same token: its key is in the directory.
func Enrol(ctx context.Context, dir, token string) (*Identity, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("this is no one-time token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("this is no one-time token")
	}
	var claims struct {
		Audience string   `json:"aud"`
		Subject  string   `json:"sub"`
		SHA      string   `json:"sha"`
		SANs     []string `json:"sans"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, errors.New("this is no one-time token")
	}
	u, err := url.Parse(claims.Audience)
	if err != nil || u.Scheme != "https" || u.Host == "" || len(claims.SHA) != 64 {
		return nil, errors.New("the token names no registration authority")
	}
	i := &Identity{dir: dir, url: "https://" + u.Host, changing: make(chan struct{}, 1), wait: wait, unwritten: map[string][]byte{}}
	root, err := i.root(ctx, claims.SHA)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := write(filepath.Join(dir, "ca.pem"), root, 0o644); err != nil {
		return nil, err
	}
	if err := i.trust(root); err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, "key.pem"))
	if errors.Is(err, os.ErrNotExist) {
		key, err = newKey(filepath.Join(dir, "key.pem"))
	}
	if err != nil {
		return nil, err
	}
	csr, err := request(key, claims.Subject, claims.SANs...)
	if err != nil {
		return nil, err
	}
	body, err := i.ask(ctx, nil, "/1.0/sign", map[string]string{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), "ott": token})
	if err != nil {
		return nil, err
	}
	chain, err := i.chainOf(body)
	if err != nil {
		return nil, err
	}
	return i, i.keep(key, chain)
}

// LoadIdentity reads what Enrol, or `step`, left in a directory. url is the registration authority's.
func LoadIdentity(dir, url string) (*Identity, error) {
	i := &Identity{dir: dir, url: strings.TrimSuffix(url, "/"), changing: make(chan struct{}, 1), wait: wait, unwritten: map[string][]byte{}}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	if err := i.trust(root); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "ca.pem"), err)
	}
	key, err := readKey(filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	chain, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		return nil, err
	}
	if err = i.use(key, chain); err == nil {
		return i, nil
	}
	// A change of key that was cut off between its two files is ended now: the certificate is already that of the next key.
	next := filepath.Join(dir, "next-key.pem")
	if key, e := readKey(next); e == nil && i.use(key, chain) == nil {
		return i, os.Rename(next, filepath.Join(dir, "key.pem"))
	}
	return nil, err
}

// Certificate that is in use.
func (i *Identity) Certificate() tls.Certificate { return i.now.Load().certificate }

// Expires is when it ends.
func (i *Identity) Expires() time.Time { return i.now.Load().certificate.Leaf.NotAfter }

// Due is when the next renewal is: two thirds of the certificate's life are over.
func (i *Identity) Due() time.Time {
	leaf := i.now.Load().certificate.Leaf
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
}

// Run renews in time until ctx ends. failed is told of each renewal that did not work; it is tried again, more and more often as the end comes near.
func (i *Identity) Run(ctx context.Context, failed func(error)) {
	var failedAt time.Time // by the wall, as all else here
	var pause time.Duration
	for ctx.Err() == nil {
		if err := i.CatchUp(ctx); err != nil && ctx.Err() == nil && failed != nil {
			failed(err)
		}
		left := time.Until(i.Due())
		if since := time.Since(failedAt); since >= 0 { // else the wall was set back
			left = max(left, pause-since)
		}
		if left > 0 {
			if i.wait(ctx, min(left, lookAgain)) != nil {
				return
			}
			continue
		}
		pause = 0
		if err := i.Renew(ctx); err != nil && ctx.Err() == nil {
			failedAt, pause = time.Now().Round(0), afterFailure(time.Until(i.Expires()))
			if failed != nil {
				failed(err)
			}
		}
	}
}

// lookAgain is how long one wait may be. Timers stand still while the machine is suspended and see nothing of a wall that is set: a renewal that one of them
// waited for could come after the certificate's end.
const lookAgain = time.Minute

// afterFailure is until the next try: a tenth of what is left. Once nothing is left there is no hurry, and everybody else whose renewals failed asks too.
func afterFailure(left time.Duration) time.Duration {
	if left <= 0 {
		return lookAgain + upTo(lookAgain)
	}
	return max(left/10, time.Second)
}

// alone waits until nobody else changes key or certificate, or until ctx ends: an answer for the key before must not come over the next one's. Who only
// uses the identity does not wait, nor who revokes it.
func (i *Identity) alone(ctx context.Context) (done func(), err error) {
	select {
	case i.changing <- struct{}{}:
		return func() { <-i.changing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Renew gets another certificate for the same key; if a change of key was begun whose answer was lost, it ends that instead, if it can.
func (i *Identity) Renew(ctx context.Context) error {
	done, err := i.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	var begun error
	if _, err := os.Stat(filepath.Join(i.dir, "next-key.pem")); err == nil {
		if begun = i.rekey(ctx); begun == nil {
			return nil
		}
	}
	now := i.now.Load()
	body, err := i.ask(ctx, &now.certificate, "/1.0/renew", nil)
	if err != nil {
		return errors.Join(begun, err)
	}
	chain, err := i.chainOf(body)
	if chain == nil {
		return err
	}
	return errors.Join(err, i.renewed(chain))
}

// Rekey gets a certificate for another key, for which the present one signs.
func (i *Identity) Rekey(ctx context.Context) error {
	done, err := i.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	return i.rekey(ctx)
}

func (i *Identity) rekey(ctx context.Context) error {
	now := i.now.Load()
	old, ok := now.certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || old.Curve != elliptic.P256() {
		return errors.New("only a key on P-256 signs statements here")
	}
	next := filepath.Join(i.dir, "next-key.pem") // kept until it is in use: a lost answer is asked for again with the same key
	key, err := readKey(next)
	if errors.Is(err, os.ErrNotExist) {
		key, err = newKey(next)
	}
	if err != nil {
		return err
	}
	csr, err := request(key, now.certificate.Leaf.Subject.CommonName)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	statement, err := Rekeying(old, now.certificate.Leaf.Subject.CommonName, i.url+"/sealkeeper/rekey", spki, time.Now())
	if err != nil {
		return err
	}
	body, err := i.ask(ctx, &now.certificate, "/sealkeeper/rekey", contract.RekeyRequest{Client: now.certificate.Leaf.Subject.CommonName, Statement: statement, CSR: base64.RawURLEncoding.EncodeToString(csr)})
	if err != nil {
		return err
	}
	chain, err := i.chainOf(body)
	if err != nil {
		return err
	}
	if err := i.keep(key, chain); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(i.dir, "key.pem"))
}

// Rekeying is the statement by which a key hands over to another.
func Rekeying(old *ecdsa.PrivateKey, client, audience string, next []byte, at time.Time) (string, error) {
	e := base64.RawURLEncoding
	sum := sha256.Sum256(next)
	payload, err := json.Marshal(map[string]any{"sub": client, "aud": audience, "key": e.EncodeToString(sum[:]), "iat": at.Unix(), "exp": at.Add(5 * time.Minute).Unix()})
	if err != nil {
		return "", err
	}
	input := e.EncodeToString([]byte(`{"alg":"ES256","typ":"sealkeeper-rekey+jwt"}`)) + "." + e.EncodeToString(payload)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, old, digest[:])
	if err != nil {
		return "", err
	}
	return input + "." + e.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)), nil
}

// Revoke ends the client, for ever.
func (i *Identity) Revoke(ctx context.Context, reason string) error {
	now := i.now.Load()
	_, err := i.ask(ctx, &now.certificate, "/1.0/revoke", map[string]any{"serial": now.certificate.Leaf.SerialNumber.String(), "reason": reason, "reasonCode": 0, "passive": true})
	return err
}

// root fetches the root by its hash, from a server that nothing else is known of.
func (i *Identity) root(ctx context.Context, sha string) ([]byte, error) {
	h := &http.Client{Timeout: defaultTimeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}}} // the hash says whether it is the root
	defer h.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, i.url+"/root/"+sha, nil)
	if err != nil {
		return nil, err
	}
	r, err := h.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var answer struct {
		CA string `json:"ca"`
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("the registration authority answered %d", r.StatusCode)
	}
	block, _ := pem.Decode([]byte(answer.CA))
	if block == nil {
		return nil, fmt.Errorf("the registration authority answered %d without a root", r.StatusCode)
	}
	if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != sha {
		return nil, errors.New("this is another root than the token names: somebody else answers for the registration authority")
	}
	return pem.EncodeToMemory(block), nil
}

// ask sends one request to the registration authority.
func (i *Identity) ask(ctx context.Context, as *tls.Certificate, path string, body any) ([]byte, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: i.Roots()}
	if as != nil {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return as, nil }
	}
	h := &http.Client{Timeout: defaultTimeout, Transport: &http.Transport{TLSClientConfig: t}}
	defer h.CloseIdleConnections()
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	r, err := h.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if r.StatusCode/100 != 2 {
		var said struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(answer, &said)
		return nil, fmt.Errorf("the registration authority answered %d to %s: %.300s", r.StatusCode, path, said.Message)
	}
	return answer, nil
}

// chainOf is the certificate of an answer. What came with it may lead to roots that are not known yet.
func (i *Identity) chainOf(body []byte) ([]byte, error) {
	var answer struct {
		Chain []string `json:"certChain"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Chain) == 0 {
		return nil, errors.New("the registration authority answered without a certificate")
	}
	var rest []*x509.Certificate
	for _, text := range answer.Chain[1:] {
		if block, _ := pem.Decode([]byte(text)); block != nil {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				rest = append(rest, c)
			}
		}
	}
	return []byte(answer.Chain[0]), i.learn(rest)
}

// trust reads the roots of ca.pem.
func (i *Identity) trust(text []byte) error {
	var roots []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			roots = append(roots, c)
		}
	}
	if len(roots) == 0 {
		return errors.New("there is no certificate")
	}
	i.roots.Store(&roots)
	return nil
}

// learn takes the roots to which those that are known lead by links, and writes them to ca.pem before anything is used that is under them. The registration
// authority's word would not be enough.
func (i *Identity) learn(certs []*x509.Certificate) error {
	roots := slices.Clone(*i.roots.Load())
	known := len(roots)
	for again := len(certs) <= maxChain; again; {
		again = false
		for _, c := range certs {
			if !slices.ContainsFunc(roots, c.Equal) && linked(c, certs, roots) {
				roots, again = append(roots, c), true
			}
		}
	}
	if len(roots) == known {
		return nil
	}
	roots = slices.DeleteFunc(roots, func(c *x509.Certificate) bool { return time.Now().After(c.NotAfter) })
	var text []byte
	for _, c := range roots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	err := i.put("ca.pem", text)
	i.roots.Store(&roots)
	return err
}

// put writes a file, or remembers that it has to be written.
func (i *Identity) put(name string, b []byte) error {
	if err := write(filepath.Join(i.dir, name), b, 0o644); err != nil {
		i.unwritten[name] = b
		return err
	}
	delete(i.unwritten, name)
	return nil
}

// CatchUp writes what is in use and could not be written when it came, because the disk was full. Run does so each minute.
func (i *Identity) CatchUp(ctx context.Context) error {
	done, err := i.alone(ctx)
	if err != nil {
		return err
	}
	defer done()
	for _, name := range []string{"ca.pem", "cert.pem"} { // the root before what is under it
		if b := i.unwritten[name]; b != nil {
			if err := i.put(name, b); err != nil {
				return err
			}
		}
	}
	return nil
}

const maxChain = 16 // certificates that are looked at in an answer

// linked says whether one of the roots vouches for another one: by a CA certificate of the same name and key, which is good now, as is its own.
func linked(root *x509.Certificate, links, roots []*x509.Certificate) bool {
	if !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return false
	}
	for _, link := range links {
		if !link.IsCA || !bytes.Equal(link.RawSubject, root.RawSubject) || !bytes.Equal(link.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) || time.Now().After(link.NotAfter) {
			continue
		}
		if slices.ContainsFunc(roots, func(old *x509.Certificate) bool {
			return bytes.Equal(link.RawIssuer, old.RawSubject) && time.Now().Before(old.NotAfter) && link.CheckSignatureFrom(old) == nil
		}) {
			return true
		}
	}
	return false
}

// renewed puts another certificate of the same key to use, and writes it down: at once, or as soon as that can be done. One that was thrown away because it
// could not be written would be asked for again and again, and there are only so many at a time.
func (i *Identity) renewed(chain []byte) error {
	if err := i.use(i.now.Load().certificate.PrivateKey.(*ecdsa.PrivateKey), chain); err != nil {
		return err
	}
	return i.put("cert.pem", chain)
}

// keep writes a certificate of another key down and then puts it to use: it is of no use without the key in the directory, and may be asked for again.
func (i *Identity) keep(key *ecdsa.PrivateKey, chain []byte) error {
	if _, err := i.verified(key, chain); err != nil {
		return err
	}
	if err := write(filepath.Join(i.dir, "cert.pem"), chain, 0o644); err != nil {
		return err
	}
	delete(i.unwritten, "cert.pem")
	return i.use(key, chain)
}

// verified is a certificate that is sure to be one of this key under these roots.
func (i *Identity) verified(key *ecdsa.PrivateKey, chain []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil, errors.New("there is no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: i.Roots(), CurrentTime: leaf.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, err
	}
	return leaf, nil
}

// use puts a certificate to use.
func (i *Identity) use(key *ecdsa.PrivateKey, chain []byte) error {
	leaf, err := i.verified(key, chain)
	if err != nil {
		return err
	}
	next := &identity{certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}}
	if old := i.now.Load(); old != nil {
		next.generation = old.generation + 1
	}
	i.now.Store(next)
	return nil
}

// request is what the registration authority wants to see; the appliance reads nothing of it but the key.
func request(key crypto.Signer, name string, sans ...string) ([]byte, error) {
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	for _, s := range sans {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		r.URIs = append(r.URIs, u)
	}
	return x509.CreateCertificateRequest(rand.Reader, r, key)
}

func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func readKey(file string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s has no key", file)
	}
	if block.Type == "EC PRIVATE KEY" { // as step writes it
		return x509.ParseECPrivateKey(block.Bytes)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s has no EC key", file)
	}
	return key, nil
}

// write replaces a file so that there is the old one or the new one, whole, after a power cut too.
func write(file string, b []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Roots under which the identity is, and its servers.
func (i *Identity) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range *i.roots.Load() {
		pool.AddCert(c)
	}
	return pool
}

// Knows says whether a root is among them.
func (i *Identity) Knows(root *x509.Certificate) bool {
	return slices.ContainsFunc(*i.roots.Load(), root.Equal)
}

// Name of the client.
func (i *Identity) Name() string { return i.now.Load().certificate.Leaf.Subject.CommonName }

// SPKI is its public key.
func (i *Identity) SPKI() ([]byte, error) {
	return x509.MarshalPKIXPublicKey(i.now.Load().certificate.Leaf.PublicKey)
}

// Take puts a certificate to use that came otherwise: a registration authority renews its own at the appliance.
func (i *Identity) Take(a contract.CertificateAnswer) error {
	der, err := base64.RawURLEncoding.DecodeString(a.Certificate)
	if err != nil {
		return err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	done, err := i.alone(context.Background())
	if err != nil {
		return err
	}
	defer done()
	var links []*x509.Certificate
	for _, text := range a.Links {
		der, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		links = append(links, c)
	}
	return errors.Join(i.learn(links), i.renewed(chain))
}
