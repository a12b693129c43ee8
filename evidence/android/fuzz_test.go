package android

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/tests/phone"
)

// encode writes what was decoded: DER has one encoding, so every description that is taken must come out as it went in.
func (l *AuthorizationList) encode(t *testing.T, original []byte) []byte {
	var fields [][]byte
	for _, f := range l.fields {
		var der []byte
		switch formOf(f.tag) {
		case integer:
			der = derNumber(2, f.number)
		case integers:
			var set [][]byte
			for _, n := range f.numbers {
				set = append(set, derNumber(2, n))
			}
			der = phone.DERSet(set...)
		case null:
			der = phone.DERNull()
		case octets:
			der = phone.DEROctets(f.content)
			if f.tag == applicationID {
				var packages, signers [][]byte
				for _, p := range l.application.Packages {
					packages = append(packages, phone.DERSequence(phone.DEROctets([]byte(p.Name)), derNumber(2, p.Version)))
				}
				for _, s := range l.application.Signers {
					signers = append(signers, phone.DEROctets(s))
				}
				der = phone.DEROctets(phone.DERSequence(phone.DERSet(packages...), phone.DERSet(signers...)))
			}
		case sequence:
			r := l.rootOfTrust
			flag := byte(0)
			if r.DeviceLocked {
				flag = 0xff
			}
			parts := [][]byte{phone.DEROctets(r.BootKey), {1, 1, flag}, phone.DEREnum(int(r.BootState))}
			if r.BootHash != nil {
				parts = append(parts, phone.DEROctets(r.BootHash))
			}
			der = phone.DERSequence(parts...)
		default: // an unknown field's content is not kept; find it where it stood
			for b := original; len(b) > 0; {
				e, rest, ok := next(b)
				if !ok {
					t.Fatal("a list that was taken can't be read")
				}
				if e.tag == f.tag {
					der = e.content
				}
				b = rest
			}
		}
		fields = append(fields, phone.DERField(int(f.tag), der))
	}
	return phone.DERSequence(fields...)
}

func derNumber(tag byte, n uint64) []byte {
	b := new(big.Int).SetUint64(n).Bytes()
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	return append([]byte{tag, byte(len(b))}, b...)
}

func seedDescriptions(f *testing.F) (seeds [][]byte) {
	f.Helper()
	files, err := filepath.Glob("testdata/chains/*/*/*.pem")
	if err != nil {
		f.Fatal(err)
	}
	more, err := filepath.Glob("testdata/chains/*/*.pem")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, more...) {
		seeds = append(seeds, extensionOf(f, readChain(f, file)[0]))
	}
	for _, name := range []string{"TEE", "StrongBox"} {
		seeds = append(seeds, extensionOf(f, readChain(f, legacy(name)...)[0]))
	}
	d := phone.NewKeyDescription(challenge, wallet.Package, signer, now)
	for _, tag := range []int{MGFDigest, UsageCountLimit, 799} {
		d.Hardware.Set(tag, phone.DERSet(phone.DERInt(2)))
	}
	d.Hardware.Set(UsageCountLimit, phone.DERInt(1))
	return append(seeds, d.Encode())
}

func FuzzParseDescription(f *testing.F) {
	fuzzing.Run(f, fuzzing.Options{Longest: 2 * maxDescription}, seedDescriptions(f), func(t *testing.T, der []byte) bool {
		d, err := ParseDescription(der)
		if err != nil {
			if c := code(err); c != "description_malformed" {
				t.Errorf("code %s", c)
			}
			return false
		}
		outer, _, _ := next(der)
		r := reader{left: outer.content}
		version, level, mint, mintLevel := r.number(tagInteger), r.number(tagEnumerated), r.number(tagInteger), r.number(tagEnumerated)
		nonce, unique, soft, hard := r.take(tagOctets), r.take(tagOctets), r.take(tagSequence), r.take(tagSequence)
		again := phone.DERSequence(derNumber(2, version), derNumber(10, level), derNumber(2, mint), derNumber(10, mintLevel), phone.DEROctets(nonce), phone.DEROctets(unique),
			d.Software.encode(t, soft), d.Hardware.encode(t, hard))
		if !bytes.Equal(again, der) {
			t.Errorf("%x was read as %x", der, again)
		}
		return true
	})
}

// split takes certificates apart that stand one after the other.
func split(b []byte) (chain [][]byte) {
	for len(b) > 0 && len(chain) <= MaxChain {
		_, rest, ok := next(b)
		if !ok {
			return append(chain, b)
		}
		chain = append(chain, b[:len(b)-len(rest)])
		b = rest
	}
	return chain
}

// forger holds the keys of a chain that the target trusts, so that what was changed can be signed again and gets past the signatures.
type forger struct{ keys [4]*ecdsa.PrivateKey } // leaf, attestation key, intermediate, root

func newForger(f *testing.F) *forger {
	w := &forger{}
	for i := range w.keys {
		var err error
		if w.keys[i], err = ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{byte(i + 1)}, 32)); err != nil {
			f.Fatal(err)
		}
	}
	return w
}

func (w *forger) chain(f *testing.F) []byte {
	a, err := phone.NewAndroid(now, phone.AndroidBend{Key: func(depth int) crypto.Signer { return w.keys[depth] }})
	if err != nil {
		f.Fatal(err)
	}
	return slices.Concat(a.Chain(w.keys[0].Public(), phone.NewKeyDescription(challenge, wallet.Package, signer, now).Encode(), nil)...)
}

// repair signs each certificate again with the key that belongs above its place, over its own content as it stands.
func (w *forger) repair(input []byte) []byte {
	chain := split(input)
	if len(chain) != len(w.keys) {
		return input
	}
	var out []byte
	for i, c := range chain {
		e, rest, ok := next(c)
		if !ok || len(rest) > 0 {
			return input
		}
		_, rest, ok = next(e.content)
		if !ok {
			return input
		}
		tbs := e.content[:len(e.content)-len(rest)]
		digest := sha256.Sum256(tbs)
		sig, err := ecdsa.SignASN1(rand.Reader, w.keys[min(i+1, len(w.keys)-1)], digest[:])
		if err != nil {
			return input
		}
		ecdsaSHA256 := []byte{0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}
		bits := append([]byte{3, byte(len(sig) + 1), 0}, sig...)
		out = append(out, phone.DERSequence(tbs, ecdsaSHA256, bits)...)
	}
	return out
}

func FuzzVerify(f *testing.F) {
	forge := newForger(f)
	own := forge.chain(f)
	root, err := x509.ParseCertificate(split(own)[3])
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{own}
	for _, glob := range []string{"testdata/chains/*/*/*.pem", "testdata/chains/*/*.pem", "testdata/chains/*.pem"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			seeds = append(seeds, slices.Concat(readChain(f, file)...))
		}
	}
	trust := Trust{Roots: append(GoogleRoots(), spki(root)), Status: emptyStatus(f, now), StatusMaxAge: time.Hour}
	rules := Rules{Apps: []App{wallet}, OSPatch: 202001, PatchAge: 1 << 60, RequireModel: true, Auth: Auth{Required: true}}
	explained := map[string]bool{}
	for _, c := range Codes {
		explained[c.Code] = true
	}
	fuzzing.Run(f, fuzzing.Options{Repair: forge.repair, Longest: 2 * maxDER}, seeds, func(t *testing.T, input []byte) bool {
		a, err := Verify(split(input), Expected{Challenge: challenge, At: now}, trust, rules)
		if err != nil {
			if r, ok := err.(*Refusal); !ok || !explained[r.Code()] || a != nil {
				t.Errorf("%v, %v", a, err)
			}
			return false
		}
		fact := a.Facts()
		if !a.Valid() || fact.Level < TrustedEnvironment || fact.BootState != Verified || fact.App.Name != wallet.Package || fact.OSPatch < 202001 || !slices.Contains(fact.Purposes, PurposeSign) ||
			fact.Device.Model == "" || fact.AuthTypes == 0 {
			t.Errorf("%+v", fact)
		}
		return true
	})
}

func FuzzParseStatusList(f *testing.F) {
	sample, err := os.ReadFile("testdata/legacy/status.json")
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{sample, []byte(`{"entries":{}}`), []byte(`{"entries":{"1a":{"status":"REVOKED","reason":"SOFTWARE_FLAW","expires":"2026-02-28","comment":"x"}}}`)}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, document []byte) bool {
		l, err := ParseStatusList(document, now)
		if err != nil {
			if c := code(err); c != "status_malformed" {
				t.Errorf("code %s", c)
			}
			return false
		}
		for serial, status := range l.state {
			if n, ok := new(big.Int).SetString(serial, 16); !ok || n.Text(16) != serial || l.check([]string{n.Text(16)}, now, Trust{StatusMaxAge: 1}) == nil || status == "" {
				t.Errorf("%q is %q and is not found", serial, status)
			}
		}
		return true
	})
}
