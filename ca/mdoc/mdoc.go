// Package mdoc builds ISO/IEC 18013-5 issuer data: IssuerSigned with a Mobile Security Object (MSO) that binds the phone's key.
//
// A verifier compares bytes, not meanings: digests run over the exact IssuerSignedItemBytes, the signature over the exact payload. So
// every map here has one order, that of the standard's CDDL, and nothing is encoded twice. Clauses are those of the second edition's
// working draft 4 (WD v4).
package mdoc

import (
	"errors"
	"time"

	"sealkeeper/ca/certified"
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
	nameSpaces []byte
	sigSize    int
	notAfter   time.Time
}

// Bytes is the Sig_structure ["Signature1", protected, h”, payload].
func (t *TBS) Bytes() []byte { return t.bytes }

// NotAfter is validUntil.
func (t *TBS) NotAfter() time.Time { return t.notAfter }

// Draft builds the bytes to be signed. The same input gives the same bytes.
func Draft(a *policy.Approval, t *ledger.Ticket, p certified.Params) (*TBS, error) {
	issue, err := certified.Approved(a, t, p, policy.MDoc, policy.PurposeMDoc)
	if err != nil {
		return nil, err
	}
	return build(plain{
		docType:  issue.DocType,
		values:   issue.Values,
		device:   issue.Keys[p.Key].Public,
		uri:      t.URI(),
		index:    t.Index(),
		signer:   p.Signer,
		signedAt: p.SignedAt,
		grain:    issue.TimeGrain,
		lifetime: issue.Lifetime,
		decoys:   issue.Decoys,
		seed:     p.Seed,
		copy:     p.Key,
	})
}

// Size is about how long IssuerSigned will be, and never less than that.
func (t *TBS) Size() int {
	size := len(t.nameSpaces) + len(t.payload) + t.sigSize + 128
	for _, der := range t.chain {
		size += len(der) + 8
	}
	return size
}

// Join makes IssuerSigned (CBOR) out of the draft and the verified signature of item i. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) {
	if t == nil {
		return nil, errors.New("joining without a draft")
	}
	signature, err := certified.Signature(c, i, t.bytes)
	if err != nil {
		return nil, err
	}
	return t.join(signature)
}
