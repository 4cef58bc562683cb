# The two commands of the README are `make demo` and `make test`: each sets up what it needs on a fresh machine.
# Everything that takes more than a few lines is a script, so that it can be read and run by itself.

SHELL := /bin/sh
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS_BUILD := -trimpath -ldflags "-X main.version=$(VERSION)"

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/pgautomate
	@scripts/ensure-go.sh
	go build $(GOFLAGS_BUILD) -o bin/pgautomate ./cmd/pgautomate

.PHONY: demo
demo: ## run the demo on a private Postgres; ARGS="--exit" and others go to it
	@scripts/ensure-postgres.sh
	@$(MAKE) --no-print-directory -s build
	@bin/pgautomate demo $(ARGS)

.PHONY: test
test: ## run all tests on a throwaway Postgres; ARGS="-run X ./feed" narrows
	@scripts/test.sh $(ARGS)

.PHONY: test-postgres
test-postgres: ## run all tests on another Postgres: VERSION=14 to 18
	@scripts/test-postgres.sh "$(if $(filter file,$(origin VERSION)),,$(VERSION))" $(ARGS)

.PHONY: race
race: ## run all tests with the race detector
	@scripts/test.sh -race $(or $(ARGS),./...)

.PHONY: bench
bench: ## measure the engine beside references on a private Postgres, about 15 minutes; ARGS="--quick" takes 2
	@scripts/ensure-postgres.sh
	@$(MAKE) --no-print-directory -s build
	@bin/pgautomate bench $(ARGS)

.PHONY: bench-imports
bench-imports: ## measure what 100 organizations that import 16,000 leads each cost the others, some minutes
	@scripts/ensure-postgres.sh
	@$(MAKE) --no-print-directory -s build
	@bin/pgautomate bench --only import_lateness_p99,import_lateness_max,import_claim $(ARGS)

.PHONY: soak
soak: ## run the engine under a steady load for an hour and see what grows; ARGS="--for 10m --rate 100"
	@scripts/ensure-postgres.sh
	@$(MAKE) --no-print-directory -s build
	@bin/pgautomate soak $(ARGS)

.PHONY: bench-go
bench-go: ## run the Go benchmarks of matching, of draining (beside pg_recvlogical) and of the mirror
	@scripts/test.sh -run '^$$' -bench . -benchtime 2s ./trigger ./feed ./mirror

.PHONY: lint
lint: ## gofmt, go vet, golangci-lint
	@scripts/ensure-go.sh
	@scripts/check-format.sh
	go vet ./...
	@lint=$$(scripts/tool.sh golangci-lint) && $$lint run $(ARGS)

.PHONY: generate
generate: ## make db/dbq from queries/ by sqlc
	@scripts/ensure-go.sh
	@sqlc=$$(scripts/tool.sh sqlc) && $$sqlc generate

.PHONY: check-generated
check-generated: ## fail when db/dbq is not what sqlc makes of queries/
	@scripts/ensure-go.sh
	@sqlc=$$(scripts/tool.sh sqlc) && $$sqlc diff || { echo "generated code differs: run make generate and commit it" >&2; exit 1; }

.PHONY: test-faults
test-faults: ## inflict faults under load and count what is lost or twice; FAULT_SECONDS=60 prolongs each
	@scripts/ensure-go.sh
	@scripts/ensure-postgres.sh
	go test -tags faults -count 1 -parallel 8 -timeout 0 -v -run "Test(Faults|FailpointsComplete)" $(ARGS) ./faults

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin
