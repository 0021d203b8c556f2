# Everything that a newcomer needs: `make run`, `make test`. `make help` lists the rest.
#
# One cargo profile (release) serves them all, so RocksDB, which takes about nine minutes on two
# cores, is compiled once. CARGO_TARGET_DIR is respected.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
PHALANX := $(TARGET)/release/phalanx
CONFIG ?= config/node.toml
COMPARE_ARGS ?=
BENCH_ARGS ?= http://127.0.0.1:8080

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: setup
setup: ## Check for (and on Debian as root install) what RocksDB needs to compile
	@.ci/setup

.PHONY: build
build: setup ## Compile the node
	$(CARGO) build --release

.PHONY: run
run: build ## Start one node from config/node.toml
	$(PHALANX) serve --config $(CONFIG)

.PHONY: test
test: ## Run every test
	@.ci/setup tests
	.ci/test

# SEEDS says how many, FIRST where to begin. A seed that fails is printed with its replay.
SEEDS ?= 2000
FIRST ?= 1
.PHONY: soak
soak: setup ## Simulate many more clusters: make soak SEEDS=20000 FIRST=1
	PHALANX_SEEDS=$(SEEDS) PHALANX_FIRST_SEED=$(FIRST) $(CARGO) test --release \
		--features phalanx/failpoints --test simulation no_seed_breaks_a_promise -- --exact --nocapture

# Builds the commit FROM beside this one and replaces a cluster of it node by node under load.
FROM ?= HEAD~1
OLDER := $(TARGET)/older
.PHONY: upgrade
upgrade: setup ## Rolling upgrade of three nodes from an older build: make upgrade FROM=<commit>
	rm -rf $(OLDER) && git worktree prune && git worktree add --detach $(OLDER) $(FROM)
	$(CARGO) build --release --manifest-path $(OLDER)/Cargo.toml --target-dir $(TARGET) \
		--features phalanx/failpoints --bin phalanx
	cp $(PHALANX) $(TARGET)/phalanx-older && git worktree remove --force $(OLDER)
	PHALANX_OLDER=$(abspath $(TARGET))/phalanx-older $(CARGO) test --release \
		--features phalanx/failpoints --test cluster_routing rolling_upgrade -- --ignored --nocapture

.PHONY: check
check: setup ## Format, lints, documentation and dependencies, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --features phalanx/failpoints -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --no-deps --workspace --document-private-items

.PHONY: cluster
cluster: build ## Start three nodes, use them, kill a leader, go on, stop them again
	$(PHALANX) cluster tour

.PHONY: bench
bench: build ## Drive a running node; BENCH_ARGS="URL --clients 64 ..."
	$(PHALANX) bench $(BENCH_ARGS)

.PHONY: microbench
microbench: setup ## The criterion benches of the parts
	$(CARGO) bench --workspace --exclude phalanx-peers

# The references beside Phalanx: each is started, measured and stopped, in turns.
# Three of them come from Debian: apt-get install postgresql redis-server etcd-server
.PHONY: compare
compare: setup ## Measure one and three nodes beside PostgreSQL, etcd, Redis and others
	$(CARGO) build --release --package phalanx
	$(CARGO) build --release --package phalanx-peers
	$(TARGET)/release/phalanx-peers compare \
		--phalanx $(PHALANX) \
		--json $(TARGET)/compare.json $(COMPARE_ARGS)
