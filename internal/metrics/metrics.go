// Package metrics holds every metric of the appliance in one place, so that names, labels and their bounds can be read at a glance.
//
// No label has an unbounded set of values and none says anything of a person. Label values are closed sets of the code (result, purpose,
// lane, format, route patterns), key registry ids, list ids and client ids of the policy bundle.
package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of one process. Make it with New; every field is ready to use. What is a state rather than an event (the age of a change that
// waits, workers, the clock, room on the disk) is looked at when somebody asks, and so is never stale: call Look before gathering.
type Metrics struct {
	Registry *prometheus.Registry
	mu       sync.Mutex
	looks    []func()

	Decisions      *prometheus.CounterVec   // operation, result, code
	Requests       *prometheus.CounterVec   // listener, route, status
	RequestSeconds *prometheus.HistogramVec // route
	Connections    *prometheus.GaugeVec     // listener
	Evicted        *prometheus.CounterVec   // listener
	Hardening      *prometheus.GaugeVec     // control

	PolicyVersion prometheus.Gauge
	PhoneAsOf     prometheus.Gauge       // when the status of phones was true, unix seconds; 0: there is none
	PhoneStatus   prometheus.Gauge       // since when the status of phones may be used no longer, unix seconds
	PhoneFeeds    *prometheus.CounterVec // result: taken, refused
	Activations   *prometheus.CounterVec // result: activated, refused
	Officers      *prometheus.CounterVec // what: proposal, approval, rejection, execution; code: done, or why not
	Stopped       prometheus.Gauge       // 1 while officers have issuing stopped

	Signatures     *prometheus.CounterVec   // key, purpose, result: ok, bad, error
	Attempts       *prometheus.CounterVec   // key, purpose
	HSMSeconds     *prometheus.HistogramVec // purpose
	WorkerRestarts *prometheus.CounterVec   // token, reason: hung, died, quarantined, session
	WorkersReady   *prometheus.GaugeVec     // token
	WorkersWanted  *prometheus.GaugeVec     // token
	PINRefused     *prometheus.GaugeVec     // token
	SelftestOK     prometheus.Gauge
	QueueDepth     *prometheus.GaugeVec     // lane
	QueueSeconds   *prometheus.HistogramVec // lane
	Shed           *prometheus.CounterVec   // lane

	CommitSeconds prometheus.Histogram
	CommitBatch   prometheus.Histogram
	JournalSize   prometheus.Gauge
	Fenced        prometheus.Gauge
	ClockTrusted  prometheus.Gauge
	DiskFree      prometheus.Gauge
	DiskSize      prometheus.Gauge

	ListVersion     *prometheus.GaugeVec // list
	ListBytes       *prometheus.GaugeVec // list
	ListIssued      *prometheus.GaugeVec // list: iat, unix seconds
	ListExpires     *prometheus.GaugeVec // list: exp, unix seconds
	ListUsed        *prometheus.GaugeVec // list: indices leased
	ListPending     *prometheus.GaugeVec // list: since when its oldest acknowledged change waits to be published, unix seconds; 0: none waits
	LockToPublished prometheus.Histogram // seconds from acknowledged change to fetchable list

	ReservationsOpen  prometheus.Gauge       // requests that wait for their signature
	ReservationOldest prometheus.Gauge       // seconds
	GivenUp           *prometheus.CounterVec // why: unfinished, unacknowledged
	Scheduled         prometheus.Counter     // orders carried out
	ScheduleLate      prometheus.Gauge       // seconds that the oldest order that is due waits

	HeldCards  *prometheus.GaugeVec // carrier
	Holds      *prometheus.GaugeVec // state: finding, standing
	DeadEvents prometheus.Gauge
	Unrecorded prometheus.Counter // denials that were one too many to be journalled

	BudgetUsed *prometheus.GaugeVec // budget, per: client, office, officer, phase

	CertExpires   *prometheus.GaugeVec // key: notAfter of the leaf, unix seconds; "tls-server": the issuance listener's
	ClientIssued  *prometheus.GaugeVec // client: of its newest certificate, unix seconds
	ClientExpires *prometheus.GaugeVec // client: notAfter of its newest certificate, unix seconds
	KeyUseEnds    *prometheus.GaugeVec // key: end of private-key use, unix seconds
	OrphanKeys    *prometheus.GaugeVec // token: keys on it that nobody registered
	KeyUsed       *prometheus.GaugeVec // key with a limit: how much of it was signed
	CRLIssued     *prometheus.GaugeVec // crl; thisUpdate, unix seconds
	CRLExpires    *prometheus.GaugeVec // crl; nextUpdate, unix seconds
}

// New makes and registers all metrics.
func New() *Metrics {
	r := prometheus.NewRegistry()
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sealkeeper", Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: name, Help: help}, labels)
		r.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "sealkeeper", Name: name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(h)
		return h
	}
	fast := prometheus.ExponentialBuckets(0.00005, 2, 16) // 50 µs … 1.6 s
	slow := prometheus.ExponentialBuckets(0.005, 2, 14)   // 5 ms … 41 s
	m := &Metrics{
		Registry:       r,
		Decisions:      counter("decisions_total", "Policy decisions by operation, result (allowed, denied, failed) and stable code.", "operation", "result", "code"),
		Requests:       counter("http_requests_total", "Answered requests by listener, route pattern and HTTP status.", "listener", "route", "status"),
		Connections:    gauge("connections", "Open connections by listener.", "listener"),
		Evicted:        counter("connections_evicted_total", "Connections that were closed, the longest idle first, because the listener was full.", "listener"),
		Hardening:      gauge("hardening", "1: the control confines this process, as found at start.", "control"),
		RequestSeconds: histogram("http_request_seconds", "Time from the request's first byte to the end of its answer.", slow, "route"),
		Activations:    counter("policy_activations_total", "Policy bundles that were put to use or refused while the daemon ran.", "result"),
		Officers:       counter("officers_total", "What officers signed, by what it was and what came of it: done, or the code of its refusal.", "what", "code"),
		PhoneFeeds:     counter("phone_status_feeds_total", "Statuses of attestation keys and wallets that were taken or refused.", "result"),
		Signatures:     counter("signatures_total", "Signatures that workers returned, by key, purpose and result of the verification before release.", "key", "purpose", "result"),
		Attempts:       counter("signature_attempts_total", "Journalled attempts at a signature.", "key", "purpose"),
		HSMSeconds:     histogram("hsm_batch_seconds", "Time a worker took for a batch.", fast, "purpose"),
		WorkerRestarts: counter("worker_restarts_total", "HSM worker processes replaced, by reason.", "token", "reason"),
		WorkersReady:   gauge("workers_ready", "HSM worker processes that take requests.", "token"),
		WorkersWanted:  gauge("workers_wanted", "HSM worker processes that there should be now; 0 for a token that is started when needed.", "token"),
		PINRefused:     gauge("pin_refused", "1: the token refused its PIN; no worker is started until a person corrects the PIN and removes the marker.", "token"),
		QueueDepth:     gauge("queue_depth", "Signatures waiting, by lane.", "lane"),
		QueueSeconds:   histogram("queue_seconds", "Time a signature waited for a worker, by lane.", fast, "lane"),
		Shed:           counter("shed_total", "Requests refused because their lane was full.", "lane"),
		ListVersion:    gauge("list_version", "Version of the newest signed status list.", "list"),
		ListBytes:      gauge("list_bytes", "Size of the newest signed status list.", "list"),
		ListIssued:     gauge("list_issued_timestamp_seconds", "iat of the newest signed status list.", "list"),
		ListExpires:    gauge("list_expires_timestamp_seconds", "exp of the newest signed status list.", "list"),
		ListUsed:       gauge("list_used_indices", "Indices leased out of a status list.", "list"),
		ListPending:    gauge("list_pending_since_timestamp_seconds", "Since when the oldest acknowledged change of a list waits to be published; 0: none waits.", "list"),
		GivenUp:        counter("given_up_total", "Issues that ended without a card: unfinished (nobody finished the request in time), unacknowledged (the phone did not show in time that it has it).", "why"),
		DeadEvents:     gauge("dead_events", "Events of carriers that were refused and may be judged again.").WithLabelValues(),
		Holds:          gauge("holds", "Mass holds of the security officers: those that stand in the lists, and those whose cards are still being found.", "state"),
		HeldCards:      gauge("held_cards", "Cards whose mdocs wait for a decision on a carrier's flood of reports.", "carrier"),
		BudgetUsed:     gauge("budget_used_ratio", "How much the one that used most of a budget has used of it, in this hour or day, whichever is fuller; at 1 it is refused.", "budget", "per"),
		CertExpires:    gauge("certificate_expires_timestamp_seconds", "notAfter of a key's certificate; tls-server is the issuance listener's.", "key"),
		ClientIssued:   gauge("client_certificate_issued_timestamp_seconds", "When the newest certificate of a client that is not revoked was made.", "client"),
		ClientExpires:  gauge("client_certificate_expires_timestamp_seconds", "notAfter of the newest certificate of a client that is not revoked, until a day after.", "client"),
		CRLIssued:      gauge("crl_issued_timestamp_seconds", "thisUpdate of a revocation list.", "crl"),
		CRLExpires:     gauge("crl_expires_timestamp_seconds", "nextUpdate of a revocation list.", "crl"),
		KeyUseEnds:     gauge("key_use_ends_timestamp_seconds", "When a key's private-key use ends: nothing more is signed with it.", "key"),
		OrphanKeys:     gauge("orphan_keys", "Keys on a token that no plan and no ceremony made, as of the last look: once a minute, and at the root's token while it is used.", "token"),
		KeyUsed:        gauge("key_used_ratio", "How much of the signatures that officers allowed a key it has made; a key without such a limit is not there.", "key"),
	}
	one := func(c prometheus.Collector) { r.MustRegister(c) }
	m.CommitSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "sealkeeper", Name: "commit_seconds", Help: "Time of one durable ledger commit.", Buckets: fast})
	m.CommitBatch = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "sealkeeper", Name: "commit_batch", Help: "Operations per ledger commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)})
	m.LockToPublished = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "sealkeeper", Name: "lock_to_published_seconds", Help: "Time from an acknowledged lock, unlock or revocation to a fetchable list that carries it.", Buckets: slow})
	m.JournalSize = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "journal_size", Help: "Journal entries, equal to log leaves."})
	m.ReservationsOpen = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "reservations_open", Help: "Requests whose reservation waits to be finished, as of the last look for those to give up."})
	m.ReservationOldest = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "reservation_oldest_seconds", Help: "How long the oldest unfinished reservation has waited, as of that look."})
	m.Unrecorded = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sealkeeper", Name: "decisions_unrecorded_total", Help: "Denied requests whose decision was not journalled, because there were too many of them in an hour."})
	m.Scheduled = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sealkeeper", Name: "schedule_carried_out_total", Help: "Steps of orders (scheduled locks, their ends, closings) that were carried out."})
	m.ScheduleLate = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "schedule_late_seconds", Help: "For how long the oldest order that is due waits to be carried out; 0: none does."})
	m.Fenced = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "fenced", Help: "1: something outside is ahead of the ledger; nothing is signed."})
	m.Stopped = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "issuing_stopped", Help: "1: security officers stopped issuing; locks and lists go on."})
	m.ClockTrusted = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "clock_trusted", Help: "0: wall and monotonic time disagree; issuing is stopped."})
	m.SelftestOK = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "selftest_ok", Help: "0: the last self test of an active key failed."})
	m.DiskFree = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "disk_free_bytes", Help: "Room left on the ledger's disk."})
	m.DiskSize = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "disk_size_bytes", Help: "Size of the ledger's disk."})
	m.PolicyVersion = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "policy_version", Help: "Version of the policy bundle in use."})
	m.PhoneStatus = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "phone_status_ends_timestamp_seconds", Help: "When the fed status of phones becomes too old to be used, 0 if there is none; +Inf if the policy asks for none."})
	m.PhoneAsOf = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "phone_status_as_of_timestamp_seconds", Help: "When the fed status of phones was true; 0: there is none that may be used."})
	for _, c := range []prometheus.Collector{m.CommitSeconds, m.CommitBatch, m.LockToPublished, m.JournalSize, m.ReservationsOpen, m.ReservationOldest, m.Scheduled, m.Unrecorded, m.ScheduleLate, m.Fenced, m.Stopped, m.ClockTrusted, m.PolicyVersion, m.PhoneAsOf, m.PhoneStatus, m.SelftestOK, m.DiskFree, m.DiskSize} {
		one(c)
	}
	return m
}

// OnLook has f called by Look.
func (m *Metrics) OnLook(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks = append(m.looks, f)
}

// Look sets what is a state.
func (m *Metrics) Look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.looks {
		f()
	}
}
