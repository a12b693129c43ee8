// Package mdoc builds ISO/IEC 18013-5 issuer data: IssuerSigned with a Mobile Security Object that binds the phone's key.
package mdoc

import (
	"errors"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

var errNotBuilt = errors.New("not built")

// TBS is one drafted credential: the exact COSE Sig_structure that is to be signed and what Join needs. Only Draft makes one.
type TBS struct{}

// Bytes is the Sig_structure ["Signature1", protected, h”, payload].
func (t *TBS) Bytes() []byte { return nil }

// NotAfter is validUntil.
func (t *TBS) NotAfter() time.Time { return time.Time{} }

// Params beside the approval and the ticket.
type Params struct {
	Key      int        // which of the approval's keys
	Seed     [32]byte   // ledger.Seed: all salts, digest ids, decoys and time jitter come from it by HKDF with labels naming format and Key
	Signer   ledger.Key // document signer: its chain goes into x5chain, its algorithm into the protected header
	SignedAt time.Time  // the approval's instant; coarsened, never before the signer certificate's notBefore
}

// Draft builds the bytes to be signed. The same input gives the same bytes.
func Draft(a *policy.Approval, t *ledger.Ticket, p Params) (*TBS, error) { return nil, errNotBuilt }

// Join makes IssuerSigned (CBOR) out of the draft and the verified signature of item i. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) { return nil, errNotBuilt }
