package contract_test

import (
	"context"
	"fmt"
	"regexp"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"sealkeeper/contract"
)

func document(t *testing.T) *openapi3.T {
	t.Helper()
	d, err := openapi3.NewLoader().LoadFromData(contract.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDocumentIsValidOpenAPI31(t *testing.T) {
	d := document(t)
	if !regexp.MustCompile(`^3\.1\.\d$`).MatchString(d.OpenAPI) {
		t.Fatalf("version %s", d.OpenAPI)
	}
	if err := d.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
}

// Every object that a client may send or get names all its members, except claims, whose names are the policy's.
func TestObjectsAreClosed(t *testing.T) {
	for name, s := range document(t).Components.Schemas {
		if s.Value.Type.Is("object") && (s.Value.AdditionalProperties.Has == nil || *s.Value.AdditionalProperties.Has) {
			t.Errorf("schema %s takes members that it does not name", name)
		}
	}
}

// The bounds that the edge checks are those that the document states.
func TestBoundsAgree(t *testing.T) {
	d := document(t)
	property := func(schema, name string) *openapi3.Schema {
		return d.Components.Schemas[schema].Value.Properties[name].Value
	}
	issue := func(name string) *openapi3.Schema { return property("IssueRequest", name) }
	for _, c := range []struct{ what, got, want string }{
		{"Idempotency-Key", d.Components.Parameters["IdempotencyKey"].Value.Schema.Value.Pattern, contract.IdempotencyKeyPattern},
		{"document_type", issue("document_type").Pattern, contract.DocumentTypePattern},
		{"reason", property("ChangeRequest", "reason").Pattern, contract.ReasonPattern},
		{"device", d.Components.Schemas["Device"].Value.Pattern, contract.DevicePattern},
		{"kind", property("EvidenceItem", "kind").Pattern, contract.KindPattern},
		{"claims", fmt.Sprint(*issue("claims").MaxProps), fmt.Sprint(contract.MaxClaims)},
		{"proof", fmt.Sprint(*issue("proof").MaxLength), fmt.Sprint(contract.MaxToken)},
		{"key_attestation", fmt.Sprint(*issue("key_attestation").MaxLength), fmt.Sprint(contract.MaxToken)},
		{"token", fmt.Sprint(*property("EvidenceItem", "token").MaxLength), fmt.Sprint(contract.MaxToken)},
		{"android_attestation", fmt.Sprint(*issue("android_attestation").MaxItems), fmt.Sprint(contract.MaxChains)},
		{"proofs", fmt.Sprint(*issue("proofs").MaxItems), fmt.Sprint(contract.MaxChains)},
		{"chain", fmt.Sprint(*issue("android_attestation").Items.Value.MaxItems), fmt.Sprint(contract.MaxChain)},
		{"certificate", fmt.Sprint(*issue("android_attestation").Items.Value.Items.Value.MaxLength), fmt.Sprint(contract.MaxCertificate)},
		{"status", fmt.Sprint(*property("PhoneStatusRequest", "status").MaxLength), fmt.Sprint(contract.MaxPhoneStatus)},
		{"evidence", fmt.Sprint(*issue("evidence").MaxItems), fmt.Sprint(contract.MaxEvidence)},
		{"formats", fmt.Sprint(d.Components.Schemas["Format"].Value.Enum), fmt.Sprint(contract.Formats())},
	} {
		if c.got != c.want {
			t.Errorf("%s: the document says %s, the edge %s", c.what, c.got, c.want)
		}
	}
}
