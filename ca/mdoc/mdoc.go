// Package mdoc builds ISO/IEC 18013-5 issuer data: IssuerSigned with a Mobile Security Object (MSO) that binds the phone's key.
//
// A verifier compares bytes, not meanings: digests run over the exact IssuerSignedItemBytes, the signature over the exact payload. So
// every map here has one order, that of the standard's CDDL, and nothing is encoded twice. Clauses are those of the second edition's
// working draft 4 (WD v4).
package mdoc

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// TBS is one drafted credential: the exact COSE Sig_structure that is to be signed and what Join needs. Only Draft makes one.
type TBS struct {
	bytes      []byte // Sig_structure
	protected  []byte
	payload    []byte
	chain      [][]byte
	nameSpaces ordered
	sigSize    int
	notAfter   time.Time
}

// Bytes is the Sig_structure ["Signature1", protected, h”, payload].
func (t *TBS) Bytes() []byte { return t.bytes }

// NotAfter is validUntil.
func (t *TBS) NotAfter() time.Time { return t.notAfter }

// Params beside the approval and the ticket.
type Params struct {
	Key      int        // which of the approval's keys
	Seed     [32]byte   // ledger.Seed: all salts, digest ids and decoys come from it by HKDF with labels naming format and Key
	Signer   ledger.Key // document signer: its chain goes into x5chain, its algorithm into the protected header
	SignedAt time.Time  // the approval's instant; coarsened, never before the signer certificate's notBefore
}

// Draft builds the bytes to be signed. The same input gives the same bytes.
func Draft(a *policy.Approval, t *ledger.Ticket, p Params) (*TBS, error) {
	if !a.Valid() {
		return nil, errors.New("drafting without an approval")
	}
	issue, ok := a.Issue()
	switch {
	case !ok:
		return nil, errors.New("an mdoc needs an approved issue or refresh")
	case !a.Allows(policy.PurposeMDoc) || p.Signer.Purpose != policy.PurposeMDoc:
		return nil, fmt.Errorf("key %q is not one that this approval lets sign an mdoc", p.Signer.ID)
	case t == nil || t.Format() != policy.MDoc || t.URI() == "":
		return nil, errors.New("an mdoc needs an unspent ticket of an mdoc status list")
	case p.Key < 0 || p.Key >= len(issue.Keys):
		return nil, fmt.Errorf("key %d of %d approved ones", p.Key, len(issue.Keys))
	}
	return build(plain{
		docType:   issue.DocType,
		values:    issue.Values,
		device:    issue.Keys[p.Key].Public,
		uri:       t.URI(),
		index:     t.Index(),
		algorithm: p.Signer.Algorithm,
		chain:     p.Signer.Chain,
		spki:      p.Signer.SPKI,
		signedAt:  p.SignedAt,
		grain:     issue.TimeGrain,
		lifetime:  issue.Lifetime,
		decoys:    issue.Decoys,
		seed:      p.Seed,
		copy:      p.Key,
	})
}

// Join makes IssuerSigned (CBOR) out of the draft and the verified signature of item i. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) {
	switch {
	case t == nil || len(t.bytes) == 0:
		return nil, errors.New("joining an mdoc without a draft")
	case c == nil || i < 0 || i >= c.Len():
		return nil, errors.New("joining an mdoc without a checked signature")
	case !bytes.Equal(c.TBS(i), t.bytes):
		return nil, errors.New("the checked signature is over other bytes than this mdoc's")
	}
	return t.join(c.Raw(i))
}
