package android

import (
	"time"
	"unicode/utf8"

	"sealkeeper/internal/strict"
)

// MaxStatusList bounds Google's list in bytes.
const MaxStatusList = 16 << 20

const maxStatusEntries = 1 << 17

// StatusList is the content of https://android.googleapis.com/attestation/status as it was at one instant: certificates of attestation keys
// that must not be believed.
type StatusList struct {
	asOf  time.Time
	state map[string]string // serial number → REVOKED or SUSPENDED
}

// ParseStatusList decodes Google's JSON by its published schema and nothing beyond it: an entry that can't be understood might be the one
// that matters. asOf is the instant at which the list was true; whoever fetched it vouches for that.
func ParseStatusList(document []byte, asOf time.Time) (*StatusList, error) {
	var doc struct {
		Entries map[string]struct {
			Status  string  `json:"status"`
			Expires *string `json:"expires"`
			Reason  *string `json:"reason"`
			Comment *string `json:"comment"`
		} `json:"entries"`
	}
	if asOf.IsZero() || strict.JSON(document, strict.Limits{Bytes: MaxStatusList, Depth: 3}, &doc) != nil || doc.Entries == nil || len(doc.Entries) > maxStatusEntries {
		return nil, refuse("status_malformed", "the status list is not one strict JSON object of Google's schema with an instant, 16 MiB and 131,072 entries at most")
	}
	l := &StatusList{asOf: asOf, state: make(map[string]string, len(doc.Entries))}
	for serial, e := range doc.Entries {
		switch {
		case !hexadecimal(serial):
			return nil, refuse("status_malformed", "the status list names a certificate by something other than a serial number in small hexadecimal without zeros in front")
		case e.Status != "REVOKED" && e.Status != "SUSPENDED":
			return nil, refuse("status_malformed", "the status list has a status other than REVOKED and SUSPENDED")
		case e.Comment != nil && utf8.RuneCountInString(*e.Comment) > 140:
			return nil, refuse("status_malformed", "the status list has a comment of more than 140 characters")
		}
		if e.Reason != nil {
			switch *e.Reason {
			case "UNSPECIFIED", "KEY_COMPROMISE", "CA_COMPROMISE", "SUPERSEDED", "SOFTWARE_FLAW":
			default:
				return nil, refuse("status_malformed", "the status list has a reason that Google's schema doesn't know")
			}
		}
		if e.Expires != nil {
			if _, err := time.Parse(time.DateOnly, *e.Expires); err != nil {
				return nil, refuse("status_malformed", "the status list has an expires that is no date")
			}
		}
		l.state[serial] = e.Status
	}
	return l, nil
}

// AsOf is the instant at which the list was true.
func (l *StatusList) AsOf() time.Time { return l.asOf }

// Len is the number of entries.
func (l *StatusList) Len() int { return len(l.state) }

func hexadecimal(s string) bool {
	if len(s) == 0 || len(s) > 40 || s[0] == '0' { // 20 octets, RFC 5280 4.1.2.2
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// check fails closed: what can't be looked up in a fresh list is not believed. Suspended is as bad as revoked, as Google says.
func (l *StatusList) check(serials []string, at time.Time, trust Trust) error {
	switch {
	case l == nil:
		return refuse("status_missing", "the appliance has no list of revoked attestation keys")
	case l.asOf.After(at.Add(trust.Skew)):
		return refuse("status_from_future", "the list of revoked attestation keys is of a later instant than now: a clock is wrong")
	case at.Sub(l.asOf) > trust.StatusMaxAge:
		return refuse("status_stale", "the appliance's list of revoked attestation keys is too old to be relied on")
	}
	for _, s := range serials {
		if l.state[s] != "" {
			return refuse("revoked", "Google's status list names a certificate of the chain: that attestation key is revoked or suspended")
		}
	}
	return nil
}
