# `make demo` and `make test` need nothing but git, make, curl, a C compiler and Rust; the rest is installed if missing.
CARGO ?= cargo
# With all that a release has.
TEST = $(CARGO) test --locked --features otlp

.PHONY: demo test crash long chaos fuzz bench fmt lint check help

help:
	@echo 'make demo    the main job, start to end, on private servers'
	@echo 'make test    every test, on private servers'
	@echo 'make crash   the crash table, each row 200 times (CRASH_TIMES=n: n times)'
	@echo 'make long    the long forms of single tests: webhooks, opt-outs, a whole campaign, stops under load'
	@echo 'make chaos   everything goes wrong at once, for 10 minutes (SECONDS=n, RATE=jobs a second, SEED=n: that schedule again)'
	@echo 'make fuzz    what comes from outside, as hostile as it may be (FUZZ_SECONDS=n for each of five targets: 60)'
	@echo 'make bench   how fast it is beside the textbook pipeline (WHAT=speed,latency,choice,flat,limits,pressure, JOBS=n, RUNS=n, JSON=file)'
	@echo 'make fmt     format the sources'
	@echo 'make lint    formatting and clippy, warnings are errors'
	@echo 'make check   compile everything, run nothing'

demo:
	@deploy/local/install.sh
	@deploy/local/with-tmp.sh $(CARGO) run --locked --quiet -- demo

# Tests mostly wait: for slots, leases and servers. More of them than there are processors wait side by side.
TEST_THREADS ?= 6
test:
	@deploy/local/install.sh faketime prometheus chromium pgbouncer
	@RUST_TEST_THREADS=$(TEST_THREADS) deploy/local/with-tmp.sh $(TEST)

# Played as often as a rare interleaving needs; `make test` plays each row three times.
CRASH_TIMES ?= 200
crash:
	@deploy/local/install.sh faketime
	@OUTDIAL_CRASH_TIMES=$(CRASH_TIMES) deploy/local/with-tmp.sh $(TEST) --test it crash::

# The long forms of single tests, of which `make test` has the short ones: 20,000 calls whose webhooks go astray, ten million
# opt-outs, a campaign of 5,000 to its end, 50 stops of each sort under load.
LONG_TESTS = webhooks::whatever_becomes callees::of_many callees::a_campaign_with_retries stops::no_stop_of_many
long:
	@deploy/local/install.sh
	@OUTDIAL_WEBHOOK_CALLS=20000 OUTDIAL_SUPPRESSIONS=10000000 OUTDIAL_CAMPAIGN_JOBS=5000 OUTDIAL_STOP_TRIES=150 \
		RUST_TEST_THREADS=1 deploy/local/with-tmp.sh $(TEST) --test it -- --nocapture $(LONG_TESTS)

# The seed is drawn and printed where none is given; `make test` has a short run with a fixed one.
SECONDS ?= 600
SEED ?=
RATE ?=
chaos:
	@deploy/local/install.sh faketime
	@OUTDIAL_CHAOS_SECONDS=$(SECONDS) OUTDIAL_CHAOS_SEED=$(SEED) OUTDIAL_CHAOS_RATE=$(RATE) deploy/local/with-tmp.sh $(TEST) --test it \
		chaos::a_run_as_long_as_wanted -- --ignored --nocapture

# libFuzzer needs a nightly compiler and cargo-fuzz; `make test` runs the same checks without either.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= job phone answer webhook routing
fuzz:
	@rustup toolchain list | grep -q nightly || { echo 'missing: rustup toolchain install nightly' >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo 'missing: cargo install cargo-fuzz' >&2; exit 1; }
	@set -e; work=$$(mktemp -d); for target in $(FUZZ_TARGETS); do \
		$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $$target $$work tests/fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=512 -max_len=65536 -timeout=20; \
		rm -rf $$work/*; done; rm -rf $$work

# An optimised build, on private servers that lose nothing; everything on this machine, so only ratios mean something.
# speed | latency | flat | limits | pressure, or several of them
WHAT ?= speed
JOBS ?= 500000
RUNS ?= 1
JSON ?=
bench:
	@deploy/local/install.sh
	@deploy/local/with-tmp.sh $(CARGO) bench --locked --bench bench -- --what $(WHAT) --jobs $(JOBS) --runs $(RUNS) $(if $(JSON),--json $(JSON))

fmt:
	$(CARGO) fmt

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings

check:
	$(CARGO) check --locked --all-targets --all-features
