# What to build, prove and show Ostler with. `make help` lists it.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
DIST := $(TARGET)/dist
GUEST := $(TARGET)/guest
TESTED := $(TARGET)/tested
HOST_TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')

.DEFAULT_GOAL := help
.PHONY: help install build guest-agent packages demo test soak fuzz bench fmt fmt-check lint headers doc deny clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## install what is missing on Debian (libvirt, QEMU, RabbitMQ...)
	@tests/lab/install

build: install guest-agent ## build the three programs into target/dist
	$(CARGO) build --locked --profile dist -p ostler-host-agent -p ostler-cli

# Static, so that it runs in any guest; with flags and so a build folder of its
# own, or each build would throw the other's away. --target keeps the flags
# from build scripts and proc macros, which cannot be static.
guest-agent:
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --locked --profile guest \
		--target $(HOST_TRIPLE) --target-dir $(GUEST) -p ostler-guest-agent
	@mkdir -p $(DIST)
	@cp -u $(GUEST)/$(HOST_TRIPLE)/guest/ostler-guest-agent $(DIST)/

packages: guest-agent ## the guest agent as DEB, RPM and tarball, in target/packages
	@for format in deb rpm tarball; do \
		packaging/$$format guest-agent --programs $(DIST) --out $(TARGET)/packages || exit 1; done

demo: build ## boot, use and delete a guest through RabbitMQ; SOCKET=1: without a broker
	$(CARGO) build --locked --quiet --profile dist -p ostler-tests --bin demo --bin lab-reaper
	@OSTLER_PROGRAMS=$(abspath $(DIST)) $(DIST)/demo $(if $(filter-out 0,$(SOCKET)),--socket)

# The tests drive the debug build, which `cargo test` makes anyway; the guest agent is the one that
# is shipped, since it has to be static. `lab` holds libvirtd and a broker for the whole run. The
# system tests each run several programs: more at once than this only makes them wait for each other.
test: install guest-agent ## all tests, the system tests on real libvirt, QEMU and RabbitMQ among them
	$(CARGO) test --locked --workspace --no-run
	$(CARGO) build --locked --quiet --workspace --bins
	@mkdir -p $(TESTED)
	@ln -sf ../debug/ostler ../debug/ostler-host-agent ../dist/ostler-guest-agent $(TESTED)/
	OSTLER_PROGRAMS=$(abspath $(TESTED)) $(TARGET)/debug/lab \
		$(CARGO) test --locked --workspace -- --test-threads 2

soak: ## a million mixed commands to the guest agent: its memory ends where it began
	OSTLER_SOAK_COMMANDS=1000000 $(CARGO) test --locked --release -p ostler-guest-agent --test hostile -- soak

# Any toolchain will do. What it finds is kept in target/fuzz/found.
SECONDS ?= 60
fuzz: ## fuzz the protocol and a session of the guest agent, each target for SECONDS=60
	@guest-agent/fuzz/run $(SECONDS)

bench: build ## measure; the numbers are printed and kept in target/bench
	$(CARGO) build --locked --quiet --profile dist -p ostler-tests --bin bench --bin lab-reaper
	@OSTLER_PROGRAMS=$(abspath $(DIST)) $(DIST)/bench

fmt: ## format the code
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

lint: headers ## clippy, warnings denied, and what clippy does not see
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# `missing_docs` does not see private modules, so it is said here.
headers:
	@bad=$$(git ls-files '*.rs' | while read -r file; do \
		head -n 1 "$$file" | grep -q '^//!' || echo "$$file"; done); \
	if [ -n "$$bad" ]; then \
		echo "these files do not open with //! and what they are for:"; echo "$$bad"; exit 1; fi

doc: ## the documentation of the code, warnings denied
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

deny: ## licences, advisories and bans of what is used (needs cargo-deny)
	$(CARGO) deny --config .cargo/deny.toml check

clean: ## remove what was built and baked
	$(CARGO) clean
