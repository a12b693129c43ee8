package evidence

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence/android"
	"sealkeeper/internal/strict"
)

// Bounds of what is fed. Google's list has some thousands of entries; a wallet provider's list of a million wallets has 128 KiB.
const (
	MaxPhoneStatus = 1 << 20
	maxLists       = 64
	maxInflated    = 4 << 20  // of one list
	maxInflatedAll = 32 << 20 // of all
)

// PhoneStatus is what was true at one instant of attestation keys and wallets: Google's list of revoked attestation keys, and the status lists
// to which wallet providers point. It is fed, because the appliance asks nobody.
type PhoneStatus struct {
	asOf    time.Time
	android *android.StatusList
	lists   map[string]walletList // by URI
}

type walletList struct {
	bits  int
	image []byte
	ends  time.Time // zero: not stated
}

// ParsePhoneStatus reads the payload of a fed status. Whose word it is, is for others to ask.
func ParsePhoneStatus(payload []byte) (*PhoneStatus, error) {
	malformed := func(why string) (*PhoneStatus, error) { return nil, errors.New(why) }
	var f struct {
		Format  int            `json:"format"`
		AsOf    time.Time      `json:"as_of"`
		Android jsontext.Value `json:"android"`
		Lists   []struct {
			URI  string `json:"uri"`
			Bits int    `json:"bits"`
			List string `json:"lst"`
			Exp  *int64 `json:"exp"` // of the Status List Token
		} `json:"lists"`
	}
	if strict.JSON(payload, strict.Limits{Bytes: MaxPhoneStatus, Depth: 4}, &f) != nil || f.Format != 1 || f.AsOf.IsZero() {
		return malformed("the status is not one strict JSON object of format 1 with as_of")
	}
	s := &PhoneStatus{asOf: f.AsOf, lists: map[string]walletList{}}
	if len(f.Android) > 0 {
		var err error
		if s.android, err = android.ParseStatusList(f.Android, f.AsOf); err != nil {
			return nil, err
		}
	}
	if len(f.Lists) > maxLists {
		return malformed("the status has more than 64 lists")
	}
	room := int64(maxInflatedAll)
	for _, l := range f.Lists {
		if _, twice := s.lists[l.URI]; twice || !goodURI(l.URI) || l.Bits != 1 && l.Bits != 2 && l.Bits != 4 && l.Bits != 8 {
			return malformed("a list has no URI of its own, or not 1, 2, 4 or 8 bits")
		}
		packed, ok := decode64(l.List)
		if !ok {
			return malformed("a list's lst is not canonical unpadded base64url")
		}
		r, err := zlib.NewReader(bytes.NewReader(packed))
		if err != nil {
			return malformed("a list's lst is not DEFLATE in ZLIB format")
		}
		image, err := io.ReadAll(io.LimitReader(r, min(room, maxInflated)+1))
		if err != nil || len(image) == 0 || int64(len(image)) > min(room, maxInflated) {
			return malformed("a list's lst can't be inflated, is empty, or is larger than 4 MiB, all together 32 MiB")
		}
		room -= int64(len(image))
		ends, ok := instant(l.Exp)
		if !ok && l.Exp != nil {
			return malformed("a list's exp is not in whole seconds before the year 10000")
		}
		s.lists[l.URI] = walletList{l.Bits, image, ends}
	}
	return s, nil
}

// AsOf is the instant at which it was true.
func (s *PhoneStatus) AsOf() time.Time { return s.asOf }

// Entries counts revoked attestation keys, and lists of wallets.
func (s *PhoneStatus) Entries() (android, lists int) {
	if s.android != nil {
		android = s.android.Len()
	}
	return android, len(s.lists)
}

// Names of what a wallet provider points to.
const (
	StatusAttestation = "attestation" // status: of the key attestation itself (OpenID4VCI D.1)
	StatusKeyStorage  = "key_storage" // key_storage_status: of the secure hardware's type (TS3)
	StatusWallet      = "wallet"      // client_status: of the wallet (TS3)
)

// Status is a status that a wallet provider points to. Value is only told where the list was fed and is fresh enough.
type Status struct {
	Name  string
	Ends  time.Time // until when the wallet provider keeps it up to date; zero: not stated
	Known bool      // a fresh list was asked
	Value byte      // 0: valid
}

// statusClaim is status, or what stands inside key_storage_status and client_status.
type statusClaim struct {
	List *struct {
		Index *int64 `json:"idx"`
		URI   string `json:"uri"`
	} `json:"status_list"`
}

// statuses looks up what the attestation points to. A revoked one is refused here, whatever the rules: nobody may be believed who says of
// himself that he must not be. What can't be looked up is policy's to judge.
func (a *attestation) statuses(about About) (out []Status, err error) {
	now := about.Now
	if now.IsZero() {
		now = about.At
	}
	for _, c := range []struct {
		name   string
		claim  *statusClaim
		ends   *int64
		stated bool
	}{
		{StatusAttestation, a.status, nil, a.status != nil},
		{StatusKeyStorage, a.keyStorageStatus.Status, a.keyStorageStatus.Exp, a.keyStorageStatus.stated()},
		{StatusWallet, a.clientStatus.Status, a.clientStatus.Exp, a.clientStatus.stated()},
	} {
		if !c.stated {
			continue
		}
		s := Status{Name: c.name}
		if c.ends != nil {
			var ok bool
			if s.Ends, ok = instant(c.ends); !ok {
				return nil, refuse("status_malformed", "the exp of a status is not in whole seconds before the year 10000")
			}
			if !about.At.Before(s.Ends) {
				return nil, refuse("status_expired", "the wallet provider keeps a status up to date no longer: "+c.name)
			}
		}
		if c.claim != nil && c.claim.List != nil {
			l := c.claim.List
			if l.Index == nil || *l.Index < 0 || !goodURI(l.URI) {
				return nil, refuse("status_malformed", "a status_list lacks idx or uri")
			}
			if s.Value, s.Known, err = about.Status.lookup(l.URI, *l.Index, now, about.StatusMaxAge); err != nil {
				return nil, err
			}
			if s.Known && s.Value != 0 {
				return nil, refuse("status_revoked", "the wallet provider's list says that it is revoked or suspended: "+c.name)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// lookup reads a value. Known is false for a list that was not fed, or is not fresh.
func (s *PhoneStatus) lookup(uri string, index int64, now time.Time, maxAge time.Duration) (value byte, known bool, err error) {
	if s == nil || maxAge <= 0 || now.Sub(s.asOf) > maxAge {
		return 0, false, nil
	}
	l, ok := s.lists[uri]
	if !ok || !l.ends.IsZero() && !now.Before(l.ends) {
		return 0, false, nil
	}
	perByte := int64(8 / l.bits)
	if index/perByte >= int64(len(l.image)) { // Token Status List 8.3: MUST reject
		return 0, false, refuse("status_malformed", "a status_list's idx is outside of its list")
	}
	return l.image[index/perByte] >> (int(index%perByte) * l.bits) & byte(1<<l.bits-1), true, nil
}

func goodURI(s string) bool {
	return len(s) <= 256 && strings.HasPrefix(s, "https://") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
