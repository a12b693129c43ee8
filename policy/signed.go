package policy

import (
	"crypto"
	"errors"
	"fmt"
	"io"

	"sealkeeper/internal/signed"
)

// signedKind is what signatures of bundles are for; a signature over anything else is none.
const signedKind = "policy-bundle"

// MaxFile is the largest bundle file, signatures included.
const MaxFile = maxBundle + signed.Room

// BundleError is a bundle that is not put to use.
type BundleError struct{ code, detail string }

// Code is stable: bundle.unsigned, bundle.test_failed, …
func (e *BundleError) Code() string  { return e.code }
func (e *BundleError) Error() string { return e.code + ": " + e.detail }

// Refuse makes the refusal of a bundle; only codes that stand in Codes are used.
func refuseBundle(code, format string, args ...any) error {
	return &BundleError{"bundle." + code, fmt.Sprintf(format, args...)}
}

// Signers are the registered policy keys, and how many different ones must have signed a bundle. Without keys a bundle needs no signature,
// which is for development alone.
type Signers struct {
	Keys      []signed.Key
	Threshold int
}

// Check says who of the registered keys signed the bundle, and refuses it if they are too few. Keys are told apart by what they are, not by
// their names.
func (s Signers) Check(b *Bundle) (by []string, err error) {
	if len(s.Keys) == 0 {
		return nil, nil
	}
	if b.envelope == nil {
		return nil, refuseBundle("unsigned", "the bundle has no signatures: %d of the registered policy keys must sign it", s.Threshold)
	}
	by, err = b.envelope.By(signedKind, s.Keys)
	if wrong := (*signed.Error)(nil); errors.As(err, &wrong) {
		return nil, refuseBundle("signature", "%v", wrong)
	} else if err != nil {
		return nil, refuseBundle("malformed", "%v", err)
	}
	if len(by) < max(1, s.Threshold) {
		return by, refuseBundle("under_signed", "%d of the registered policy keys signed the bundle, %d must: have it signed by more", len(by), max(1, s.Threshold))
	}
	return by, nil
}

// Open reads a bundle for use: signed by enough of the registered keys, well-formed, and all of its own tests pass. Errors have codes.
func (s Signers) Open(file string, data []byte) (b *Bundle, by []string, err error) {
	if b, err = Parse(file, data); err != nil {
		return nil, nil, &BundleError{"bundle.malformed", err.Error()}
	}
	if by, err = s.Check(b); err != nil {
		return nil, nil, err
	}
	if err = b.Test(file); err != nil {
		return nil, nil, err
	}
	return b, by, nil
}

// Succeeds says whether a bundle may take the place of another one: its version is higher. again: it is the same one.
func (b *Bundle) Succeeds(old *Bundle) (again bool, err error) {
	switch {
	case old == nil || b.version > old.version:
		return false, nil
	case b.version == old.version && b.hash == old.hash:
		return true, nil
	case b.version == old.version:
		return false, refuseBundle("version_reused", "version %d is active and says something else: give the bundle a higher version", b.version)
	}
	return false, refuseBundle("old", "version %d is active, and version %d is older: what was switched off would come back", old.version, b.version)
}

// Sign gives a bundle file one more signature. Only a bundle that can be read is signed: nobody stands for what nobody can judge by.
func Sign(file string, data []byte, id string, key crypto.Signer, random io.Reader) ([]byte, error) {
	if _, err := Parse(file, data); err != nil {
		return nil, err
	}
	return signed.Sign(data, fileLimits, signedKind, id, key, random)
}

// SignedBy are the kids of the file's signatures, not verified.
func (b *Bundle) SignedBy() []string {
	if b.envelope == nil {
		return nil
	}
	ids := make([]string, len(b.envelope.Signatures))
	for i, s := range b.envelope.Signatures {
		ids[i] = s.Key
	}
	return ids
}
