# What can be done here. `make` alone lists it.
#
# Everything that is fetched or built goes to $(CACHE), outside the checkout, so that a second run is quick.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/es-index-merge
export CARGO_TARGET_DIR ?= $(CACHE)/target

CARGO ?= cargo
CRD := crds/esindexmerges.indexmerge.dev.yaml
TESTENV := $(CARGO_TARGET_DIR)/debug/testenv
DEMO := $(CARGO_TARGET_DIR)/release/demo
CHAOS := $(CARGO_TARGET_DIR)/release/chaos
DENY := $(CACHE)/tools/bin/cargo-deny
FUZZ := $(CACHE)/tools/bin/cargo-fuzz
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help demo demo-questions demo-down test test-unit model chaos chaos-quick bench bench-quick bench-micro fuzz lint audit crd release testenv testenv-up testenv-down

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: release ## Merge real collections on a real Kubernetes, Elasticsearch and Postgres, and look on
	$(DEMO) up

demo-questions: ## Ask the demo's merged index some questions, by text and by vector
	$(DEMO) ask

demo-down: ## End the demo and remove its data
	$(DEMO) down

bench: release ## Measure against _reindex, elasticdump, a script and the limit (two hours; a part: BENCH="--pair 9-9")
	$(CARGO_TARGET_DIR)/release/bench --report bench-report.md $(BENCH)

bench-quick: release ## The same with less data and one turn each
	$(CARGO_TARGET_DIR)/release/bench --quick --report bench-report.md

chaos: release ## Break everything around merges for CHAOS_MINUTES (10), by CHAOS_SEED (random), and check the result
	$(CHAOS)

chaos-quick: ## The same for two minutes: one merge
	@CHAOS_MINUTES=2 $(MAKE) --no-print-directory chaos

# The parts come up while the tests compile. Each run has its own (two runs can go on at once), which are ended
# whatever happens; those of a run that was killed are ended by the next one. The tests of faults and crashes have servers of
# their own and mostly wait: they run beside all others, and what they say is shown after them. Most of the others wait too,
# for servers and for clocks: more of them run at once than there are cores.
APART := crashes faults
TESTS := $(basename $(notdir $(wildcard tests/*.rs */tests/*.rs))) $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs))
test: testenv ## All tests: unit, property, real Postgres, Elasticsearch 8 and 9, Kubernetes
	@export TESTENV_NAME="$${TESTENV_NAME:-test-$$$$}" RUST_TEST_THREADS="$${RUST_TEST_THREADS:-4}"; \
	logs=$$(mktemp -d); apart=; \
	trap 'kill $$apart 2>/dev/null; wait; $(TESTENV) down; rm -rf "$$logs"' EXIT; \
	trap 'exit 130' INT; trap 'exit 143' TERM; \
	$(TESTENV) up --owner $$$$ & up=$$!; \
	$(CARGO) test --workspace --no-run && wait $$up || exit 1; \
	for name in $(APART); do \
		$(CARGO) test --workspace --no-fail-fast --test $$name >"$$logs/$$name" 2>&1 & apart="$$apart $$!"; \
	done; \
	status=0; \
	$(CARGO) test --workspace --no-fail-fast --lib --bins $(addprefix --test ,$(filter-out $(APART),$(TESTS))) || status=1; \
	$(CARGO) test --workspace --no-fail-fast --doc || status=1; \
	for one in $$apart; do wait $$one || status=1; done; apart=; cat "$$logs"/*; exit $$status

test-unit: ## The tests that need no server
	$(CARGO) test --workspace --lib --bins

model: ## Every state of the protocol, all faults at once (minutes)
	$(CARGO) test --release -p es-index-merge --test model -- --ignored --nocapture

bench-micro: ## The hot path alone: time, throughput and allocations per page
	$(CARGO) bench -p es-index-merge --features internals --bench hot_path

# On the stable compiler, which has everything but the sanitizers. What is found on the way is kept in the cache; what
# breaks a target is in fuzz/artifacts, and belongs into fuzz/corpus when it is mended.
fuzz: $(FUZZ) ## Every reader of answers against what libFuzzer thinks up: FUZZ_SECONDS (60) for each of FUZZ_TARGETS
	@export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CACHE)/fuzz/target PATH="$(dir $(FUZZ)):$$PATH"; \
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p $(CACHE)/fuzz/$$target && echo "fuzz: $$target" && \
	  $(CARGO) fuzz run --sanitizer none $$target $(CACHE)/fuzz/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

lint: $(if $(shell command -v cargo-deny),,$(DENY)) ## Formatting, clippy, licences, generated files
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	PATH="$(dir $(DENY)):$$PATH" cargo-deny check licenses bans sources
	@if [ -f $(CRD) ]; then \
	  $(CARGO) run --quiet --bin es-index-merge -- crd | diff -u $(CRD) - || \
	  { echo 'lint: $(CRD) is out of date: run make crd'; exit 1; }; \
	fi

audit: $(DENY) ## Known vulnerabilities of the dependencies (fetches the list of them)
	PATH="$(dir $(DENY)):$$PATH" cargo-deny check advisories

crd: ## Write the custom resource definition and its copies again, from the Rust types
	$(CARGO) run --quiet --bin es-index-merge -- crd > $(CRD).new
	mv $(CRD).new $(CRD)
	cp $(CRD) charts/es-index-merge/files/
	cp $(CRD) deploy/crd.yaml

# A minute or two to build, once: it has little to do, so it is not optimised much.
$(DENY):
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	  CARGO_TARGET_DIR=$(CACHE)/tools/target $(CARGO) install --locked --root $(CACHE)/tools cargo-deny@0.20.2
	rm -rf $(CACHE)/tools/target

$(FUZZ):
	CARGO_TARGET_DIR=$(CACHE)/tools/target $(CARGO) install --locked --root $(CACHE)/tools cargo-fuzz@0.13.2
	rm -rf $(CACHE)/tools/target

# One set of packages for all of these, so that what one has built serves the others.
release:
	$(CARGO) build --release --workspace --bins

testenv:
	@$(CARGO) build --workspace --bin testenv

testenv-up: testenv ## Bring the real parts up, and leave them up
	$(TESTENV) up

testenv-down: testenv ## End them and remove their data
	$(TESTENV) down
