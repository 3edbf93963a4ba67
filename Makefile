# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Everything built lands in bin/, everything fetched or made for tests in .cache/.

# make machine-NAME SHELL=1 asks for a shell in a machine. make takes SHELL for the program that runs its recipes.
ifeq ($(SHELL),1)
override SHELL := /bin/sh
INTO := -shell
endif

GO       ?= go
BIN      := bin
CACHE    := .cache
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GOBUILD  := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
SOURCES  := $(shell find cmd pkg -type f \( -name '*.go' -o -name 'pause_*' \) -not -name '*_test.go' 2>/dev/null)

# runc is static, like the releases of its authors, and without the parts of its flag library that write manuals: what is
# linked and initialised is paid for twice by each start and each exec.
RUNC_TAGS := seccomp,urfave_cli_no_docs,netgo,osusergo

# What looks at the code, and is no part of it.
TOOLS      := $(CACHE)/tools
LINT_TOOLS := github.com/golangci/golangci-lint/v2/cmd/golangci-lint golang.org/x/tools/cmd/deadcode \
              golang.org/x/vuln/cmd/govulncheck golang.org/x/perf/cmd/benchstat

# The CNI plugins we ship for the default network and the tests.
CNI_PLUGINS := main/bridge main/host-device main/loopback main/ptp ipam/host-local \
               meta/bandwidth meta/firewall meta/portmap meta/tuning
CNI_FILES   := $(addprefix $(BIN)/cni/,$(notdir $(CNI_PLUGINS)))
CNI_MODULE  := github.com/containernetworking/plugins/plugins

.DEFAULT_GOAL := build

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##-- building ------------------------------------------------------------------------------------------------------

.PHONY: build
build: $(BIN)/cri-shim $(BIN)/cri-monitor runc cni-plugins ## build everything into bin/

.PHONY: runc cni-plugins pause
runc: $(BIN)/runc ## build runc from its Go module (cgo, libseccomp)
cni-plugins: $(CNI_FILES) ## build the CNI plugins from their Go module
pause: ## rebuild the committed pause programs (Debian's cross compilers)
	cmd/pause/build.sh

.PHONY: pause-check
pause-check: ## rebuild the pause programs and compare them with the committed ones
	cmd/pause/build.sh --check

$(BIN)/cri-shim: $(SOURCES) go.mod go.sum
	$(GOBUILD) -tags nri_no_wasm -o $@ ./cmd/cri-shim

$(BIN)/cri-monitor: $(SOURCES) go.mod go.sum
	$(GOBUILD) -o $@ ./cmd/cri-monitor

# A daemon that test/crash can make fail or die at each step of each operation.
$(BIN)/faults/cri-shim: $(SOURCES) go.mod go.sum
	CGO_ENABLED=0 $(GO) build -trimpath -tags nri_no_wasm,faults -o $@ ./cmd/cri-shim
	@ln -sfn ../cri-monitor ../runc ../cni $(BIN)/faults/

# The same three with the race detector, in a folder that stands in for $(BIN): CRI_TEST_BIN=bin/race. Without -trimpath, so
# that what the unit tests have compiled is used again.
RACEBUILD := CGO_ENABLED=1 $(GO) build -race
.PHONY: race
race: $(BIN)/race/cri-shim $(BIN)/race/cri-monitor $(BIN)/race/faults/cri-shim ## daemon and monitor with the race detector, in bin/race (cgo)

$(BIN)/race/cri-shim: $(SOURCES) go.mod go.sum
	$(RACEBUILD) -tags nri_no_wasm -o $@ ./cmd/cri-shim
	@ln -sfn ../runc ../cni ../testbox $(BIN)/race/

$(BIN)/race/cri-monitor: $(SOURCES) go.mod go.sum
	$(RACEBUILD) -o $@ ./cmd/cri-monitor

$(BIN)/race/faults/cri-shim: $(SOURCES) go.mod go.sum
	$(RACEBUILD) -tags nri_no_wasm,faults -o $@ ./cmd/cri-shim
	@ln -sfn ../cri-monitor ../runc ../cni $(BIN)/race/faults/

$(BIN)/testbox: $(wildcard test/testbox/*.go) go.mod
	$(GOBUILD) -o $@ ./test/testbox

$(BIN)/runc: tools/go.mod tools/go.sum
	@test/deps build
	CGO_ENABLED=1 $(GO) build -C tools -trimpath -tags $(RUNC_TAGS) -ldflags '-s -w -extldflags -static' -o ../$@ github.com/opencontainers/runc
	@touch $@

$(CNI_FILES) &: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)/cni
	CGO_ENABLED=0 $(GO) build -C tools -trimpath -ldflags '-s -w' -o ../$(BIN)/cni/ $(addprefix $(CNI_MODULE)/,$(CNI_PLUGINS))
	@touch $(CNI_FILES)

PREFIX ?= /usr/local
UNITS  ?= $(DESTDIR)/etc/systemd/system
LIBEXEC := $(PREFIX)/libexec/cri-shim

# Out of PATH except for cri-shim itself: our runc must not become that of other runtimes on the machine.
.PHONY: install uninstall
install: build ## install programs and systemd units (DESTDIR, PREFIX, UNITS)
	install -d $(DESTDIR)$(LIBEXEC)/cni $(DESTDIR)$(PREFIX)/bin $(UNITS)
	install -m 0755 $(BIN)/cri-shim $(BIN)/cri-monitor $(BIN)/runc $(DESTDIR)$(LIBEXEC)/
	install -m 0755 $(CNI_FILES) $(DESTDIR)$(LIBEXEC)/cni/
	ln -sfn ../libexec/cri-shim/cri-shim $(DESTDIR)$(PREFIX)/bin/cri-shim
	for unit in cri-shim cri-monitor; do \
	  sed 's|/usr/local|$(PREFIX)|' dist/systemd/$$unit.service >$(UNITS)/$$unit.service || exit 1; done

uninstall: ## remove what install installed; stop the units and run `cri-shim wipe` before
	rm -rf $(DESTDIR)$(LIBEXEC)
	rm -f $(DESTDIR)$(PREFIX)/bin/cri-shim $(UNITS)/cri-shim.service $(UNITS)/cri-monitor.service

.PHONY: deps
deps: ## install the Debian packages that building and testing need, if any are missing
	@test/deps build run

##-- testing -------------------------------------------------------------------------------------------------------

.PHONY: test
test: deps build lint-tools $(BIN)/testbox $(BIN)/faults/cri-shim ## everything this machine can run: linters, unit, fuzz, integration, crash, compat, e2e, nodes, cluster, demo, critest
	@test/run

.PHONY: unit
unit: ## unit tests with the race detector (as root they include the ones that mount and make namespaces)
	$(GO) test -race ./cmd/... ./pkg/... ./test/model

.PHONY: house
house: ## the house rules as a test
	$(GO) vet ./...
	$(GO) test ./test/house/...

.PHONY: integration
integration: deps build $(BIN)/testbox ## the daemon against real runc, CNI and overlay (root)
	$(GO) test -count=1 -tags integration ./test/integration/...

.PHONY: compat
compat: deps build $(BIN)/testbox ## daemon and monitor beside those of the version before, on running pods (root, git history)
	test/compat/previous
	$(GO) test -count=1 -tags integration ./test/compat/...

.PHONY: crash
crash: deps build $(BIN)/testbox $(BIN)/faults/cri-shim ## failures and kill -9 at every step, 200 kills under churn (root); CRASH_KILLS=n CRASH_SEED=n
	CRASH_KILLS=$${CRASH_KILLS:-200} $(GO) test -count=1 -v -tags integration -timeout 60m ./test/crash/...

# From its Go module, with the version of each library that the release was made with.
$(CACHE)/kubelet: test/e2e/kubelet/go.mod test/e2e/kubelet/go.sum
	@mkdir -p $(CACHE)
	CGO_ENABLED=0 nice -n 19 $(GO) build -C test/e2e/kubelet -trimpath -ldflags '-s -w' -o ../../../$@ k8s.io/kubernetes/cmd/kubelet
	@touch $@

# As the kubelet. Its libraries have versions of their own, so it has a module of its own.
$(CACHE)/runsc: tools/gvisor/go.mod tools/gvisor/go.sum
	@mkdir -p $(CACHE)
	CGO_ENABLED=0 nice -n 19 $(GO) build -C tools/gvisor -trimpath -ldflags '-s -w' -o ../../$@ gvisor.dev/gvisor/runsc
	@touch $@

.PHONY: gvisor
gvisor: deps build $(BIN)/testbox $(CACHE)/runsc ## pods in gVisor's sandbox; its runsc is built on first use: 5 minutes (root)
	$(GO) test -count=1 -v -tags integration -run TestGVisor ./test/integration/...

.PHONY: e2e
e2e: deps build $(BIN)/testbox $(CACHE)/kubelet ## a real kubelet with static pods, built on first use: 6 minutes (root)
	$(GO) test -count=1 -v -tags integration ./test/e2e/...

# Daemon and monitor of another build than those of $(BIN), for an upgrade.
NEXT      := $(CACHE)/next
NEXTBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=next'

$(NEXT)/cri-shim: $(SOURCES) go.mod go.sum
	$(NEXTBUILD) -tags nri_no_wasm -o $@ ./cmd/cri-shim

$(NEXT)/cri-monitor: $(SOURCES) go.mod go.sum
	$(NEXTBUILD) -o $@ ./cmd/cri-monitor

# What a cluster is made of, from the Go modules of its authors, at once: they share most of what is compiled. etcd's
# program would be called server.
CLUSTER       := $(CACHE)/cluster
K8S_PROGRAMS  := $(addprefix k8s.io/kubernetes/,cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-proxy cmd/kube-scheduler \
                 cmd/kubectl cmd/kubelet test/images/agnhost) github.com/coredns/coredns
CLUSTER_FILES := $(addprefix $(CLUSTER)/,$(notdir $(K8S_PROGRAMS)) etcd)
CLUSTER_GO    := CGO_ENABLED=0 nice -n 5 $(GO)
K8S_VERSION    = $(shell sed -n 's|^require k8s.io/kubernetes \(v[^ ]*\).*|\1|p' test/cluster/programs/go.mod)
CLUSTER_FLAGS  = -C test/cluster/programs -trimpath -o $(abspath $(CLUSTER))
CLUSTER_LINK   = -ldflags "-s -w $$(echo $(K8S_VERSION) | \
                 sed 's|v\([0-9]*\)\.\([0-9]*\).*|-X P.gitVersion=& -X P.gitMajor=\1 -X P.gitMinor=\2|; s|P|k8s.io/component-base/version|g')"

$(CLUSTER_FILES) &: test/cluster/programs/go.mod test/cluster/programs/go.sum
	@mkdir -p $(CLUSTER)
	$(CLUSTER_GO) build $(CLUSTER_FLAGS)/ $(CLUSTER_LINK) $(K8S_PROGRAMS)
	$(CLUSTER_GO) build $(CLUSTER_FLAGS)/etcd $(CLUSTER_LINK) go.etcd.io/etcd/server/v3
	@touch $(CLUSTER_FILES)

.PHONY: nodes
nodes: deps build $(BIN)/testbox $(NEXT)/cri-shim $(NEXT)/cri-monitor ## two nodes in namespaces of their own, upgraded and killed one after the other under load (root)
	$(GO) test -count=1 -v -tags integration -timeout 10m -run TwoNodes ./test/cluster

.PHONY: cluster
cluster: nodes $(CLUSTER_FILES) ## the same with Kubernetes, and what users do with it; built on first use: 10 minutes (root)
	@test/deps images
	$(GO) test -count=1 -v -tags integration -parallel 6 -timeout 20m -run Cluster ./test/cluster

# Upstream's e2e suite and what its specs look for beside it.
E2E_PROGRAMS := github.com/onsi/ginkgo/v2/ginkgo k8s.io/sample-apiserver
E2E_FILES    := $(addprefix $(CLUSTER)/,e2e.test $(notdir $(E2E_PROGRAMS)))

$(E2E_FILES) &: test/cluster/programs/go.mod test/cluster/programs/go.sum
	@mkdir -p $(CLUSTER)
	$(CLUSTER_GO) build $(CLUSTER_FLAGS)/ $(CLUSTER_LINK) $(E2E_PROGRAMS)
	$(CLUSTER_GO) test $(CLUSTER_FLAGS)/e2e.test $(CLUSTER_LINK) -c k8s.io/kubernetes/test/e2e
	@touch $(E2E_FILES)

.PHONY: conformance
conformance: deps build $(CLUSTER_FILES) $(E2E_FILES) ## Kubernetes' own e2e suite on two nodes, [NodeConformance] and [Conformance]; FOCUS=regexp (root)
	@test/deps images
	$(GO) test -count=1 -v -tags integration -timeout 4h -run Conformance ./test/cluster

.PHONY: critest
critest: deps build ## upstream critest (root; $$CRITEST or critest on PATH); ARGS='--focus NRI'
	$(GO) run ./test/critest $(ARGS)

.PHONY: machines
machines: deps build $(BIN)/testbox $(BIN)/faults/cri-shim ## the tests on each machine of test/machine's table (root); machine-NAME: on one; SHELL=1, SHORT=1, STEPS=names or TESTS=regexp
	$(GO) run ./test/machine

machine-%: deps build $(BIN)/testbox $(BIN)/faults/cri-shim
	$(GO) run ./test/machine $(INTO) $(if $(SHORT),-short) $(if $(STEPS),-steps '$(STEPS)') $(if $(TESTS),-tests '$(TESTS)') $*

.PHONY: bench
bench: deps build $(BIN)/testbox ## the numbers, beside containerd and CRI-O where they are on PATH (root); ARGS=...
	$(GO) run ./test/bench $(ARGS)

.PHONY: demo
demo: deps build ## one pod, end to end, and nothing left behind (root)
	@$(GO) run ./test/demo $(ARGS)

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s), two at a time
	@test/fuzz $(FUZZTIME)

.PHONY: cover
cover: ## unit test coverage, per package and as .cache/cover.html
	@mkdir -p $(CACHE)
	$(GO) test -coverprofile=$(CACHE)/cover.out ./cmd/... ./pkg/...
	$(GO) tool cover -html=$(CACHE)/cover.out -o $(CACHE)/cover.html

.PHONY: cover-floors
cover-floors: ## write down in test/cover/floors.txt how much of each package its tests reach now (root)
	$(GO) run ./test/cover -write -race ./...

BASE ?= origin/main
.PHONY: benchstat
benchstat: $(TOOLS)/benchstat ## the Go benchmarks of BASE (origin/main) and of the work tree, compared; BENCH=regexp PKG=./pkg/...
	@test/benchstat $(BASE)

##-- keeping -------------------------------------------------------------------------------------------------------

# Their versions and checksums are in tools/lint.
$(TOOLS)/%: tools/lint/go.mod tools/lint/go.sum
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 nice $(GO) build -C tools/lint -trimpath -ldflags '-s -w' -o ../../$@ $(filter %/$*,$(LINT_TOOLS))
	@touch $@

.PHONY: lint-tools
lint-tools: $(addprefix $(TOOLS)/,$(notdir $(LINT_TOOLS))) ## build the tools of tools/lint into .cache/tools

.PHONY: lint
lint: lint-tools house ## the house rules, golangci-lint, dead code and known vulnerabilities
	$(TOOLS)/golangci-lint run
	test/deadcode
	@test/vuln || [ $$? = 75 ]

.PHONY: tidy
tidy: ## go mod tidy for the product and for the tools
	$(GO) mod tidy
	cd tools && $(GO) mod tidy
	cd tools/lint && $(GO) mod tidy
	cd tools/gvisor && $(GO) mod tidy

.PHONY: ci
ci: ## what CI runs
	.ci/run

.PHONY: clean
clean: ## remove what was built (bin/) and made for tests (.cache/)
	rm -rf $(BIN) $(CACHE)
