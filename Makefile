# What to build, prove and show Ostler with. `make help` lists it.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
DIST := $(TARGET)/dist
GUEST := $(TARGET)/guest
TESTED := $(TARGET)/tested
HOST_TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
MUSL = $(patsubst %-gnu,%-musl,$(HOST_TRIPLE))
MUSL_LIBRARY = $(shell rustc --print target-libdir --target $(MUSL))

.DEFAULT_GOAL := help
.PHONY: help install build guest-agent packages demo test faults long soak fuzz bench fmt fmt-check lint headers doc deny clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## install what is missing on Debian (libvirt, QEMU, RabbitMQ...)
	@tests/lab/install

build: install guest-agent ## build the three programs into target/dist
	$(CARGO) build --locked --profile dist -p ostler-host-agent -p ostler-cli

# Static, so that it runs in any guest. musl is made for that: the program is smaller by a third than
# with glibc, which does where there is no rustup to install musl. Flags throw other builds away, so it
# has a folder of its own; --target keeps them from build scripts and proc macros, which cannot be static.
guest-agent:
	@test -d "$(MUSL_LIBRARY)" || ! command -v rustup >/dev/null || \
		timeout 300 rustup target add $(MUSL) || echo 'no musl: the guest agent is linked with glibc'
	@set -e; triple=$(HOST_TRIPLE); if [ -d "$(MUSL_LIBRARY)" ]; then triple=$(MUSL); fi; set -x; \
		RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --locked --profile guest \
			--target $$triple --target-dir $(GUEST) -p ostler-guest-agent; \
		install -D -C -m 755 $(GUEST)/$$triple/guest/ostler-guest-agent -t $(DIST)

packages: build ## DEB and RPM of all programs, and a tarball of the guest agent, into target/packages
	@for package in guest-agent host-agent cli bake; do \
		packaging/deb $$package && packaging/rpm $$package || exit 1; done
	@packaging/tarball guest-agent

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
		$(CARGO) test --locked --workspace -- --test-threads 3

# The bench by itself; `make test` has its short form. libfaketime sets the agent's clock, never the
# machine's, and only here. OSTLER_FAULTS_ONLY=resize OSTLER_FAULTS_TRIAL=disk tries a part.
faults: guest-agent ## cut off every step of every operation, in all ways there are; takes long
	@tests/lab/install faults
	$(CARGO) test --locked -p ostler-tests --test system --no-run
	$(CARGO) build --locked --quiet --workspace --bins
	@mkdir -p $(TESTED)
	@ln -sf ../debug/ostler ../debug/ostler-host-agent ../dist/ostler-guest-agent $(TESTED)/
	OSTLER_PROGRAMS=$(abspath $(TESTED)) $(TARGET)/debug/lab \
		$(CARGO) test --locked -p ostler-tests --test system -- \
		--ignored --nocapture --test-threads 1 faults

long: guest-agent ## tests that take minutes: a thousand commands through brokers in trouble, baking an image, a node...
	@tests/lab/install long
	$(CARGO) test --locked -p ostler-tests --test system --no-run
	$(CARGO) build --locked --quiet --workspace --bins
	@mkdir -p $(TESTED)
	@ln -sf ../debug/ostler ../debug/ostler-host-agent ../dist/ostler-guest-agent $(TESTED)/
	OSTLER_PROGRAMS=$(abspath $(TESTED)) $(TARGET)/debug/lab \
		$(CARGO) test --locked -p ostler-tests --test system -- \
		--ignored --nocapture --test-threads 1 --skip faults
	$(CARGO) test --locked -p ostler-host-agent --lib -- --ignored
	packaging/bake/check --long
	tests/lab/node --guest

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
