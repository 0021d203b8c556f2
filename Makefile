# The references beside Phalanx: each is started, measured and stopped, in turns.
# Two of them come from Debian: apt-get install postgresql redis-server
COMPARE_ARGS ?=

.PHONY: compare
compare:
	cargo build --release --package phalanx --package phalanx-peers
	$${CARGO_TARGET_DIR:-target}/release/phalanx-peers compare \
		--phalanx $${CARGO_TARGET_DIR:-target}/release/phalanx \
		--json $${CARGO_TARGET_DIR:-target}/compare.json $(COMPARE_ARGS)
