# Everything needs Go (1.21 or newer: it fetches the toolchain that go.mod
# names), git and make. Only `race` needs a C compiler as well.

# A machine whose own setting is GOTOOLCHAIN=local must work too.
export GOTOOLCHAIN := auto

GO       ?= go
VERSION  ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),devel)
FUZZTIME ?= 30s
BENCH    ?= .

# Passed to `go test` by `test`, such as TESTFLAGS=-race.
TESTFLAGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## build bin/sidekey, static
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/sidekey ./cmd/sidekey

.PHONY: demo
demo: build ## build, then tell the whole story in one process
	./bin/sidekey demo

.PHONY: test
test: ## run every test
	$(GO) test $(TESTFLAGS) ./...

.PHONY: race
race: ## run every test under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(MAKE) --no-print-directory test TESTFLAGS='-race $(TESTFLAGS)'

.PHONY: bench
bench: ## run the benchmarks; BENCH=REGEXP picks some
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	GO='$(GO)' bash tools/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, govulncheck
	bash tools/gofmt.sh
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	bash tools/govulncheck.sh

.PHONY: test-clients
test-clients: ## run curl and git through Sidekey (installs them where apt-get can)
	bash tools/install-clients.sh
	SIDEKEY_CLIENTS=1 $(GO) test -count=1 -run TestClients ./cmd/sidekey/...

.PHONY: test-access
test-access: ## trace what a real nginx has in its access log (installs it where apt-get can)
	nginx=$$(bash tools/install-nginx.sh) && SIDEKEY_NGINX="$$nginx" $(GO) test -count=1 -run '^TestAccess' ./cmd/sidekey

.PHONY: test-otlp
test-otlp: ## copy the trail to a real OpenTelemetry Collector (builds it: 3 minutes the first time)
	bin=$$(bash tools/build.sh otelcol) && SIDEKEY_OTELCOL="$$bin" $(GO) test -count=1 -run '^TestRealCollector$$' ./cmd/sidekey

.PHONY: test-reload
test-reload: ## reload a policy 1000 times under 500 requests/s (1 minute); prints how it went
	SIDEKEY_RELOADS=1000 $(GO) test -count=1 -timeout=10m -v -run '^TestReloads$$' ./cmd/sidekey

.PHONY: test-agreement
PAIRS ?= 1000000
test-agreement: ## 1000000 (PAIRS=N) random pairs of policy and request: explain, test, the proxy and an oracle agree (5 minutes)
	SIDEKEY_PAIRS=$(PAIRS) $(GO) test -count=1 -timeout 20m -v -run '^TestAgreement$$' ./proxy

.PHONY: test-exhaustion
test-exhaustion: ## attack a real serve with floods and stuck peers (4 minutes); prints a table
	SIDEKEY_EXHAUSTION=1 $(GO) test -count=1 -v -timeout 20m -run '^TestExhaustion$$' ./cmd/sidekey

.PHONY: test-kill
KILLS ?= 1000
test-kill: ## kill 1000 (KILLS=N) loaded processes at random instants (2 minutes); the trail has all that the upstream received
	SIDEKEY_KILLS=$(KILLS) $(GO) test -count=1 -v -timeout 20m -run '^TestKill$$' ./cmd/sidekey

.PHONY: test-cost
test-cost: ## print what the audit trail costs a request, with and without (2 minutes; needs a machine of its own)
	SIDEKEY_COST=1 $(GO) test -count=1 -v -timeout 10m -run '^TestTrailCost$$' ./bench

.PHONY: test-h2spec
test-h2spec: build ## compare HTTP/2 inside a tunnel with bare net/http, by h2spec
	cd tools/h2spec && $(GO) run . $(abspath bin/sidekey)

.PHONY: test-vault
test-vault: ## run the tests against a real Vault (builds it: 5 minutes the first time)
	bin=$$(bash tools/build.sh vaultd) && pg=$$(bash tools/install-postgres.sh) && \
		SIDEKEY_VAULTD="$$bin" SIDEKEY_POSTGRES="$$pg" $(GO) test $(TESTFLAGS) -p 1 -parallel 6 -count=1 -timeout 15m -run RealVault -skip '$(FLEET)' ./internal/realvault ./vault ./cmd/sidekey

# What measures rather than checks, and needs a machine of its own.
FLEET = RealVaultFleet|RealVaultThroughput|RealVaultPerSidecar

.PHONY: test-fleet
test-fleet: ## 500 sidecars before one real Vault, through three kinds of restart (3 minutes); prints tables
	bin=$$(bash tools/build.sh vaultd) && SIDEKEY_VAULTD="$$bin" $(GO) test -v -count=1 -timeout 20m -run '$(FLEET)' ./vault

.PHONY: test-browser
test-browser: ## open the custody page in headless Chromium (installs it where apt-get can; needs npm; 2 minutes)
	GO='$(GO)' bash tools/browser.sh

.PHONY: manifests
manifests: ## check examples/kubernetes, with kubectl too where it is installed
	cd tools/manifests && $(GO) run . $(abspath $(wildcard examples/kubernetes/*.yaml))

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
