package ledger

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/policy"
)

// shown is what is published of every list, as somebody who verified it reads it.
func (w *town) shown() (p Published) {
	w.t.Helper()
	for _, id := range w.Lists() {
		s, err := w.List(id)
		must(w.t, err)
		p.Lists = append(p.Lists, Shown{ID: id, Version: s.Facts.PrevVersion, Issued: s.Facts.PrevIssued, Bits: s.Facts.Bits, Image: w.lists[id].upTo(w.lists[id].version.Through)})
	}
	return p
}

func (w *town) slot1(person byte) policy.Slot {
	w.t.Helper()
	s, err := w.Subject(context.Background(), resident, policy.Pseudonym{person})
	must(w.t, err)
	return s.Slot()
}

// lost is an installation that was restored: what happened after the backup is in its published lists alone.
func lost(t *testing.T) (*town, Published) {
	t.Helper()
	w := newTown(t)
	for person := byte(1); person <= 7; person++ {
		if person != 5 {
			w.issue(w.request(policy.OpIssue, person, w.phone(), false))
		}
	}
	w.change("telecom-a", policy.OpLock, 4, "telecom_lost")
	w.publishAll()
	restore := w.backup()

	w.clock.Advance(time.Hour)
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
	w.change("loss-desk", policy.OpRevoke, 2, "user_request")
	w.change("telecom-a", policy.OpLock, 3, "telecom_lost")
	w.change("telecom-a", policy.OpUnlock, 3, "telecom_lost")
	w.change("telecom-a", policy.OpUnlock, 4, "telecom_lost")
	w.issue(w.request(policy.OpIssue, 5, w.phone(), false))
	w.change("telecom-a", policy.OpLock, 5, "telecom_lost")
	w.issue(w.request(policy.OpIssue, 7, w.phone(), true))
	w.publishAll()
	shown := w.shown()
	restore()
	w.clock.Advance(time.Hour)
	w.fenced()
	return w, shown
}

// What published lists show comes back, through the state of whoever has the index; what was lost for good is counted.
func TestLiftTakesBackWhatIsPublished(t *testing.T) {
	w, shown := lost(t)
	ctx := context.Background()
	d, err := w.Difference(ctx, shown)
	must(t, err)
	if d.Cards != (CardCounts{Locked: 1, Revoked: 2, Partly: 1}) || d.Unknown != 2 || d.Stronger != 1 || d.Seen <= d.Size || len(d.Lists) != 2 {
		t.Errorf("the difference is %+v", d)
	}
	if said := strings.Join(d.Lines(), "\n"); !strings.Contains(said, "1 cards locked, 2 revoked, 1 revoked in part") || !strings.Contains(said, "2 credentials, issued in the lost part") {
		t.Errorf("it is told as\n%s", said)
	}
	r, err := w.Lift(ctx, shown, nil, nil)
	must(t, err)
	if r.Difference.Cards != d.Cards || r.Done.IsZero() {
		t.Errorf("the report is %+v", r)
	}
	again, err := w.LastReport(ctx)
	must(t, err)
	if again.Done.IsZero() || again.Difference.Cards != d.Cards {
		t.Errorf("what is kept of it is %+v", again)
	}
	w.again()
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.wants(2, "mso_mdoc revoked", "dc+sd-jwt revoked")
	w.wants(3, "mso_mdoc revoked", "dc+sd-jwt valid")
	w.wants(4, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.wants(6, "mso_mdoc valid", "dc+sd-jwt valid")
	w.wants(7, "mso_mdoc revoked", "dc+sd-jwt revoked")
	for person, want := range map[byte][]policy.Lock{1: {policy.Restored}, 2: {policy.Restored}, 3: nil, 6: nil, 7: {policy.Restored}} {
		if got := w.slot1(person).Locks; !slices.Equal(got, want) {
			t.Errorf("person %d has locks %v, want %v", person, got, want)
		}
	}
	if w.slot1(7).Bound || w.slot1(2).Bound || !w.slot1(1).Bound {
		t.Error("phones that were ended are bound, or one that was locked is not")
	}
	// Nobody's index that was published as stopped is shown as better.
	for _, s := range shown.Lists {
		now, err := w.List(s.ID)
		must(t, err)
		for i, b := range s.Image {
			if now.Facts.Next[i]&b != b {
				t.Errorf("list %s: byte %d is %08b and was published as %08b", s.ID, i, now.Facts.Next[i], b)
			}
		}
		if now.Facts.PrevVersion < s.Version+1000 {
			t.Errorf("list %s goes on at %d", s.ID, now.Facts.PrevVersion)
		}
	}
	w.publishAll()
	w.change("telecom-a", policy.OpLock, 6, "telecom_lost")
	w.publishAll()
	w.again()
	w.check()
}

// A hold of a document type suspends all of its lists, also entries that nobody was ever given. Of a lost one officers are not told that credentials were issued in
// the lost part, because nobody can know that; nothing of it is shown as better, and the image is the same when it is published, after a restart and when it is
// made anew. What is revoked beside is no doubt.
func TestLostHoldOfAType(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	w.change("loss-desk", policy.OpRevoke, 2, "user_request")
	w.publishAll()
	restore := w.backup()
	w.clock.Advance(time.Hour)
	w.issue(w.request(policy.OpIssue, 3, w.phone(), false))
	w.issue(w.request(policy.OpIssue, 4, w.phone(), false))
	w.change("loss-desk", policy.OpRevoke, 4, "user_request")
	w.hold(Selection{DocumentType: resident})
	w.publishAll()
	shown := w.shown()
	restore()
	w.fenced()
	d, err := w.Difference(ctx, shown)
	must(t, err)
	if d.Unknown != 2 || d.Held != 1024-3 || d.Cards != (CardCounts{Locked: 1}) { // revoked: both of card 4
		t.Errorf("the difference is %+v", d)
	}
	said := strings.Join(d.Lines(), "\n")
	for _, want := range []string{"not known here: 2 credentials, issued in the lost part", "a hold that does not stand here: 1 lists. 1021 of their entries nobody here has"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	for _, line := range d.Lines() {
		if len(line) > 200 {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
	_, err = w.Lift(ctx, shown, nil, nil)
	must(t, err)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended") // a lock as any that was published
	now := func() (all [][]byte) {
		for _, s := range shown.Lists {
			list, err := w.List(s.ID)
			must(t, err)
			if all = append(all, image(list)); list.Facts.Bits == 2 && !bytes.Equal(all[len(all)-1], s.Image) {
				t.Errorf("list %s is another one than was published", s.ID)
			}
		}
		return all
	}
	before := now()
	w.publishAll()
	w.again()
	if !slices.EqualFunc(before, now(), bytes.Equal) {
		t.Error("a restart made other lists")
	}
	w.check()
}

// Killed after any commit of it, it is begun again and comes to the same; what is told is what was there when it began.
func TestLiftIsBegunAgain(t *testing.T) {
	w, shown := lost(t)
	ctx := context.Background()
	back, d, err := w.compare(ctx, shown)
	must(t, err)
	must(t, w.PutMeta(ctx, reportMeta, encode(Report{Begun: noon, Difference: d})))
	must(t, w.takeBack(ctx, back, back.order[:2]))
	must(t, w.Close())
	w.fenced()
	r, err := w.Lift(ctx, shown, nil, func(*Difference) error { t.Error("it was judged twice"); return nil })
	must(t, err)
	if !r.Begun.Equal(noon) || r.Difference.Cards != d.Cards {
		t.Errorf("the report is %+v", r)
	}
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.wants(7, "mso_mdoc revoked", "dc+sd-jwt revoked")
	w.again()
	w.check()
}

// A list that can't be believed gives nothing back, and is named; so is one that the ledger does not know, and changes of versions that are gone.
func TestWhatCantComeBackIsTold(t *testing.T) {
	w, shown := lost(t)
	ctx := context.Background()
	doubted := shown.Lists[0].ID
	shown.Lists[0].Doubt = "its signature does not verify"
	shown.Lists[1].Version--
	shown.Lists = append(shown.Lists, Shown{ID: "unknown-list", Version: 3, Issued: noon, Bits: 1, Image: []byte{1}})
	shown.CRLs = map[string]uint64{"iaca": 9}
	d, err := w.Difference(ctx, shown)
	must(t, err)
	said := strings.Join(d.Lines(), "\n")
	for _, want := range []string{"List " + doubted + ": not believed", "List unknown-list: opened in the lost part", "List " + shown.Lists[1].ID + ": version 2 was signed, 1 is there"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if len(d.CRLs) != 1 || d.CRLs[0] != (CRLDifference{"iaca", 0, 9}) {
		t.Errorf("CRLs: %+v", d.CRLs)
	}
}

// A ledger with the mark of a restore is fenced, even if nothing outside is ahead; once that is accepted it is not, no restore is under way any more, and
// another mark fences again.
func TestRestoredIsFenced(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	must(t, w.Close())
	mark := Restored{Backup: strings.Repeat("ab", 32), Made: noon, Size: 3, Root: strings.Repeat("cd", 32), At: noon}
	must(t, mark.Begin(w.o.Path))
	w.fenced("the ledger was restored at 2026-11-20T12:00:00Z from the backup of 2026-11-20T12:00:00Z")
	must(t, w.Close())
	w.fenced()
	under := func(want bool) {
		t.Helper()
		if r, err := ReadRestoring(w.o.Path); err != nil || (r != nil) != want {
			t.Errorf("a restore is under way: %+v, %v", r, err)
		}
	}
	under(true) // whoever looked at the fence did not end it
	_, err := w.Lift(context.Background(), Published{}, nil, nil)
	must(t, err)
	under(false)
	w.again()
	must(t, w.Close())
	was, err := os.ReadFile(RestoredFile(w.o.Path)) // killed after the fence was lifted, and before that was said
	must(t, err)
	must(t, os.WriteFile(RestoringFile(w.o.Path), was, 0o600))
	w.again()
	must(t, w.Close())
	under(false)
	mark.At = noon.Add(time.Second)
	must(t, mark.Begin(w.o.Path))
	w.fenced("the ledger was restored")
}
