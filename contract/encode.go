package contract

import "sealkeeper/internal/jsonwrite"

// An issue's request is written once to be hashed, and its answer once to be sealed, stored and sent: these two say themselves how they are
// written, and a test compares with the encoder of any other message.

// AppendCanonical appends the one form that a request has however it came: that of the encoder, with the claims by name.
func (r *IssueRequest) AppendCanonical(b []byte) ([]byte, error) {
	w := jsonwrite.On(b)
	w.Text("document_type", r.DocumentType)
	w.TextIf("subject", r.Subject)
	w.TextIf("session", r.Session)
	w.TextIf("method", r.Method)
	w.Map("claims", r.Claims)
	w.TextsIf("formats", r.Formats)
	w.Bool("replace", r.Replace)
	w.Text("proof", r.Proof)
	w.TextIf("key_attestation", r.KeyAttestation)
	if len(r.AndroidAttestation) > 0 {
		w.Any("android_attestation", r.AndroidAttestation)
	}
	w.TextsIf("proofs", r.Proofs)
	w.TextIf("previous_proof", r.PreviousProof)
	if len(r.Evidence) > 0 {
		w.Begin("evidence", '[')
		for _, e := range r.Evidence {
			w.Next('{')
			w.Text("kind", e.Kind)
			w.Text("token", e.Token)
			w.End('}')
		}
		w.End(']')
	}
	return w.Done()
}

// JSON is the answer as it is sent, but with the texts of its credentials, which are most of it, appended where they belong: text appends the
// one of a.Credentials[i]. They have size bytes in all.
func (a *IssueAnswer) JSON(size int, text func(b []byte, i int) ([]byte, error)) ([]byte, error) {
	w := jsonwrite.On(make([]byte, 0, size+1024+256*len(a.Credentials)))
	w.Text("issuance", a.Issuance)
	w.Text("device", a.Device)
	w.Bool("replaced", a.Replaced)
	w.Begin("credentials", '[')
	for i, c := range a.Credentials {
		w.Next('{')
		w.Text("format", c.Format)
		w.Appended("credential", func(b []byte) ([]byte, error) { return text(b, i) })
		w.Text("key_thumbprint", c.KeyThumbprint)
		w.Begin("status", '{')
		w.Text("uri", c.Status.URI)
		w.Number("idx", c.Status.Index)
		w.End('}')
		w.Time("valid_until", c.ValidUntil)
		w.End('}')
	}
	w.End(']')
	d := &a.Decision
	w.Begin("decision", '{')
	w.TextIf("id", d.ID)
	w.Text("result", d.Result)
	w.TextIf("code", d.Code)
	w.TextIf("detail", d.Detail)
	w.Texts("rules", d.Rules)
	w.TextsIf("missing", d.Missing)
	w.Text("policy", d.Policy)
	w.Number("policy_version", d.PolicyVersion)
	w.TextIf("identity", d.Identity)
	w.End('}')
	return w.Done()
}
