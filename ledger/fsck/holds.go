package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/bits"

	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// heldAt is an entry by which a hold came to be true of its lists.
type heldAt struct {
	seq    uint64
	count  uint64
	digest []byte
}

// holds: what a hold suspends in lists is what the journal has of it, from the entry to the entry that it says, and is the cards of its selection, all of
// them and no other (I4).
func (f *run) holds() error {
	c := f.r.check("I4", "holds suspend the cards of their selection, in lists as the journal says")
	rows := map[string]ledger.HoldRecord{}
	if err := f.a.Holds(f.ctx, func(id string, seq uint64, r ledger.HoldRecord) error {
		c.Checked++
		rows[id] = r
		switch j, said := f.placed[id]; {
		case !said:
			c.fail("hold %.12s… is true of lists, and the journal does not say so", id)
		case j.seq != seq || j.count != uint64(r.Lists) || !bytes.Equal(j.digest, r.Digest):
			c.fail("hold %.12s… is true of %d lists from entry %d on, by the journal of %d from entry %d on, or their masks are others", id, r.Lists, seq, j.count, j.seq)
		}
		return nil
	}); err != nil {
		return err
	}
	sums, masks := map[string]map[string][32]byte{}, map[string]map[string][]byte{}
	if err := f.a.Masks(f.ctx, func(id, list string, r ledger.MaskRecord, row []byte) error {
		c.Checked++
		if sums[id] == nil {
			sums[id], masks[id] = map[string][32]byte{}, map[string][]byte{}
		}
		sums[id][list] = sha256.Sum256(row)
		l, there := f.lists[list]
		if !there {
			c.fail("hold %.12s… has a mask of list %s, which does not exist", id, list)
			return nil
		}
		mask, err := r.Mask(l)
		if err != nil {
			c.fail("hold %.12s…: %v", id, err)
			return nil
		}
		n := 0
		for _, b := range mask {
			n += bits.OnesCount8(b)
		}
		if n != r.Count {
			c.fail("hold %.12s… holds %d entries of list %s, its row says %d", id, n, list, r.Count)
		}
		masks[id][list] = mask
		return nil
	}); err != nil {
		return err
	}
	campaigns := map[string]ledger.CampaignRecord{}
	if err := f.a.Campaigns(f.ctx, func(id string, seq uint64, r ledger.CampaignRecord) error {
		if r.Operation != ledger.CampaignHold || !r.Term {
			return nil
		}
		campaigns[id] = r
		h, there := rows[id]
		if there == r.Found.IsZero() {
			c.fail("hold %.12s… has found its cards: %v, and is true of lists: %v", id, !r.Found.IsZero(), there)
		}
		if at, lifted := f.liftedAt[id]; lifted && !r.Lifted.IsZero() && at != seq {
			c.fail("hold %.12s… was lifted by entry %d, its row says by %d", id, at, seq)
		}
		if !there {
			return nil
		}
		if len(sums[id]) != h.Lists || !bytes.Equal(ledger.DigestMasks(sums[id]), h.Digest) {
			c.fail("hold %.12s… has other masks than those of %d lists that the journal has", id, h.Lists)
		}
		return f.heldCards(c, id, r, h, masks[id])
	}); err != nil {
		return err
	}
	for id := range rows {
		if _, there := campaigns[id]; !there {
			c.fail("hold %.12s… is true of lists and was never placed", id)
		}
	}
	for id := range sums {
		if _, there := campaigns[id]; !there {
			c.fail("hold %.12s… has masks and was never placed", id)
		}
	}
	for id := range f.placed {
		if _, there := rows[id]; !there {
			c.fail("hold %.12s… came to be true of lists, says the journal, and is of none", id)
		}
	}
	return nil
}

// heldCards compares a hold's masks with its selection.
func (f *run) heldCards(c *Check, id string, h ledger.CampaignRecord, r ledger.HoldRecord, masks map[string][]byte) error {
	type card struct {
		documentType string
		subject      policy.Pseudonym
	}
	before, began := f.begunAt[id]
	selected := func(res ledger.ReservationRecord, i int) bool {
		return began && res.Seq < before && res.Kind == policy.KindIssue && (h.DocumentType == "" || h.DocumentType == res.DocumentType) &&
			(h.Key == "" || h.Key == res.Items[i].KeyID) && !res.At.Before(h.From) && (h.To.IsZero() || res.At.Before(h.To))
	}
	held := func(list string, index uint64) bool {
		mask := masks[list]
		return index/8 < uint64(len(mask)) && mask[index/8]>>(index%8)&1 == 1
	}
	if !r.Whole {
		of := map[card]bool{}
		for _, res := range f.reservations {
			for i := range res.Items {
				if selected(res, i) {
					of[card{res.DocumentType, res.Subject}] = true
				}
			}
		}
		for list, mask := range masks {
			for at, b := range mask {
				for ; b != 0; b &= b - 1 {
					index := uint64(at*8 + bits.TrailingZeros8(b))
					res := f.reservations[f.credentials[slot{list, index}].Reservation]
					if !of[card{res.DocumentType, res.Subject}] {
						c.fail("hold %.12s… holds index %d of list %s, which is no card's of its selection", id, index, list)
					}
				}
			}
		}
	}
	if !h.Lifted.IsZero() {
		return nil
	}
	return f.a.Slots(f.ctx, func(_ []byte, _ uint64, s ledger.SlotRecord) error {
		is := false
		for _, cr := range s.State.Credentials {
			res := f.reservations[cr.Reservation]
			for i, it := range res.Items {
				is = is || it.List == cr.List && it.Index == cr.Index && cr.Live() && !h.At.After(cr.NotAfter) && selected(res, i)
			}
		}
		for _, cr := range s.State.Credentials {
			if res := f.reservations[cr.Reservation]; is && cr.Live() && !h.At.After(cr.NotAfter) && res.Seq < before && !held(cr.List, cr.Index) {
				c.fail("%s: hold %.12s… is about it, and does not hold index %d of list %s", fmt.Sprintf("subject %.8s… (%s)", s.Subject.String(), s.DocumentType), id, cr.Index, cr.List)
			}
		}
		return nil
	})
}
