package contract

import "time"

// Clients is who may connect: GET /v1/clients.
type Clients struct {
	Clients []ClientInfo `json:"clients"` // by id
}

// ClientInfo is one client.
type ClientInfo struct {
	Client   string              `json:"client"`
	Role     string              `json:"role"`
	State    string              `json:"state"` // approved (it has no key yet), active, held (a certificate of it is on hold), revoked (or a certificate of it is, for good), unknown to the policy
	Office   string              `json:"office,omitempty"`
	District string              `json:"district,omitempty"`
	Carrier  string              `json:"carrier,omitempty"`
	Enrolled bool                `json:"enrolled"` // by officers; the policy bundle names the others
	May      map[string][]string `json:"may"`      // document type → operations
	Until    time.Time           `json:"until,omitzero"`
	Seen     time.Time           `json:"seen,omitzero"` // last request since the daemon started
	Revoked  time.Time           `json:"revoked,omitzero"`
	Reason   string              `json:"reason,omitempty"`

	Certificates []ClientCertificate `json:"certificates"` // that have not ended
}

// ClientCertificate is one certificate of a client.
type ClientCertificate struct {
	Serial  string    `json:"serial"` // 40 hexadecimal digits
	Until   time.Time `json:"until"`
	Revoked string    `json:"revoked,omitempty"` // why; "certificateHold": that can be taken back
}
