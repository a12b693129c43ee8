package ceremony

// Script is what is done in a ceremony: who is there, what is compared, what is made. It is printed before, and stands in what officers sign.
// Transcripts keep the script that theirs had.
var Script = []string{
	"1. Present are all officers of the registry, each with their key, and an operator of this machine. Auditors of the registry may watch, and sign as well.",
	"2. Compare: each officer reads the fingerprint of their key aloud, as `sealctl officer key` printed it; the program's SHA-256 is that of the release.",
	"3. Every officer signs this statement, which shows that they have their key: `sealctl ceremony sign`.",
	"4. The ledger is made. Its first entries are this statement with its signatures and the registry of officers: no key is older.",
	"5. The tokens are made, each with a PIN of its own that nobody has seen. Compare their serial numbers, if the HSM shows them.",
	"6. The domain secret is made on the online token, which it leaves wrapped to a key of that token, and never otherwise.",
	"7. The keys are made on their tokens. The root certifies itself and the others; each certificate is read again before it is signed.",
	"8. The first revocation lists are signed, and the TLS certificate of the issuance listener.",
	"9. A backup key is made, of which there are shares only, one for each officer, closed with a passphrase of their own. A first backup is made; every share is opened again, and as many as must open the backup.",
	"10. The transcript is closed with the head of the ledger's log. Compare its SHA-256, each on their own machine: `sealctl ceremony verify`.",
	"11. The officers sign the transcript, as many as the registry's strictest action needs. Until then the daemon does not serve.",
}
