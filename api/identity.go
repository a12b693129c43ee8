package api

import (
	"crypto/tls"
	"slices"
	"strings"
	"time"

	"sealkeeper/ca"
)

// Roles of clients, as they stand in certificates and in the policy bundle.
const (
	RoleIssuance = "issuance" // issuance services: ward office, portal, wallet back ends
	RoleCarrier  = "carrier"  // telecommunications carriers
	RoleDesk     = "desk"     // loss-report desks and authorities
	RoleOperator = "operator" // operators of the appliance
	RoleAuditor  = "auditor"  // read only
	RoleRA       = "ra"       // registration authority: carries what clients ask the client CA for
	RoleOfficer  = "officer"  // carries what security officers signed; their signatures count, not this role
)

var roles = []string{RoleIssuance, RoleCarrier, RoleDesk, RoleOperator, RoleAuditor, RoleOfficer, RoleRA}

// Roles lists all of them.
func Roles() []string { return slices.Clone(roles) }

var clientID = formOf(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

var errNameless = &ca.Problem{Code: "client.unidentified", Detail: "the client certificate does not have exactly one name urn:sealkeeper:client:<role>:<id>"}

// identify reads the caller from the connection. The handshake checked the chain, but a connection lives on: so validity is judged again
// for every request, for each certificate of the chain (T1, F22). The name is the leaf's single URI subject alternative name,
// urn:sealkeeper:client:<role>:<id>; two names would let a certificate speak for two clients.
func identify(cs *tls.ConnectionState, now time.Time) (ca.Caller, error) {
	if cs == nil || len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return ca.Caller{}, &ca.Problem{Code: "client.unidentified", Detail: "no verified client certificate"}
	}
	chain := cs.VerifiedChains[0]
	expires := chain[0].NotAfter
	for _, c := range chain {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return ca.Caller{}, &ca.Problem{Code: "client.certificate_expired", Detail: "the client certificate, or one above it, is not valid now"}
		}
		if c.NotAfter.Before(expires) {
			expires = c.NotAfter
		}
	}
	if len(chain[0].URIs) != 1 {
		return ca.Caller{}, errNameless
	}
	rest, ok := strings.CutPrefix(chain[0].URIs[0].String(), "urn:sealkeeper:client:")
	role, id, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || !slices.Contains(roles, role) || !clientID.fits(id) {
		return ca.Caller{}, errNameless
	}
	serial := chain[0].SerialNumber
	if serial == nil || serial.Sign() < 0 || serial.BitLen() > 160 {
		return ca.Caller{}, errNameless
	}
	return ca.Caller{ID: id, Role: role, Expires: expires, Serial: string(serial.FillBytes(make([]byte, 20)))}, nil
}
