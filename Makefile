# The commands of the project. The first two are all that a newcomer needs:
#   make run     builds Corewall and a store of the sample lists, and serves it on 127.0.0.1:5353
#   make test    runs every test
# Both install what is missing (Debian packages, with sudo when not root) and say what.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# rustup puts cargo here before a login shell knows it.
export PATH := $(PATH):$(HOME)/.cargo/bin

COREWALL := target/release/corewall
SAMPLE := tests/data/sample.toml
SAMPLE_LISTS := $(wildcard tests/data/*/*.txt tests/data/*/*.list tests/data/own/*)

.PHONY: help run test bench bench-forward bench-failover bench-scale bench-change bench-killed bench-cold bench-stages bench-latency bench-scaling bench-veth bench-portable soak lint clean setup-build setup-test setup-bench FORCE

help:
	@sed -n '2,4s/^# *//p' Makefile
	@echo 'make bench   CPU per answer of a bare reflector, Corewall and other DNS servers, in turns; results in bench/results'
	@echo 'make bench-forward   the same for forwarded and cached answers alone, at fixed rates too'
	@echo 'make bench-failover  lost questions and latency while one of two upstreams fails'
	@echo 'make bench-scale     a store of a hundred million rules: build, start, random listed names (needs 10 GB of disk)'
	@echo 'make bench-change    under full load: from a changed rule to the answer changed on every worker'
	@echo 'make bench-killed    builds and rule changes killed at random moments'
	@echo 'make bench-cold      cached answers while other names wait for a slow disk (root)'
	@echo 'make bench-stages    instructions of each stage of a query against the accepted counts; fails when one takes more'
	@echo 'make bench-latency   latency at parts of the capacity in an open loop, against the floor; idle CPU'
	@echo 'make bench-scaling   the same load on 1, 2, 4, 8, 16 workers, as far as there are cores'
	@echo 'make bench-veth      past what one core answers: kxdpgun over a link between network namespaces (root)'
	@echo 'make bench-portable  an archive that runs these measurements on a machine without a toolchain'
	@echo 'make soak    a minute of dnsperf at full speed with answers checked'
	@echo 'make lint    format and clippy'
	@echo 'make clean   takes away all that was built'

run: target/run/built
	@exec $(COREWALL) serve --hints --config $(SAMPLE)

test: setup-test
	cargo test --workspace

bench: setup-bench target/bench/built
	target/release/compare

bench-forward: setup-bench target/bench/built
	target/release/compare --mixes forwarded,cached --rates 0,25000,10000 --out bench/results/forward.json

bench-failover: setup-bench $(COREWALL)
	cargo build --release --package corewall-bench
	target/release/failover

bench-scale: setup-bench $(COREWALL)
	cargo build --release --package corewall-bench
	bench/scale.sh

bench-change: setup-bench target/bench/built
	target/release/change

bench-killed: setup-bench $(COREWALL)
	cargo build --release --package corewall-bench
	bench/killed.sh

bench-cold: setup-bench $(COREWALL)
	cargo build --release --package corewall-bench
	bench/cold.sh

bench-stages: setup-test
	cargo build --release --package corewall-stages --bin stages
	target/release/stages gate

bench-latency: setup-bench target/bench/built
	target/release/latency

bench-scaling: setup-bench target/bench/built
	target/release/scaling

bench-veth: setup-bench target/bench/built
	target/release/saturate

bench-portable: setup-bench target/bench/built
	bench/portable.sh

soak: setup-bench target/bench/built
	bench/soak.sh

lint: setup-build
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

clean:
	cargo clean

setup-build setup-test setup-bench:
	@.ci/setup $(@:setup-%=%)

# Cargo knows what has changed; what depends on the binary is made anew only when cargo made a new one.
$(COREWALL): FORCE | setup-build
	cargo build --release --bin corewall

target/run/built: $(COREWALL) $(SAMPLE) $(SAMPLE_LISTS)
	@mkdir -p target/run
	$(COREWALL) build --store target/run/store --config $(SAMPLE)
	@touch $@

target/bench/built: $(COREWALL) bench/names.sh bench/store.sh bench/corewall.toml.in
	cargo build --release --package corewall-bench
	bench/names.sh
	bench/store.sh
	@touch $@
