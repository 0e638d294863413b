# Two commands for users: `make demo` and `make test`. The others are what they are made of.
# Debian with a Rust toolchain and root is enough; scripts/setup says plainly what is missing.

CARGO      ?= cargo
PROFILE    ?= release
DEMO_ARGS  ?=
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN        := $(TARGET_DIR)/$(PROFILE)

.PHONY: help demo test check build setup fmt docs

help:
	@echo "make demo    build, then run the whole mesh on this machine (DEMO_ARGS=--once ends by itself)"
	@echo "make test    everything a change must pass: make check, unit and property tests, real processes in namespaces"
	@echo "make check   formatting, lints, docs, licences, directions between crates, sizes"
	@echo "make build   release binaries into $(BIN)"

setup:
	@scripts/setup build

build: setup
	$(CARGO) build --release --locked --workspace --bins

demo: build
	@scripts/setup run
	$(BIN)/causeway demo $(DEMO_ARGS)

test: check build
	@scripts/setup run
	scripts/test

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	scripts/deny
	$(CARGO) test --locked --quiet -p e2e --test house
