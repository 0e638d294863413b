# Two commands for users: `make demo` and `make test`. The others are what they are made of.
# Debian with a Rust toolchain and root is enough; scripts/setup says plainly what is missing.

CARGO      ?= cargo
PROFILE    ?= release
DEMO_ARGS  ?=
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN        := $(TARGET_DIR)/$(PROFILE)

.PHONY: help demo test e2e e2e-cluster soak check build setup ready docs quick-figure bench fuzz charts images

# Steps are in order; cargo has its own parallelism.
.NOTPARALLEL:

# Read by bench from the environment, like PEER_ZTUNNEL, ONLY, ROUNDS, BLOCK, WORKERS, QUICK, PUBLISH.
export OUT ?= $(TARGET_DIR)/bench

help:
	@echo "make demo    build, then run the whole mesh on this machine (DEMO_ARGS=--once ends by itself)"
	@echo "make test    everything a change must pass: make check, unit and property tests, real processes in namespaces"
	@echo "make e2e     against foreign parts: h2spec, five HTTP/2 libraries, Envoy 1.40, any ztunnel (ZTUNNEL_PEER=path, STRICT=1)"
	@echo "make e2e-cluster   on two real Kubernetes nodes in namespaces (ROWS=names, STRICT=1, KEEP=1)"
	@echo "make soak    the sized tests at full size, with their figures (SOAK=full: 100 GiB over 100,000 connections too)"
	@echo "make check   formatting, lints, docs, licences, directions between crates, sizes"
	@echo "make docs    docs/configuration.md anew, from the settings that the binaries read"
	@echo "make quick-figure   CPU per GB and per message of two ztunnels against two plain relays, in one run"
	@echo "make bench   against a peer, plain relays and no mesh (PEER_ZTUNNEL=path, ONLY=, QUICK=1; docs/performance.md)"
	@echo "make fuzz    each fuzz target guided by coverage for SECONDS_EACH seconds (60); TARGETS=\"model hpack\" picks some"
	@echo "make build   release binaries into $(BIN)"
	@echo "make charts  the Helm charts, packed into $(TARGET_DIR)/charts (VERSION=)"
	@echo "make images  container images as OCI archives in $(TARGET_DIR)/images, without a container engine (HUB=, TAG=, IPTABLES=1)"

setup:
	@scripts/setup build

# Before the build, which takes minutes: what a run needs, root above all.
ready:
	@scripts/setup run

build: setup
	$(CARGO) build --release --locked --workspace --bins

demo: ready build
	$(BIN)/causeway demo $(DEMO_ARGS)

test: ready check build
	scripts/sweep scripts/test

e2e: ready build
	scripts/sweep scripts/e2e

e2e-cluster: ready build
	scripts/sweep scripts/e2e-cluster

soak: ready build
	scripts/sweep scripts/soak

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	scripts/deny
	$(CARGO) test --locked --quiet -p e2e --test house

quick-figure: ready build
	CARGO_TARGET_DIR=$(TARGET_DIR) scripts/sweep $(CARGO) run --release --locked --quiet -p e2e --example quick_figure

bench: ready build
	scripts/sweep $(BIN)/causeway-bench $(BENCH_ARGS)

fuzz:
	@scripts/setup fuzz
	scripts/fuzz

# docs/configuration.md from the settings that the binaries read.
docs:
	CAUSEWAY_WRITE_DOCS=1 $(CARGO) test --locked --quiet -p e2e --test docs

charts:
	CARGO_TARGET_DIR=$(TARGET_DIR) scripts/charts

# The plugin alone is linked statically: it runs on the node itself, whose C library is not ours.
images: build
	$(CARGO) rustc --release --locked -p cni-plugin --bin causeway-cni -- -C target-feature=+crt-static
	install -D $(BIN)/causeway-cni $(TARGET_DIR)/images/static/causeway-cni
	CARGO_TARGET_DIR=$(TARGET_DIR) scripts/image pack all --plugin $(TARGET_DIR)/images/static/causeway-cni \
	  $(if $(HUB),--hub $(HUB)) $(if $(TAG),--tag $(TAG)) $(if $(IPTABLES),--iptables)
