package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// names of the public certificates by purpose.
var names = map[policy.Purpose]string{policy.PurposeIACA: "iaca", policy.PurposeMDoc: "ds", policy.PurposeSDJWT: "sdjwt-issuer", policy.PurposeList: "status-signer", policy.PurposeClientCA: "client-ca"}

// public says whether a key's certificate is published: from its announcement until it has expired, since what was signed with it is verified
// until then, and nothing that it signs outlives it.
func public(k ledger.Key, now time.Time) bool {
	switch k.State {
	case ledger.KeyAnnounced, ledger.KeyActive, ledger.KeyDeactivated, ledger.KeyCompromised, ledger.KeyDestroyed:
		return len(k.Chain) > 0 && now.Before(notAfter(k.Chain[0]))
	}
	return false
}

// shelveCertificates publishes the certificates of keys, the SD-JWT VC issuer metadata, and the trust bundle: what all of them are good for and
// when.
func (a *Authority) shelveCertificates(ctx context.Context) error {
	a.shelving.Lock()
	defer a.shelving.Unlock()
	now := a.o.Guard.ForLists()
	keys := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	trust := contract.TrustBundle{Issuer: a.o.BaseURL, Keys: []contract.TrustedKey{}}
	for _, k := range a.o.Ledger.Keys() {
		if !public(k, now) {
			continue
		}
		cert, err := x509.ParseCertificate(k.Chain[0])
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", k.ID, err)
		}
		// What its certificate's revocation says of a key counts also where the ledger is one of before that.
		if r, withdrawn := a.o.Ledger.Withdrawn(k.ID); withdrawn && k.State != ledger.KeyDestroyed {
			k.State, k.Since = ledger.KeyCompromised, r.At
		}
		if k.State == ledger.KeyActive {
			a.o.Metrics.CertExpires.WithLabelValues(k.ID).Set(float64(cert.NotAfter.Unix()))
		}
		if k.Purpose != policy.PurposeClientCA { // a verifier has nothing to do with the appliance's clients
			t := contract.TrustedKey{ID: k.ID, Purpose: string(k.Purpose), Algorithm: k.Algorithm, State: string(k.State), Since: k.Since, NotBefore: k.NotBefore, NotAfter: k.NotAfter,
				Until: cert.NotAfter, Certificate: k.Chain[0], Link: k.Link}
			sum := sha256.Sum256(k.SPKI)
			if k.Since.After(trust.AsOf) {
				trust.AsOf = k.Since
			}
			t.SPKI = hex.EncodeToString(sum[:])
			trust.Keys = append(trust.Keys, t)
		}
		if k.Purpose == policy.PurposeSDJWT && k.State != ledger.KeyCompromised {
			keys.Keys = append(keys.Keys, jose.JSONWebKey{Key: cert.PublicKey, KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"})
		}
	}
	bundle, err := json.Marshal(trust)
	if err != nil {
		return err
	}
	if len(trust.Keys) > 0 {
		if err := a.show("trust.json", Object{MediaType: "application/json", Bytes: bundle, Modified: now, MaxAge: trustAge}); err != nil {
			return err
		}
	}
	if len(keys.Keys) > 0 {
		meta, err := json.Marshal(struct {
			Issuer string             `json:"issuer"`
			Keys   jose.JSONWebKeySet `json:"jwks"`
		}{a.o.BaseURL, keys})
		if err != nil {
			return err
		}
		if err := a.show(".well-known/jwt-vc-issuer", Object{MediaType: "application/json", Bytes: meta, Modified: now, MaxAge: trustAge}); err != nil {
			return err
		}
	}
	for _, k := range a.o.Ledger.Keys() {
		if !public(k, now) {
			continue
		}
		all := map[string][]byte{}
		for _, name := range a.namesOf(k, now) {
			all[name] = k.Chain[0]
		}
		if k.Link != nil {
			all[k.ID+".link"] = k.Link
		}
		for name, der := range all {
			text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			for ext, o := range map[string]Object{
				".cer": {MediaType: "application/pkix-cert", Bytes: der},
				".pem": {MediaType: "application/x-pem-file", Bytes: text},
			} {
				o.Modified, o.MaxAge = k.Since, time.Hour
				if err := a.show("certificates/"+name+ext, o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// showCertificates publishes them; if it fails, the next look at the keys tries again.
func (a *Authority) showCertificates(ctx context.Context) {
	err := a.shelveCertificates(ctx)
	if n, news := a.faults.News("certificates", err); news {
		a.o.Log.Error("publishing certificates", "error", err, "suppressed", n)
	}
}

// trustAge is how long caches may keep what says which keys there are. A key is announced longer than that before it signs.
const trustAge = time.Hour

// namesOf a key's published certificate: its own for ever, and that of its purpose while it is the one that signs.
func (a *Authority) namesOf(k ledger.Key, now time.Time) []string {
	out := []string{k.ID}
	if newest, err := a.activeKey(k.Purpose, now); err == nil && newest.ID == k.ID {
		out = append(out, names[k.Purpose])
	}
	return out
}

// show puts something on the shelf and into the publish directory. What is there already is not written again.
func (a *Authority) show(name string, o Object) error {
	if was, ok := a.Public(name); ok && bytes.Equal(was.Bytes, o.Bytes) {
		return nil
	}
	if a.o.Directory != "" {
		if was, err := os.ReadFile(filepath.Join(a.o.Directory, filepath.FromSlash(name))); err != nil || !bytes.Equal(was, o.Bytes) {
			if err := a.file(name, o.Bytes); err != nil { // first: what is on the shelf is not written again
				return err
			}
		}
	}
	a.public.put(name, o)
	return nil
}

// announced: whoever looks is shown the key's certificate, and a root's link. The key of tokens has none.
func (a *Authority) announced(k ledger.Key) bool {
	if len(k.Chain) == 0 {
		return true
	}
	_, ok := a.Public("certificates/" + k.ID + ".cer")
	if ok && k.Link != nil {
		_, ok = a.Public("certificates/" + k.ID + ".link.cer")
	}
	return ok
}
