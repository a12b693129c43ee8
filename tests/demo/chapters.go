package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sealkeeper/contract"
	"sealkeeper/tests/phone"
)

// The two phones of the story and what they hold.
var (
	phone1, phone2       *phone.Phone
	first                contract.IssueAnswer
	card1, fresh1, card2 refs
	usedNonce            contract.IssueRequest
)

func (s *story) issue() error {
	s.title("2. A phone gets its card")
	var err error
	if phone1, err = phone.New(1); err != nil {
		return err
	}
	nonce, err := s.nonce()
	if err != nil {
		return err
	}
	r := s.request(phone1, nonce)
	usedNonce = r
	key := idempotencyKey()
	if err := s.must("issue to phone 1", "ward-office-1", "/v1/credentials", key, r, &first); err != nil {
		return err
	}
	took := s.transcript[len(s.transcript)-1].Milliseconds
	var again contract.IssueAnswer
	if err := s.must("the same request again", "ward-office-1", "/v1/credentials", key, r, &again); err != nil {
		return err
	}
	for i, c := range first.Credentials {
		s.say("✓ %-12s %5d bytes, index %d of %s", c.Format, len(c.Credential), c.Status.Index, short(c.Status.URI))
		if again.Credentials[i].Credential != c.Credential {
			return fmt.Errorf("%w: a retry gave other bytes", errStory)
		}
	}
	s.say("✓ both signed in the HSM in %.1f ms; identity: %s; the retry gave the same bytes", took, first.Decision.Identity)
	if card1, err = s.keep("phone1", first, phone1); err != nil {
		return err
	}
	if err := s.awaitAll(map[*contract.StatusRef]byte{card1.MDoc: 0, card1.SDJWT: 0}); err != nil {
		return err
	}
	return s.lists("1-issued")
}

func short(uri string) string { return "…" + uri[max(0, len(uri)-12):] }

func (s *story) refusals() error {
	s.title("3. What must not work")
	var err error
	if phone2, err = phone.New(1); err != nil {
		return err
	}
	nonce, err := s.nonce()
	if err != nil {
		return err
	}
	second := s.request(phone2, nonce)
	if err := s.refused("a second phone without replace", "ward-office-1", "/v1/credentials", idempotencyKey(), second, 409, "slot.occupied"); err != nil {
		return err
	}

	replayed := usedNonce
	replayed.Replace = true
	replayed.Subject = "850505-2345678" // another person, so that only the nonce is in the way
	if err := s.refused("phone 1's nonce a second time", "ward-office-1", "/v1/credentials", idempotencyKey(), replayed, 409, "nonce.replayed"); err != nil {
		return err
	}

	if nonce, err = s.nonce(); err != nil {
		return err
	}
	swapped := s.request(phone2, nonce)
	swapped.KeyAttestation = phone1.Attest(s.provider, nonce, time.Now())
	if err := s.refused("phone 2's proof with phone 1's attestation", "ward-office-1", "/v1/credentials", idempotencyKey(), swapped, 422, "evidence.proof_key_unattested"); err != nil {
		return err
	}

	if err := s.refused("a carrier asks for a card", "telecom-a", "/v1/credentials", idempotencyKey(), second, 403, "route.forbidden"); err != nil {
		return err
	}

	body := []byte(`{"document_type":"kr-resident","subject":"900101-1234567","claims":{},"proof":"x","admin":true}`)
	if err := s.refused("an unknown field", "ward-office-1", "/v1/credentials", idempotencyKey(), body, 400, "request.unknown_member"); err != nil {
		return err
	}

	if nonce, err = s.nonce(); err != nil {
		return err
	}
	expired := s.request(phone2, nonce)
	expired.KeyAttestation = phone2.Attest(s.provider, nonce, time.Now().Add(-2*time.Hour))
	return s.refused("an expired attestation", "ward-office-1", "/v1/credentials", idempotencyKey(), expired, 422, "evidence.attestation_expired")
}

// change locks or unlocks and waits until every entry reads as wanted in a list fetched over HTTP.
func (s *story) change(what, client, path, reason string, want map[*contract.StatusRef]byte) error {
	t := time.Now()
	var a contract.ChangeAnswer
	if err := s.must(what, client, path, "", contract.ChangeRequest{DocumentType: documentType, Subject: subject, Reason: reason}, &a); err != nil {
		return err
	}
	acknowledged := time.Since(t)
	if err := s.awaitAll(want); err != nil {
		return err
	}
	published := time.Since(t)
	s.note(what+": signed lists fetched", published)
	s.say("✓ %s: acknowledged after %d ms, in signed and fetched lists after %d ms", what, acknowledged.Milliseconds(), published.Milliseconds())
	if published > time.Second {
		s.say("  (slower than a second: this machine is busy)")
	}
	return nil
}

func (s *story) loss() error {
	s.title("4. The phone is lost: the carrier's report locks the card")
	if err := s.change("lock", "telecom-a", "/v1/locks", "telecom_lost", map[*contract.StatusRef]byte{card1.SDJWT: 2, card1.MDoc: 1}); err != nil {
		return err
	}
	if err := s.tell("phone 1", card1); err != nil {
		return err
	}
	s.say("    (an mdoc knows no suspension: its MSO is revoked for good and a new one is fetched after the unlock)")
	nonce, err := s.nonce()
	if err != nil {
		return err
	}
	if err := s.refused("a refresh while locked", "ward-office-1", "/v1/credentials/refresh", idempotencyKey(), s.request(phone1, nonce), 409, "card.locked"); err != nil {
		return err
	}
	if err := s.refused("another authority lifts the carrier's lock", "loss-desk", "/v1/unlocks", "", contract.ChangeRequest{DocumentType: documentType, Subject: subject, Reason: "telecom_lost"}, 403, "reason.forbidden"); err != nil {
		return err
	}
	return s.lists("2-locked")
}

func (s *story) found() error {
	s.title("5. The phone is found: unlock and refresh")
	if err := s.change("unlock", "telecom-a", "/v1/unlocks", "telecom_lost", map[*contract.StatusRef]byte{card1.SDJWT: 0, card1.MDoc: 1}); err != nil {
		return err
	}
	nonce, err := s.nonce()
	if err != nil {
		return err
	}
	r := s.request(phone1, nonce)
	r.Formats = []string{"mso_mdoc"}
	var a contract.IssueAnswer
	if err := s.must("refresh phone 1", "ward-office-1", "/v1/credentials/refresh", idempotencyKey(), r, &a); err != nil {
		return err
	}
	if a.Device != first.Device || len(a.Credentials) != 1 {
		return fmt.Errorf("%w: the refresh is not phone 1's one mdoc", errStory)
	}
	if fresh1, err = s.keep("phone1-refreshed", a, nil); err != nil {
		return err
	}
	s.say("✓ phone 1 fetched a fresh mdoc, without a visit")
	if err := s.awaitAll(map[*contract.StatusRef]byte{fresh1.MDoc: 0}); err != nil {
		return err
	}
	if err := s.tell("phone 1", card1); err != nil {
		return err
	}
	if err := s.tell("phone 1, refreshed", fresh1); err != nil {
		return err
	}
	return s.lists("3-unlocked")
}

func (s *story) replace() error {
	s.title("6. A new phone takes its place")
	nonce, err := s.nonce()
	if err != nil {
		return err
	}
	r := s.request(phone2, nonce)
	r.Replace = true
	var a contract.IssueAnswer
	if err := s.must("issue to phone 2, replacing phone 1", "ward-office-1", "/v1/credentials", idempotencyKey(), r, &a); err != nil {
		return err
	}
	if !a.Replaced || a.Device == first.Device {
		return fmt.Errorf("%w: nothing was replaced", errStory)
	}
	if card2, err = s.keep("phone2", a, phone2); err != nil {
		return err
	}
	// The answer left only after lists with the old card's revocation were signed: one look is enough.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, ref := range []*contract.StatusRef{card1.SDJWT, fresh1.MDoc} {
		if err := s.await(ctx, ref, 1); err != nil {
			return err
		}
	}
	s.say("✓ phone 2 has the card; phone 1's was revoked in signed lists before phone 2 got it")
	var late contract.ChangeAnswer
	if err := s.must("a late `found` for phone 1", "telecom-a", "/v1/unlocks", "", contract.ChangeRequest{DocumentType: documentType, Subject: subject, Reason: "telecom_lost", Device: first.Device}, &late); err != nil {
		return err
	}
	if late.Changed {
		return fmt.Errorf("%w: a late report changed something", errStory)
	}
	s.say("✓ a late “found” for phone 1 changes nothing")
	if err := s.awaitAll(map[*contract.StatusRef]byte{card2.SDJWT: 0, card2.MDoc: 0}); err != nil {
		return err
	}
	return s.lists("4-replaced")
}

func (s *story) end() error {
	s.title("7. The end")
	for _, h := range []struct {
		who string
		r   refs
	}{{"phone 1", card1}, {"phone 1, refreshed", fresh1}, {"phone 2", card2}} {
		if err := s.tell(h.who, h.r); err != nil {
			return err
		}
	}
	t := time.Now()
	s.stop()
	s.note("graceful stop", time.Since(t))
	s.say("✓ the daemon drained and stopped in %d ms", time.Since(t).Milliseconds())
	return s.fsck()
}

// fsck lets the independent checker read the ledger that the story left behind.
func (s *story) fsck() error {
	out, err := s.sealctl("fsck", "--ledger", s.work+"/data/ledger.db", "--publish", s.work+"/data/publish")
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		s.say("%s", line)
	}
	return err
}
