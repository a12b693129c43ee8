package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/policy"
)

// Audit reads a ledger as it is stored, for fsck and auditors. It writes nothing and needs no secret.
type Audit struct{ store Store }

// OpenAudit reads a ledger file as of this instant, also while a daemon goes on writing to it. Close it soon: the file can't shrink its
// log while it is read.
func OpenAudit(ctx context.Context, path string) (*Audit, error) {
	s, err := snapshotSQLite(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Audit{store: s}, nil
}

// Audit reads the open ledger. What it reads later may be newer.
func (l *Ledger) Audit() *Audit { return &Audit{store: l.store} }

// Close ends an audit that OpenAudit began.
func (a *Audit) Close() error { return a.store.Close() }

// Head is the log's size and root hash, computed from the stored hashes.
func (a *Audit) Head(ctx context.Context) (size uint64, root tlog.Hash, err error) {
	return a.store.Head(ctx)
}

// Hashes reads the log's stored hashes.
func (a *Audit) Hashes() tlog.HashReader { return a.store }

// Journal calls f for every leaf in order: the decoded leaf and the bytes whose hash is in the log.
func (a *Audit) Journal(ctx context.Context, f func(seq uint64, leaf Leaf, body []byte) error) error {
	const page = 1000
	for from := uint64(0); ; {
		bodies, err := a.store.Journal(ctx, from, page)
		if err != nil {
			return err
		}
		for _, body := range bodies {
			var leaf Leaf
			if err := json.Unmarshal(body, &leaf, json.RejectUnknownMembers(true)); err != nil {
				return fmt.Errorf("journal entry %d is damaged: %w", from, err)
			}
			if err := f(from, leaf, body); err != nil {
				return err
			}
			from++
		}
		if len(bodies) < page {
			return nil
		}
	}
}

// Slots calls f for every subject and document type. Seq is the journal entry that wrote the row last, here and below.
func (a *Audit) Slots(ctx context.Context, f func(key []byte, seq uint64, r SlotRecord) error) error {
	return each(ctx, a, TableSlots, f)
}

// SlotKey is the key of a subject's row.
func SlotKey(r SlotRecord) []byte { return slotKey(r.DocumentType, r.Subject) }

// Reservations calls f for every reservation; Seq of the record is the entry that made it.
func (a *Audit) Reservations(ctx context.Context, f func(seq uint64, r ReservationRecord) error) error {
	return each(ctx, a, TableReservations, func(_ []byte, seq uint64, r ReservationRecord) error {
		if r.Progress == InProgress {
			r.Seq = seq
		}
		return f(seq, r)
	})
}

// Attempts calls f for every attempt that has a row of its own: attempt n at an item of a reservation, which says itself what became of a first one
// that has none (FirstTry).
func (a *Audit) Attempts(ctx context.Context, f func(seq uint64, reservation string, item, n int, r AttemptRecord) error) error {
	return each(ctx, a, TableAttempts, func(key []byte, seq uint64, r AttemptRecord) error {
		name, rest, err := split(TableAttempts, key, 8)
		if err != nil {
			return err
		}
		return f(seq, name, int(binary.BigEndian.Uint32(rest)), int(binary.BigEndian.Uint32(rest[4:])), r)
	})
}

// Requests calls f for every request that can still be repeated. Answers in it are sealed.
func (a *Audit) Requests(ctx context.Context, f func(seq uint64, key []byte, r RequestRecord) error) error {
	return each(ctx, a, TableRequests, func(key []byte, seq uint64, r RequestRecord) error { return f(seq, key, r) })
}

// Burns calls f for everything that was used and is not forgotten.
func (a *Audit) Burns(ctx context.Context, f func(seq uint64, kind string, id [32]byte, r BurnRecord) error) error {
	return each(ctx, a, TableBurnt, func(key []byte, seq uint64, r BurnRecord) error {
		kind, rest, err := split(TableBurnt, key, 32)
		if err != nil {
			return err
		}
		return f(seq, kind, [32]byte(rest), r)
	})
}

// Given is a status index that was given to a credential.
type Given struct {
	List    string
	Index   uint64
	Counter uint64 // that it is derived from, if that is Known: rows of before don't say
	Known   bool
	CredentialRecord
}

// Credentials calls f for every row that gives a status index to a credential.
func (a *Audit) Credentials(ctx context.Context, f func(seq uint64, g Given) error) error {
	if err := each(ctx, a, TableCredentials, func(key []byte, seq uint64, r CredentialRecord) error {
		list, index, err := split(TableCredentials, key, 8)
		if err != nil {
			return err
		}
		return f(seq, Given{List: list, Index: binary.BigEndian.Uint64(index), CredentialRecord: r})
	}); err != nil {
		return err
	}
	return each(ctx, a, TableIndices, func(key []byte, seq uint64, r IndexRecord) error {
		list, counter, err := split(TableIndices, key, 8)
		if err != nil {
			return err
		}
		return f(seq, Given{List: list, Index: r.Index, Counter: binary.BigEndian.Uint64(counter), Known: true, CredentialRecord: r.CredentialRecord})
	})
}

// Changes calls f for every status change, list by list; within a list sort by seq to get the order in which they happened.
func (a *Audit) Changes(ctx context.Context, f func(seq uint64, list string, r ChangeRecord) error) error {
	return each(ctx, a, TableChanges, func(key []byte, seq uint64, r ChangeRecord) error {
		list, _, err := split(TableChanges, key, 20)
		if err != nil {
			return err
		}
		return f(seq, list, r)
	})
}

// Lists calls f for every status list.
func (a *Audit) Lists(ctx context.Context, f func(seq uint64, r ListRecord) error) error {
	return each(ctx, a, TableLists, func(_ []byte, seq uint64, r ListRecord) error { return f(seq, r) })
}

// Versions calls f for the newest settled version of every list, with its token; the key is the list's id.
func (a *Audit) Versions(ctx context.Context, f func(key []byte, seq uint64, r VersionRecord) error) error {
	return each(ctx, a, TableVersions, f)
}

// Keys calls f for every key of the registry.
func (a *Audit) Keys(ctx context.Context, f func(seq uint64, k Key) error) error {
	return each(ctx, a, TableKeys, func(_ []byte, seq uint64, k Key) error { return f(seq, k.migrated()) })
}

// KeyLife calls f for every step of every key's life, in their order, with the row as it is stored.
func (a *Audit) KeyLife(ctx context.Context, f func(seq uint64, e KeyEntry, row []byte) error) error {
	return scan(ctx, a.store, TableKeyLife, nil, func(e Entry) error {
		r, err := decode[KeyEntry](TableKeyLife, e.Value)
		if err != nil {
			return err
		}
		return f(e.Revision-1, *r, e.Value)
	})
}

// Mandates calls f for every proposal about keys that was carried out.
func (a *Audit) Mandates(ctx context.Context, f func(seq uint64, id string, r MandateRecord) error) error {
	return each(ctx, a, TableMandates, func(key []byte, seq uint64, r MandateRecord) error { return f(seq, string(key), r) })
}

// Certificates calls f for every certificate that was settled.
func (a *Audit) Certificates(ctx context.Context, f func(seq uint64, c Certificate) error) error {
	return each(ctx, a, TableCertificates, func(_ []byte, seq uint64, c Certificate) error { return f(seq, c) })
}

// Revocations calls f for every certificate that is revoked or on hold.
func (a *Audit) Revocations(ctx context.Context, f func(seq uint64, r Revocation) error) error {
	return each(ctx, a, TableRevocations, func(_ []byte, seq uint64, r Revocation) error { return f(seq, r) })
}

// CRLs calls f for the newest revocation list of each name.
func (a *Audit) CRLs(ctx context.Context, f func(seq uint64, r CRLRecord) error) error {
	return each(ctx, a, TableCRLs, func(_ []byte, seq uint64, r CRLRecord) error { return f(seq, r) })
}

// Charges calls f for every window of a budget that is not swept: how much one client, office, officer or phase took, under its tag.
func (a *Audit) Charges(ctx context.Context, f func(seq uint64, budget string, length, end int64, tag []byte, used uint64) error) error {
	return each(ctx, a, TableCharges, func(key []byte, seq uint64, used uint64) error {
		w, tag, err := splitCharge(key)
		if err != nil {
			return err
		}
		return f(seq, w.budget, w.length, w.end, tag, used)
	})
}

// BudgetsSwept is the instant (unix seconds) up to whose end windows may be missing.
func (a *Audit) BudgetsSwept(ctx context.Context) (int64, error) {
	b, rev, err := a.store.Get(ctx, TableMeta, sweptKey)
	if err != nil || rev == 0 {
		return 0, err
	}
	mark, err := decode[int64](TableMeta, b)
	if err != nil {
		return 0, err
	}
	return *mark, nil
}

// Due calls f for every step of an order that is to come.
func (a *Audit) Due(ctx context.Context, f func(key []byte, r DueRecord) error) error {
	return each(ctx, a, TableDue, func(key []byte, _ uint64, r DueRecord) error { return f(key, r) })
}

// DueKeys are the keys that a subject's orders must have in the table of what is due.
func DueKeys(r SlotRecord) (keys [][]byte) {
	for _, o := range r.State.Orders {
		keys = append(keys, dueKey(r.DocumentType, r.Subject, o))
	}
	return keys
}

// Latches calls f for every phase that is known to have begun.
func (a *Audit) Latches(ctx context.Context, f func(seq uint64, phase string, r LatchRecord) error) error {
	return each(ctx, a, TableLatches, func(key []byte, seq uint64, r LatchRecord) error { return f(seq, string(key), r) })
}

// DecisionsAfter reads up to limit decisions after an id, or from an instant on.
func (a *Audit) DecisionsAfter(ctx context.Context, after string, since time.Time, limit int) ([]DecisionEntry, error) {
	return decisionsAfter(ctx, a.store, after, since, limit)
}

// Proposals calls f for every proposal to officers that is kept.
func (a *Audit) Proposals(ctx context.Context, f func(id string, r ProposalRecord) error) error {
	return each(ctx, a, TableProposals, func(key []byte, _ uint64, r ProposalRecord) error { return f(string(key), r) })
}

// Switches calls f for what officers set: "authority ID" that is off, "budget ID/WINDOW" that is raised, "issuing" that is stopped, "clock INSTANT".
func (a *Audit) Switches(ctx context.Context, f func(name string) error) error {
	return scan(ctx, a.store, TableMeta, nil, func(e Entry) error {
		key := string(e.Key)
		switch {
		case strings.HasPrefix(key, offMeta):
			return f("authority " + strings.TrimPrefix(key, offMeta))
		case strings.HasPrefix(key, raisedMeta):
			return f("budget " + strings.TrimPrefix(key, raisedMeta))
		case key == stopMeta:
			return f("issuing")
		case key == clockMeta:
			return f("clock " + string(e.Value))
		}
		return nil
	})
}

// Campaigns calls f for every campaign.
func (a *Audit) Campaigns(ctx context.Context, f func(id string, seq uint64, r CampaignRecord) error) error {
	return each(ctx, a, TableCampaigns, func(key []byte, seq uint64, r CampaignRecord) error { return f(string(key), seq, r) })
}

// CampaignCards calls f for every card of a campaign.
func (a *Audit) CampaignCards(ctx context.Context, f func(campaign string, r CardRecord) error) error {
	return each(ctx, a, TableCards, func(key []byte, _ uint64, r CardRecord) error {
		id, _, _ := strings.Cut(string(key), "\x00")
		return f(id, r)
	})
}

// Clients calls f for every client of the registry.
func (a *Audit) Clients(ctx context.Context, f func(id string, seq uint64, r ClientRecord) error) error {
	return each(ctx, a, TableClients, func(key []byte, seq uint64, r ClientRecord) error { return f(string(key), seq, r) })
}

// Decision reads one; nil: there is none.
func (a *Audit) Decision(ctx context.Context, id string) (*DecisionEntry, error) {
	return decisionBy(ctx, a.store, id)
}

// Decisions calls f for every decision that is kept, with the row as it is stored.
func (a *Audit) Decisions(ctx context.Context, f func(e DecisionEntry, row []byte) error) error {
	return scan(ctx, a.store, TableDecisions, nil, func(e Entry) error {
		d, err := decisionEntry(e)
		if err != nil {
			return err
		}
		return f(*d, e.Value)
	})
}

// DecisionsSwept is the instant before which decisions may be missing.
func (a *Audit) DecisionsSwept(ctx context.Context) (time.Time, error) {
	b, rev, err := a.store.Get(ctx, TableMeta, decisionsSweptKey)
	if err != nil || rev == 0 {
		return time.Time{}, err
	}
	mark, err := decode[int64](TableMeta, b)
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMilli(*mark), nil
}

// PolicyFile is the file of a bundle that was in use; nil: it never was.
func (a *Audit) PolicyFile(ctx context.Context, h policy.Hash) ([]byte, error) {
	b, _, err := a.store.Get(ctx, TableMeta, []byte(bundleMeta(h)))
	return b, err
}

// Image is a list's bytes after every change, hold and lift up to a journal entry, replayed from the stored ones.
func (a *Audit) Image(ctx context.Context, r ListRecord, through uint64) ([]byte, error) {
	if err := r.fits(); err != nil {
		return nil, err
	}
	li := newList(r, 0)
	all, err := changesOf(ctx, a.store, &r)
	for _, c := range all {
		li.add(c)
	}
	if err != nil {
		return nil, err
	}
	holds, err := placedHolds(ctx, a.store)
	if err != nil {
		return nil, err
	}
	_, li.terms, err = termsOf(ctx, a.store, r, holds)
	return li.upTo(through), err
}

// Holds calls f for every hold that is or was a term of lists; seq is the entry from which on.
func (a *Audit) Holds(ctx context.Context, f func(id string, seq uint64, r HoldRecord) error) error {
	return each(ctx, a, TableHolds, func(key []byte, seq uint64, r HoldRecord) error { return f(string(key), seq, r) })
}

// Masks calls f for every mask of a hold, with the row as it is stored.
func (a *Audit) Masks(ctx context.Context, f func(hold, list string, r MaskRecord, row []byte) error) error {
	return scan(ctx, a.store, TableMasks, nil, func(e Entry) error {
		r, err := decode[MaskRecord](TableMasks, e.Value)
		if err != nil {
			return err
		}
		hold, list, _ := strings.Cut(string(e.Key), "\x00")
		return f(hold, list, *r, e.Value)
	})
}

func each[T any](ctx context.Context, a *Audit, t Table, f func(key []byte, seq uint64, r T) error) error {
	return scan(ctx, a.store, t, nil, func(e Entry) error {
		r, err := decode[T](t, e.Value)
		if err != nil {
			return err
		}
		return f(e.Key, e.Revision-1, *r)
	})
}

// Lines calls f for every line that is or was somebody's. Tag names it.
func (a *Audit) Lines(ctx context.Context, f func(tag string, r LineRecord) error) error {
	return each(ctx, a, TableLines, func(key []byte, _ uint64, r LineRecord) error { return f(string(key), r) })
}

// Links calls f for every phone that is or was linked to a line.
func (a *Audit) Links(ctx context.Context, f func(documentType string, subject policy.Pseudonym, r LinkRecord) error) error {
	return each(ctx, a, TableLinks, func(key []byte, _ uint64, r LinkRecord) error {
		name, subject, err := split(TableLinks, key, len(policy.Pseudonym{}))
		if err != nil {
			return err
		}
		return f(name, policy.Pseudonym(subject), r)
	})
}

// Held calls f for every phone whose MSOs wait for a decision on its carrier's flood.
func (a *Audit) Held(ctx context.Context, f func(documentType string, subject policy.Pseudonym, key []byte, r HeldRecord) error) error {
	return each(ctx, a, TableHeld, func(key []byte, _ uint64, r HeldRecord) error {
		_, _, slot, err := splitFlood(key)
		if err != nil {
			return err
		}
		name, subject, err := split(TableHeld, slot, len(policy.Pseudonym{}))
		if err != nil {
			return err
		}
		return f(name, policy.Pseudonym(subject), key, r)
	})
}

// Letters calls f for every line that was reported and that nobody is linked to.
func (a *Audit) Letters(ctx context.Context, f func(tag string, r LetterRecord) error) error {
	return each(ctx, a, TableLetters, func(key []byte, _ uint64, r LetterRecord) error { return f(string(key), r) })
}

// split takes a key of the form name ‖ 0 ‖ rest apart.
func split(t Table, key []byte, rest int) (string, []byte, error) {
	at := len(key) - rest
	if at < 2 || key[at-1] != 0 {
		return "", nil, fmt.Errorf("a key of table %s has %d bytes and no name", t, len(key))
	}
	return string(key[:at-1]), key[at:], nil
}
