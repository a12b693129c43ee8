// Package published reads the publish directory as a bank would read what is in it: what is believed has a signature under the installation's
// own root.
package published

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/verifier"
)

const (
	maxMeta  = 1 << 16
	maxList  = 64 << 20
	maxCRL   = 16 << 20
	maxTrust = 4 << 20
)

// Read reads lists and CRLs. Keys are the ledger's: a list counts if its signer's certificate is under their root, also if the signer was made after
// the ledger that is asked. What does not count is named with why.
func Read(dir string, keys []ledger.Key) (p ledger.Published, err error) {
	p.CRLs = map[string]uint64{}
	var roots []*x509.Certificate
	for _, k := range keys {
		if k.Purpose == policy.PurposeIACA && len(k.Chain) > 0 {
			root, err := x509.ParseCertificate(k.Chain[0])
			if err != nil {
				return p, fmt.Errorf("the root's certificate in the ledger: %w", err)
			}
			roots = append(roots, root)
		}
	}
	roots = append(roots, linked(dir, roots)...)
	metas, err := filepath.Glob(filepath.Join(dir, "status-lists", "*.json"))
	if err != nil {
		return p, err
	}
	slices.Sort(metas)
	for _, path := range metas {
		if id := strings.TrimSuffix(filepath.Base(path), ".json"); !strings.HasPrefix(id, ".") {
			p.Lists = append(p.Lists, list(path, id, roots))
		}
	}
	crls, err := filepath.Glob(filepath.Join(dir, "crl", "*.crl"))
	if err != nil {
		return p, err
	}
	for _, path := range crls {
		data, err := read(path, maxCRL)
		if err != nil {
			return p, err
		}
		crl, err := x509.ParseRevocationList(data)
		if err != nil || crl.Number == nil || !crl.Number.IsUint64() {
			return p, fmt.Errorf("%s is no revocation list with a number: %w", path, errors.Join(err))
		}
		p.CRLs[strings.TrimSuffix(filepath.Base(path), ".crl")] = crl.Number.Uint64()
	}
	// The number beside a list is written first: it may be one ahead.
	if metas, err = filepath.Glob(filepath.Join(dir, "crl", "*.json")); err != nil {
		return p, err
	}
	for _, path := range metas {
		data, err := read(path, maxMeta)
		if err != nil {
			return p, err
		}
		m, err := ledger.ParseListMeta(data)
		if err != nil || m.ID != strings.TrimSuffix(filepath.Base(path), ".json") {
			return p, fmt.Errorf("%s is damaged: %w", path, errors.Join(err))
		}
		p.CRLs[m.ID] = max(p.CRLs[m.ID], m.Version)
	}
	return p, nil
}

// linked are roots that took the place of the ledger's after it: what is published of keys has them, and the certificates by which the ledger's vouch for them.
func linked(dir string, roots []*x509.Certificate) []*x509.Certificate {
	data, err := read(filepath.Join(dir, "trust.json"), maxTrust)
	if err != nil {
		return nil
	}
	t, err := verifier.ParseTrust(data)
	if err != nil {
		return nil
	}
	return t.Roots(roots, t.AsOf)
}

func list(path, id string, roots []*x509.Certificate) ledger.Shown {
	s := ledger.Shown{ID: id}
	data, err := read(path, maxMeta)
	if err != nil {
		s.Doubt = err.Error()
		return s
	}
	m, err := ledger.ParseListMeta(data)
	if err != nil || m.ID != id || m.File != filepath.Base(m.File) {
		s.Doubt = fmt.Sprintf("its description is damaged, or names list %.40q", m.ID)
		return s
	}
	s.Version = m.Version
	if data, err = read(filepath.Join(filepath.Dir(path), m.File), maxList); err != nil {
		s.Doubt = err.Error()
		return s
	}
	t, err := verifier.DecodeStatusList(data, verifier.MaxEntries)
	if err == nil {
		err = t.Verify(roots, t.IssuedAt) // it may have expired: what it said stands
	}
	switch {
	case err != nil:
		s.Doubt = err.Error()
	case !strings.HasSuffix(t.Subject, "/status-lists/"+id):
		s.Doubt = fmt.Sprintf("its token is that of %.100q", t.Subject)
	default:
		s.Version, s.Issued, s.Bits, s.Image = t.Version, t.IssuedAt, t.Bits, t.Image
	}
	return s
}

// read reads a file of ours, bounded.
func read(path string, most int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > most {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has %d bytes, at most %d are expected", st.Size(), most)}
	}
	return os.ReadFile(path)
}
