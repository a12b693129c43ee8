package fsck

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"sealkeeper/ledger"
)

// person is what the number of a resident looks like: the day of birth, a hyphen or none, seven digits.
var person = regexp.MustCompile(`^\d{6}-?\d{7}$`)

// others are members that say something of organisations and documents in words or days: names in certificates, who attested a phone, until when the
// plastic card is valid, and why officers did what they did, in the words that they signed.
var others = map[ledger.Table][]string{ledger.TableReservations: {"name"}, ledger.TableCertificates: {"name"}, ledger.TableKeys: {"name"}, ledger.TableKeyLife: {"reason"},
	ledger.TableCampaigns: {"reason"}, ledger.TableDecisions: {"attestation_issuer", "card_expiry"}}

// persons: what is at rest are ids, codes, digests, pseudonyms, times and numbers (I10). A name, an address, a day of birth or a subject's number
// is none of them. (Keys of rows, and what is sealed or hashed, can't be told from other bytes.)
func (f *run) persons() error {
	c := f.r.check("I10", "no leaf and no row says who somebody is: ids, codes, digests and times only")
	return f.a.Texts(f.ctx, func(t ledger.Table, seq uint64, member, text string) {
		if why := saying(text); why == "" || why != like && slices.Contains(others[t], member) {
			return
		} else if t == "" {
			c.fail("entry %d: %s is %s", seq, member, why)
		} else {
			c.fail("table %s, entry %d: %s is %s", t, seq, member, why)
		}
	})
}

const like = "a number like a person's"

// saying is what a text may say of a person; nothing if it is an id, a code, a digest or a time. The text itself is not repeated.
func saying(text string) string {
	switch {
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "a text in words"
	case person.MatchString(text):
		return like
	}
	if _, err := time.Parse(time.DateOnly, text); err == nil {
		return "a day"
	}
	return ""
}
