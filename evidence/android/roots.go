package android

import "encoding/hex"

// GoogleRoots are the keys of the two roots that sign phones in the field, by SHA-256 of their SubjectPublicKeyInfo: the RSA key of 2016,
// whose certificates end in 2026, 2034 and 2042, and the ECDSA P-384 key "Key Attestation CA1" of 2025. Phones have one or the other.
func GoogleRoots() [][32]byte {
	var roots [][32]byte
	for _, s := range []string{
		"feb2ea7551ee316ed4bb443c8293b884dbfdea40b603ee3e4f4a897e4580fbae",
		"3ee44512a1af2beb39c889490c60ea3f82e43f5d5a5532f5ab9419f676cd07ec",
	} {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != 32 {
			panic("android: a constant is no SHA-256")
		}
		roots = append(roots, [32]byte(b))
	}
	return roots
}
