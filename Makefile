# Two commands are enough for a newcomer: make rehearsal, make test. `make help` lists the rest.
# Everything is built by Go, Node, Maven and pip through their own registries; versions are pinned in go.mod and below tools/.

SHELL := /bin/sh
.DEFAULT_GOAL := help

functions := $(sort $(notdir $(patsubst %/,%,$(wildcard lambdas/*/))))
lambda_flags := -tags lambda.norpc -trimpath -buildvcs=false
node_tools := tools/validators
staticcheck := go tool -modfile=tools/staticcheck/go.mod staticcheck

# All at once, so that go builds what they share once; by way of a folder of this very run, so that two runs do not meet in it.
# $(1): folder, $(2): environment, $(3): more flags.
define build_lambdas
@set -eu; mkdir -p $(1); new="$$(mktemp -d $(1)/.new.XXXXXX)"; trap 'rm -rf "$$new"' EXIT; \
	echo "$(2) go build $(lambda_flags) $(3) -o $(1)/<name>/bootstrap ./lambdas/..."; \
	$(2) go build $(lambda_flags) $(3) -o "$$new/" ./lambdas/...; \
	for f in $(functions); do mkdir -p $(1)/$$f; mv "$$new/$$f" $(1)/$$f/bootstrap; done
endef

# The CDK says at every start that Node 20 is past its end, and asks the network for notices; neither helps a build.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION ?= 20
export CDK_DISABLE_CLI_TELEMETRY ?= true

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: rehearsal
rehearsal: build ## a whole migration on this machine; ENGINE= SOURCE= DESTINATION= WINDOW= LASTMILE= FAULTS= SEED= DATA= GOBACK=1 ACCOUNTS=2
	go run ./cmd/domainferry rehearse $(strip \
		$(if $(ENGINE),-engine='$(ENGINE)') $(if $(SOURCE),-source='$(SOURCE)') $(if $(DESTINATION),-destination='$(DESTINATION)') \
		$(if $(WINDOW),-window='$(WINDOW)') $(if $(LASTMILE),-last-mile='$(LASTMILE)') $(if $(FAULTS),-faults='$(FAULTS)') \
		$(if $(SEED),-seed='$(SEED)') $(if $(DATA),-data='$(DATA)') $(if $(GOBACK),-go-back) $(if $(ACCOUNTS),-accounts='$(ACCOUNTS)'))

.PHONY: local
local: build ## both domains, S3 and the Step Functions API on this machine, until Ctrl-C; ENGINE= SOURCE= DESTINATION= WINDOW= FAULTS= SEED=
	go run ./cmd/domainferry local $(strip \
		$(if $(ENGINE),-engine='$(ENGINE)') $(if $(SOURCE),-source='$(SOURCE)') $(if $(DESTINATION),-destination='$(DESTINATION)') \
		$(if $(WINDOW),-window='$(WINDOW)') $(if $(FAULTS),-faults='$(FAULTS)') $(if $(SEED),-seed='$(SEED)'))

.PHONY: bench-downtime
bench-downtime: build ## write downtime by hand, by Domain Ferry and by scroll; SIZES=300,600,1200 PAIRS=3 WORKLOADS=append,update THROTTLES=default,raised WINDOW= SEED= DOCS=
	go run ./cmd/bench-downtime $(strip \
		$(if $(SOURCE),-source='$(SOURCE)') $(if $(DESTINATION),-destination='$(DESTINATION)') $(if $(SIZES),-sizes='$(SIZES)') \
		$(if $(PAIRS),-pairs='$(PAIRS)') $(if $(WORKLOADS),-workloads='$(WORKLOADS)') $(if $(THROTTLES),-throttles='$(THROTTLES)') \
		$(if $(WINDOW),-window='$(WINDOW)') $(if $(SEED),-seed='$(SEED)') $(if $(DOCS),-docs='$(DOCS)'))

.PHONY: fire
fire: build ## migrations under fire: every document compared at the end, build/fire.json; SEEDS= FIRST= PAIRS=source:destination,... WRITING=10m ENGINE=
	go run ./cmd/fire -v $(strip $(if $(SEEDS),-seeds='$(SEEDS)') $(if $(FIRST),-first='$(FIRST)') $(if $(PAIRS),-pairs='$(PAIRS)') \
		$(if $(WRITING),-writing='$(WRITING)') $(if $(ENGINE),-engine='$(ENGINE)') $(addprefix -tool=,$(wildcard ../shared/tools/compare-indices)))

.PHONY: fault-matrix
fault-matrix: build ## one fault in every state of a migration, under writes: build/fault-matrix.json; ENGINE=model|nodes STATES= FAULTS= CASES= SEED=
	go run ./cmd/fault-matrix $(strip $(if $(ENGINE),-engine='$(ENGINE)') $(if $(STATES),-states='$(STATES)') \
		$(if $(FAULTS),-faults='$(FAULTS)') $(if $(CASES),-cases='$(CASES)') $(if $(SEED),-seed='$(SEED)'))

.PHONY: soak
soak: ## random programs of writes, faults and operator actions on a virtual clock: build/soak.json; SEEDS= FIRST= PROGRAM=file
	go run ./cmd/soak $(strip $(if $(SEEDS),-seeds='$(SEEDS)') $(if $(FIRST),-first='$(FIRST)') $(if $(PROGRAM),-program='$(PROGRAM)'))

.PHONY: bench-copy
bench-copy: ## copying a repository beside aws s3 sync, s5cmd, rclone and boto3: build/bench-copy.json; SMALL= MEDIUM= LARGE= RUNS= TOOLS= SEED=
	@mkdir -p build/bench-copy && go build -o build/bench-copy/bench-copy ./cmd/bench-copy
	build/bench-copy/bench-copy $(strip $(if $(SMALL),-small='$(SMALL)') $(if $(MEDIUM),-medium='$(MEDIUM)') $(if $(LARGE),-large='$(LARGE)') \
		$(if $(RUNS),-runs='$(RUNS)') $(if $(TOOLS),-tools='$(TOOLS)') $(if $(SEED),-seed='$(SEED)'))

.PHONY: model-copy
model-copy: ## copying 10 TB and 100 TB on a virtual clock, and memory up to 10 million objects: build/model-copy.json; SCALE= MEMORY= SEED=
	go run ./cmd/model-copy $(strip $(if $(SCALE),-scale='$(SCALE)') $(if $(MEMORY),-memory='$(MEMORY)') $(if $(SEED),-seed='$(SEED)'))

.PHONY: doctor
doctor: ## what this machine has, what it lacks and what for
	go run ./cmd/domainferry doctor

.PHONY: test
test: build ## every test; without Java, Node or Maven the tests that need them are skipped by name (and fail when CI=true)
	@if command -v node >/dev/null; then packages=./...; \
	elif [ "$${CI:-}" = true ]; then echo 'make test: node is missing: the CDK (infra) runs on it' >&2; exit 1; \
	else echo 'make test: node is missing, infra is skipped: the CDK runs on it' >&2; \
		packages="$$(go list ./... | grep -v '/infra$$')"; fi; \
	: "$${DOMAIN_FERRY_TEST_PAIRS:=first}"; export DOMAIN_FERRY_TEST_PAIRS; \
	echo "DOMAIN_FERRY_TEST_PAIRS=$$DOMAIN_FERRY_TEST_PAIRS go test -p 2 -timeout 20m $$packages"; go test -p 2 -timeout 20m $$packages

.PHONY: simulate
simulate: ## migrations of 10,000 shards and 100 TB on a virtual clock; SEED= SEEDS= SHARDS= NODES= WINDOW=
	go run ./cmd/simulate $(strip \
		$(if $(SEED),-seed='$(SEED)') $(if $(SEEDS),-seeds='$(SEEDS)') $(if $(SHARDS),-shards='$(SHARDS)') $(if $(NODES),-nodes='$(NODES)') \
		$(if $(WINDOW),-window='$(WINDOW)'))

.PHONY: check
check: ## gofmt, go vet, staticcheck, import rule, validators of the state machines
	@echo 'gofmt -l'; unformatted="$$(gofmt -l *.go cmd infra internal lambdas statemachine)"; \
		if [ -n "$$unformatted" ]; then echo "make check: gofmt -w these: $$unformatted" >&2; exit 1; fi
	go vet ./...
	$(staticcheck) ./...
	go test -timeout 5m ./statemachine

.PHONY: build
build: ## the Lambdas for this machine, into build/lambdas/<name>/bootstrap
	@$(if $(functions),,echo 'make build: there are no Lambdas below lambdas/' >&2; exit 1)
	$(call build_lambdas,build/lambdas,CGO_ENABLED=0,)

.PHONY: dist
dist: ## the Lambdas for AWS (linux/arm64), into dist/<name>/bootstrap
	@$(if $(functions),,echo 'make dist: there are no Lambdas below lambdas/' >&2; exit 1)
	$(call build_lambdas,dist,CGO_ENABLED=0 GOOS=linux GOARCH=arm64,-ldflags '-s -w')

.PHONY: synth
synth: dist node-tools ## the CloudFormation template, into cdk.out; needs no credentials
	node $(node_tools)/node_modules/aws-cdk/bin/cdk synth --quiet --no-notices --no-version-reporting

.PHONY: node-tools
node-tools: # the npm packages of tools/validators, once
	node $(node_tools)/install.mjs

.PHONY: clean
clean: ## removes what make made, but not the packages of tools/
	rm -rf build dist cdk.out
