package api

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sealkeeper/contract"
	"sealkeeper/officer"
)

var (
	nameForm   = formOf(contract.DocumentTypePattern)
	reasonForm = formOf(contract.ReasonPattern)
	deviceForm = formOf(contract.DevicePattern)
	kindForm   = formOf(contract.KindPattern)

	thumbprintForm = formOf(contract.ThumbprintPattern)
	authorityForm  = formOf(contract.AuthorityPattern)
	scheduleForm   = formOf(contract.SchedulePattern)
	methodForm     = formOf(contract.MethodPattern)
)

// The functions below return what is wrong, or nothing. They check form and bounds alone, as the OpenAPI document states them; subject
// numbers are checked where they are replaced by pseudonyms (subject.malformed), claims by the policy's schema.

func validType(t string) string {
	if !nameForm.fits(t) {
		return "document_type must match " + contract.DocumentTypePattern
	}
	return ""
}

func validNonce(r *contract.NonceRequest) string { return validType(r.DocumentType) }

func validSession(r *contract.SessionRequest) string {
	switch {
	case validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case !thumbprintForm.fits(r.KeyThumbprint):
		return "key_thumbprint must match " + contract.ThumbprintPattern
	case len(r.Nonce) > contract.MaxNonce:
		return fmt.Sprintf("c_nonce must have at most %d characters", contract.MaxNonce)
	case len(r.Code) > contract.MaxSession:
		return fmt.Sprintf("code must have at most %d characters", contract.MaxSession)
	}
	return validAuthorities(r.Authorities)
}

func validCode(r *contract.CodeRequest) string {
	if wrong := validType(r.DocumentType); wrong != "" {
		return wrong
	}
	return validAuthorities(r.Authorities)
}

func validAuthorities(ids []string) string {
	if len(ids) > contract.MaxAuthorities {
		return fmt.Sprintf("authorities has more than %d elements", contract.MaxAuthorities)
	}
	for i, id := range ids {
		if !authorityForm.fits(id) || slices.Contains(ids[:i], id) {
			return "authorities must be different names that match " + contract.AuthorityPattern
		}
	}
	return ""
}

func validPolicy(r *contract.PolicyRequest) string {
	if len(r.Bundle) == 0 || len(r.Bundle) > contract.MaxPolicy {
		return fmt.Sprintf("bundle must have 1 to %d bytes", contract.MaxPolicy)
	}
	return ""
}

func validDecisions(r *contract.DecisionQuery) string {
	switch {
	case r.Limit < 0 || r.Limit > contract.MaxDecisions:
		return fmt.Sprintf("limit must be between 0 and %d", contract.MaxDecisions)
	case len(r.Decision) > 64 || len(r.After) > 64 || len(r.Bundle) > 64:
		return "decision, after and bundle have at most 64 characters"
	}
	return ""
}

func validPhoneStatus(r *contract.PhoneStatusRequest) string {
	if len(r.Status) == 0 || len(r.Status) > contract.MaxPhoneStatus {
		return fmt.Sprintf("status must have 1 to %d bytes", contract.MaxPhoneStatus)
	}
	return ""
}

func validCards(r *contract.CardsQuery) string {
	switch {
	case r.DocumentType == "" && r.Key == "":
		return "name a document_type, or the key that signed, or both"
	case r.DocumentType != "" && validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case len(r.Key) > 64:
		return "key has at most 64 characters"
	}
	return ""
}

func validPace(r *contract.CampaignPace) string {
	switch {
	case proposalID(r.ID) != "":
		return proposalID(r.ID)
	case r.PerSecond < 0 || r.PerSecond > ledgerMostPerSecond:
		return "per_second is 0 to 2000"
	}
	return ""
}

const ledgerMostPerSecond = 2000 // contract: maximum of per_second

func validState(r *contract.StateRequest) string { return validType(r.DocumentType) }

func validChange(r *contract.ChangeRequest) string {
	switch {
	case validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case !reasonForm.fits(r.Reason):
		return "reason must match " + contract.ReasonPattern
	case r.Device != "" && !deviceForm.fits(r.Device):
		return "device must match " + contract.DevicePattern
	case len(r.Card) > 64:
		return "card must have at most 64 characters"
	}
	return ""
}

func validReplay(r *contract.ReplayRequest) string {
	if len(r.ID) != 32 {
		return "id must have 32 characters"
	}
	return ""
}

func validFlood(r *contract.FloodRequest) string {
	switch {
	case r.Carrier == "" || len(r.Carrier) > 64:
		return "carrier must have 1 to 64 characters"
	case r.Hour.IsZero():
		return "hour must be the instant at which the hour began"
	case r.Decision != "confirm" && r.Decision != "undo":
		return "decision must be confirm or undo"
	}
	return ""
}

func validProposal(r *contract.ProposalQuery) string { return proposalID(r.ID) }

func validPropose(r *contract.ProposeRequest) string {
	if len(r.Proposal) == 0 || len(r.Proposal) > officer.MaxEnvelope {
		return fmt.Sprintf("proposal must have 1 to %d characters", officer.MaxEnvelope)
	}
	return ""
}

func validApproval(r *contract.ApprovalRequest) string {
	if len(r.Envelope) == 0 || len(r.Envelope) > officer.MaxEnvelope {
		return fmt.Sprintf("envelope must have 1 to %d characters", officer.MaxEnvelope)
	}
	return proposalID(r.ID)
}

func proposalID(id string) string {
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return "id must be 64 hexadecimal digits"
	}
	return ""
}

func validToken(r *contract.TokenRequest) string { return clientName(r.Client) }

func clientName(id string) string {
	if !clientID.fits(id) {
		return "client must be the name of a client"
	}
	return ""
}

var binaryForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func binary(name, s string, most int) string {
	if len(s) > most || !binaryForm.MatchString(s) {
		return fmt.Sprintf("%s must be 1 to %d characters of unpadded base64url", name, most)
	}
	return ""
}

func compact(name, s string) string {
	if s == "" || len(s) > contract.MaxClientToken {
		return fmt.Sprintf("%s must have 1 to %d characters", name, contract.MaxClientToken)
	}
	return ""
}

func validRegister(r *contract.RegisterRequest) string {
	return cmp.Or(compact("token", r.Token), binary("csr", r.CSR, contract.MaxCSR))
}

func validRenewClient(r *contract.RenewClientRequest) string {
	return cmp.Or(clientName(r.Client), binary("key", r.Key, contract.MaxClientKey))
}

func validRekey(r *contract.RekeyRequest) string {
	return cmp.Or(clientName(r.Client), compact("statement", r.Statement), binary("csr", r.CSR, contract.MaxCSR))
}

func validServer(r *contract.ServerRequest) string { return binary("csr", r.CSR, contract.MaxCSR) }

func validRetire(r *contract.RetireRequest) string {
	if len(r.Serial) == 0 || len(r.Serial) > 40 || len(r.Serial)%2 != 0 || strings.Trim(r.Serial, "0123456789abcdef") != "" {
		return "serial must be 1 to 20 octets in hexadecimal"
	}
	if len(r.Reason) > contract.MaxRetireReason || strings.ContainsFunc(r.Reason, func(c rune) bool { return c < ' ' || c > '~' }) {
		return fmt.Sprintf("reason must be at most %d printable ASCII characters", contract.MaxRetireReason)
	}
	return ""
}

func validEvent(r *contract.EventRequest) string {
	if r.Event == "" || len(r.Event) > contract.MaxEvent {
		return fmt.Sprintf("event must have 1 to %d characters", contract.MaxEvent)
	}
	return ""
}

func validRenewal(r *contract.RenewalRequest) string {
	switch {
	case validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case len(r.Reasons) == 0 || len(r.Reasons) > contract.MaxReasons:
		return fmt.Sprintf("reasons must have 1 to %d elements", contract.MaxReasons)
	}
	for i, reason := range r.Reasons {
		if !reasonForm.fits(reason) || slices.Contains(r.Reasons[:i], reason) {
			return "reasons must be different ones that match " + contract.ReasonPattern
		}
	}
	return ""
}

func validSchedule(r *contract.ScheduleRequest) string {
	switch {
	case validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case !scheduleForm.fits(r.Schedule) || r.Replaces != "" && !scheduleForm.fits(r.Replaces):
		return "schedule and replaces must match " + contract.SchedulePattern
	case r.Operation != "lock" && r.Operation != "revoke":
		return "operation must be lock or revoke"
	case !reasonForm.fits(r.Reason):
		return "reason must match " + contract.ReasonPattern
	}
	return ""
}

func validCancel(r *contract.ScheduleCancel) string {
	if !scheduleForm.fits(r.Schedule) {
		return "schedule must match " + contract.SchedulePattern
	}
	return validType(r.DocumentType)
}

func validAcknowledgement(r *contract.AcknowledgementRequest) string {
	switch {
	case validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case !deviceForm.fits(r.Issuance):
		return "issuance must match " + contract.DevicePattern
	case r.Proof == "" || len(r.Proof) > contract.MaxToken:
		return fmt.Sprintf("proof must have 1 to %d characters", contract.MaxToken)
	}
	return ""
}

func validIssue(r *contract.IssueRequest) string {
	switch {
	case validType(r.DocumentType) != "":
		return validType(r.DocumentType)
	case r.Method != "" && !methodForm.fits(r.Method):
		return "method must match " + contract.MethodPattern
	case len(r.Session) > contract.MaxSession:
		return fmt.Sprintf("session must have at most %d characters", contract.MaxSession)
	case r.Claims == nil:
		return "claims are missing"
	case len(r.Claims) > contract.MaxClaims:
		return fmt.Sprintf("claims has more than %d members", contract.MaxClaims)
	case r.Proof == "" || len(r.Proof) > contract.MaxToken:
		return fmt.Sprintf("proof must have 1 to %d characters", contract.MaxToken)
	case len(r.PreviousProof) > contract.MaxToken:
		return fmt.Sprintf("previous_proof must have at most %d characters", contract.MaxToken)
	case len(r.KeyAttestation) > contract.MaxToken:
		return fmt.Sprintf("key_attestation must have at most %d characters", contract.MaxToken)
	case len(r.AndroidAttestation) > contract.MaxChains || len(r.Proofs) > contract.MaxChains:
		return fmt.Sprintf("android_attestation or proofs has more than %d elements", contract.MaxChains)
	case slices.ContainsFunc(r.Proofs, func(s string) bool { return s == "" || len(s) > contract.MaxToken }):
		return fmt.Sprintf("proofs must have 1 to %d characters each", contract.MaxToken)
	case len(r.Evidence) > contract.MaxEvidence:
		return fmt.Sprintf("evidence has more than %d items", contract.MaxEvidence)
	}
	for i, f := range r.Formats {
		if !slices.Contains(contract.Formats(), f) || slices.Contains(r.Formats[:i], f) {
			return "formats must be different ones of mso_mdoc and dc+sd-jwt"
		}
	}
	for _, chain := range r.AndroidAttestation {
		if len(chain) == 0 || len(chain) > contract.MaxChain || slices.ContainsFunc(chain, func(s string) bool { return s == "" || len(s) > contract.MaxCertificate }) {
			return fmt.Sprintf("each of android_attestation has 1 to %d certificates of at most %d characters", contract.MaxChain, contract.MaxCertificate)
		}
	}
	for _, item := range r.Evidence {
		if !kindForm.fits(item.Kind) || item.Token == "" || len(item.Token) > contract.MaxToken {
			return fmt.Sprintf("evidence needs a kind that matches %s and a token of 1 to %d characters", contract.KindPattern, contract.MaxToken)
		}
	}
	return ""
}
