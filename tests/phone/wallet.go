package phone

import "time"

// AttestWallet asks the wallet provider for a wallet attestation of key i, valid for an hour from at, and makes its proof of possession over the
// nonce: both as they go into a request.
func (p *Phone) AttestWallet(provider *Provider, i int, audience, nonce string, at time.Time, attestation, proof []Option) string {
	wallet := compact(provider.leafKey,
		map[string]any{"typ": "oauth-client-attestation+jwt", "alg": algorithm(provider.leafKey.Public()), "x5c": provider.X5C()},
		map[string]any{"iss": "https://wallet.example", "sub": "wallet", "iat": at.Unix(), "exp": at.Add(time.Hour).Unix(), "cnf": map[string]any{"jwk": p.JWK(i)}}, attestation)
	return wallet + "~" + compact(p.keys[i], map[string]any{"typ": "oauth-client-attestation-pop+jwt", "alg": algorithm(p.PublicKey(i))},
		map[string]any{"iss": "wallet", "aud": audience, "jti": b64([]byte(nonce)[:16]), "iat": at.Unix(), "challenge": nonce}, proof)
}
