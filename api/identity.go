package api

import (
	"crypto/tls"
	"crypto/x509"
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
// for every request, for each certificate of the chain (T1, F22). While the wall is not trusted a chain is also good at the time of lists,
// since locks have to come in with a wall that is wrong; nothing is issued then.
func (e *Edge) identify(cs *tls.ConnectionState) (ca.Caller, error) {
	if cs == nil {
		return ca.Caller{}, errUnverified
	}
	chains := cs.VerifiedChains
	if len(chains) == 0 { // the handshake was at a time when the wall was not trusted
		var err error
		if chains, err = e.verify(cs.PeerCertificates); err != nil {
			return ca.Caller{}, errUnverified
		}
	}
	if chain := chains[0]; !valid(chain, e.o.Guard.Wall()) && !valid(chain, e.o.Guard.Plausible()[1]) {
		return ca.Caller{}, &ca.Problem{Code: "client.certificate_expired", Detail: "the client certificate, or one above it, is not valid now"}
	}
	return caller(chains[0])
}

var errUnverified = &ca.Problem{Code: "client.unidentified", Detail: "no verified client certificate"}

// verify does for a client's certificates what crypto/tls does in a handshake, at each instant that may be now.
func (e *Edge) verify(certs []*x509.Certificate) (chains [][]*x509.Certificate, err error) {
	if len(certs) == 0 || e.o.ClientCAs == nil {
		return nil, errUnverified
	}
	o := x509.VerifyOptions{Roots: e.o.ClientCAs(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	for _, o.CurrentTime = range e.o.Guard.Plausible() {
		if chains, err = certs[0].Verify(o); err == nil {
			return chains, nil
		}
	}
	return nil, err
}

func valid(chain []*x509.Certificate, now time.Time) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return now.Before(c.NotBefore) || now.After(c.NotAfter) })
}

// caller reads who it is from a verified chain. The name is the leaf's single URI subject alternative name,
// urn:sealkeeper:client:<role>:<id>; two names would let a certificate speak for two clients.
func caller(chain []*x509.Certificate) (ca.Caller, error) {
	expires := chain[0].NotAfter
	for _, c := range chain[1:] {
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
