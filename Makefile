# sealkeeper: make demo, make test. Everything else is for those who work on it.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
LDFLAGS  = -X main.version=$(VERSION)
export CGO_ENABLED = 1
# Of everything, or what is built and what is tested would be compiled each for itself, with all that they are made of.
export GOFLAGS := $(GOFLAGS) -trimpath
export GORACE ?= atexit_sleep_ms=0
# Tests that start daemons wait more than they compute: on two processors, too, this many of a package run at once, and this many packages.
PROCESSORS := $(shell nproc 2>/dev/null || echo 1)
PARALLEL ?= $(shell test $(PROCESSORS) -gt 6 && echo $(PROCESSORS) || echo 6)
PACKAGES ?= $(shell test $(PROCESSORS) -gt 4 && echo $(PROCESSORS) || echo 4)

.PHONY: all build ra step step-ca registration demo demo-officers test unit interop check lint bench bench-scale bench-hold monitoring faults overload soak fuzz fuzz-scale clean

all: build

build: ## the daemon and the operator's tool, in bin/
	@mkdir -p bin
	@$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/sealkeeperd ./cmd/sealctl

ra: ## the registration authority, a module of its own, in bin/
	@mkdir -p bin
	@cd cmd/sealkeeper-ra && $(GO) build -o ../../bin/ .

STEP_VERSION = v0.21.0
step: bin/step ## the stock step of this version, in bin/: what clients' enrolment is tested with
bin/step:
	@mkdir -p bin
	@GOBIN=$(CURDIR)/bin/.step GOFLAGS=-trimpath $(GO) install github.com/smallstep/cli/cmd/step@$(STEP_VERSION)
	@mv bin/.step/step bin/step && rmdir bin/.step

STEP_CA_VERSION = v0.30.2
step-ca: bin/step-ca ## the stock step-ca of this version, in bin/: what enrolments are measured against; without YubiKeys, which need a library of their own
bin/step-ca:
	@mkdir -p bin
	@GOBIN=$(CURDIR)/bin/.step-ca GOFLAGS= $(GO) install -tags noyubikey github.com/smallstep/certificates/cmd/step-ca@$(STEP_CA_VERSION)
	@mv bin/.step-ca/step-ca bin/step-ca && rmdir bin/.step-ca

ENROLMENT = .
registration: ra step ## the registration authority's module, and the stock step against it; ENROLMENT names which tests, by default all
	cd cmd/sealkeeper-ra && $(GO) vet ./... && $(GO) test -race ./...
	SEAL_REQUIRE_STEP=1 $(GO) test -count=1 -timeout 10m -run '$(ENROLMENT)' ./tests/enrolment

demo: ## the story of one card, told by the real daemon over real mTLS
	@sh scripts/require.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o bin/demo ./tests/demo
	@bin/demo

demo-officers: ## the security officers: a ceremony with tokens of their own, rotation under load, stop and resume, a compromise, backup and restore
	@sh scripts/require.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o bin/demo ./tests/demo
	@bin/demo officers

test: ## everything: static checks, unit and end-to-end tests with the race detector, foreign verifiers
	@sh scripts/require.sh test
	@$(MAKE) --no-print-directory check unit interop

# The race detector looks at all Go that people wrote, and not at SQLite, which was translated from C and locks by itself: half of the time went there. Nor does it look at the
# arithmetic of the order of indices, which each daemon does for a million entries, in one goroutine.
# The daemon that end-to-end tests start is compiled before them, or each package of them would. These come first, since they take longest and mostly
# wait. Vetted is everything by check.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc/...=-race=false -gcflags=sealkeeper/ledger/index=-race=false
unit:
	$(GO) build $(RACE) -tags crashpoints -o /dev/null ./cmd/sealkeeperd
	$(GO) test $(RACE) -vet=off -p $(PACKAGES) -parallel $(PARALLEL) -timeout 30m ./tests/scenario ./tests/... ./...
	$(GO) test -vet=off ./policy
	$(GO) test -vet=off -run '^(TestRaceOfAThousandPhones|TestOfficesOfACountryAreEnrolled)$$' -timeout 5m ./tests/scenario

check:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || (echo "run gofmt -w on these files" && exit 1)
	$(GO) vet ./...

interop: ## verifiers written by others agree with every step of the demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o bin/demo ./tests/demo
	@DEMO_WORK=.demo/interop-work DEMO_OUT=.demo/interop DEMO_PHASE=20s bin/demo >.demo-interop.log 2>&1 || (cat .demo-interop.log; exit 1)
	@rm -f .demo-interop.log
	cd tests/interop && npm ci --no-audit --no-fund --silent
	node tests/interop/verify.mjs .demo/interop
	sh tests/interop/openssl.sh .demo/interop

lint: ## staticcheck, and what is known of holes in what the program is made of; both come from the network, so that no test depends on them
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

bench: ## what a request costs, beside its floors: one table, and figures in BENCH_OUT (.bench/bench.json); BENCH_SHORT=1 for a look
	@sh scripts/require.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o bin/bench ./tests/bench
	@$(GO) test -c -o bin/signer.test ./signer
	@bin/bench

BENCH_SUBJECTS ?= 10000000
bench-scale: ## enrolments next to a stock step-ca, overload (1, 2 and 10 times the capacity, server and load on CPUs of their own) and growth (10^7 subjects in the ledger: 15 GB of disk); half an hour
	@sh scripts/require.sh demo
	@$(MAKE) --no-print-directory build ra step-ca
	@$(GO) build -o bin/bench ./tests/bench
	@BENCH_OUT=$${BENCH_OUT:-.bench/bench-scale.json} bin/bench -enrol -overload 10s -growth $(BENCH_SUBJECTS)

BENCH_CARDS ?= 1048576
bench-hold: ## a mass hold of 22 lists of 2^20 entries and its lift, with BENCH_CARDS cards; ten minutes, most of them for filling the ledger
	@sh scripts/require.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -o bin/bench ./tests/bench
	@BENCH_OUT=$${BENCH_OUT:-.bench/bench-hold.json} bin/bench -hold $(BENCH_CARDS)

monitoring: ## a real Prometheus sees each fault come and go; every command of the runbooks is run
	@sh scripts/require.sh monitoring
	SEAL_MONITORING=1 SEAL_REQUIRE_PROMETHEUS=1 $(GO) test -count 1 -timeout 15m -parallel 8 -run '^Test(Alerts|Runbooks)$$' ./tests/monitoring

faults: ## every fault of the HSM, every crash point and failing system calls, each at least once
	@sh scripts/require.sh faults
	SEAL_FAULTS=all SEAL_REQUIRE_P11KIT=1 $(GO) test -count=1 -parallel $(PARALLEL) -timeout 30m ./tests/faults

overload: ## 10,000 connections that are held in every bad way, and 10,000 locks on a full disk (as root: it mounts a small one); 2 minutes
	SEAL_OVERLOAD=all $(GO) test -count=1 -v -timeout 15m ./tests/overload

SEAL_SOAK ?= 1
soak: ## the same hundreds of times, for hours; an interrupted one goes on where it was (.soak/state.json); SEAL_SOAK=0.01 is a hundredth
	SEAL_SOAK=$(SEAL_SOAK) SEAL_SOAK_STATE=$(CURDIR)/.soak/state.json nice $(GO) test -count=1 -v -timeout 0 -run '^TestSoak$$' ./tests/faults
	SEAL_DRILL_CARDS=1000 nice $(GO) test -count=1 -v -timeout 0 -run '^TestRestoreDrill$$' ./tests/scenario
	SEAL_SOAK=$(SEAL_SOAK) nice $(GO) test -count=1 -v -timeout 0 -run '^TestSoak$$' ./tests/histories
	SEAL_SOAK=$(SEAL_SOAK) nice $(GO) test -count=1 -v -timeout 0 -run '^TestAnyHistory$$' ./ledger/state
	SEAL_APPROVAL_STEPS=1000000 nice $(GO) test -count=1 -v -timeout 0 -run '^TestNoFewerThanTheQuorum$$' ./officer
	SEAL_CAMPAIGN_CARDS=100000 nice $(GO) test -count=1 -v -timeout 0 -run '^TestCampaignAccountsForEveryCard$$' ./ledger
	nice $(GO) test -count=1 -v -timeout 0 -run '^TestBudgetsUnderAnyHistory$$' ./ledger -rapid.checks=3000 -rapid.nofailfile
	nice $(GO) test -count=1 -v -timeout 0 -run '^TestHoldsUnderAnyHistory$$' ./ledger -rapid.checks=3000 -rapid.nofailfile

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME
	@for d in . cmd/sealkeeper-ra; do cd $(CURDIR)/$$d; for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do \
		echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done; done

FUZZ_INPUTS ?= 1000000
fuzz-scale: ## FUZZ_INPUTS inputs for every fuzz target, changed along their structure, in one process each; what was counted is in .fuzz/state.jsonl
	@mkdir -p .fuzz && for d in . cmd/sealkeeper-ra; do cd $(CURDIR)/$$d; for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do echo "== $$p $$f"; \
		SEAL_FUZZ_INPUTS=$(FUZZ_INPUTS) SEAL_FUZZ_STATE=$(CURDIR)/.fuzz/state.jsonl GOGC=off GOMEMLIMIT=96MiB nice -n 19 $(GO) test -count 1 -timeout 0 -run "^$$f$$" $$p || exit 1; done; done; done

clean:
	rm -rf bin .demo .bench .soak .fuzz
