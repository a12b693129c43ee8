package evidence

import (
	"crypto/subtle"
	"errors"
)

// checkPrevious checks the proof of a key that the phone was given credentials for before, by which it shows that it is still the same phone
// when it brings new keys. It is made as the request's own proof is, over the same nonce, and carries no attestation: that the key was
// attested is what the slot remembers. The zero thumbprint: there is none.
func (v *Verifier) checkPrevious(about About, nonce, compact string) (of [32]byte, _ error) {
	no := func(detail string) ([32]byte, error) { return [32]byte{}, refuse("previous_proof", detail) }
	if compact == "" {
		return of, nil
	}
	p, err := readProof(compact)
	if err == nil {
		err = p.check(about, v.trust)
	}
	var bad *Refusal
	switch {
	case errors.As(err, &bad):
		return no("the proof of a former key: " + bad.detail)
	case err != nil:
		return of, err
	case p.key == nil || p.attestation != "":
		return no("the proof of a former key names it by jwk, and has no attestation")
	case subtle.ConstantTimeCompare([]byte(p.nonce), []byte(nonce)) != 1:
		return no("the proof of a former key must have the nonce of the request's own proof")
	case !p.signedBy(p.key.Public):
		return no("the proof of a former key isn't signed by the key that it names")
	}
	return p.key.Thumbprint, nil
}
