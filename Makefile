# Thin: each target is a line or two, the work is in the programs that it calls.
.PHONY: help run build image programs test tools protoc etcd bench chaos faults fmt docs deny

VENV := target/clients/venv
NODE := target/clients/node
export HOLDFAST_PYTHON := $(CURDIR)/$(VENV)/bin/python
export HOLDFAST_NODE_PATH := $(CURDIR)/$(NODE)/node_modules

# Installs Debian packages without a word, as root or through sudo.
APT = S=$$( [ $$(id -u) = 0 ] || echo sudo ); $$S apt-get -qq update && $$S apt-get -qq install -y --no-install-recommends

help: ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/'

run: build ## Build and start a cluster on this machine: 1 meta-service, 3 storage nodes, 2 gateways
	./target/release/holdfast up $(ARGS)

build: protoc ## Build the programs as they are shipped
	cargo build --release --bins

programs: protoc
	@echo "== programs for the end-to-end tests"
	cargo build --bins

test: tools ## Check format and lints, run all tests, also on real processes with real MQTT clients
	@echo "== format"
	cargo fmt --all --check
	@echo "== lints"
	cargo clippy --workspace --all-targets -- -D warnings
	@$(MAKE) --no-print-directory programs
	@echo "== tests"
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace; else cargo test --workspace -- --test-threads=2; fi

tools: protoc etcd $(VENV)/done $(NODE)/done
	@.ci/tools/helm && .ci/tools/kubernetes-validate
	@.ci/tools/promtool && .ci/tools/podman && .ci/tools/compose
	@command -v mosquitto_sub >/dev/null || { echo "== installing mosquitto-clients (Debian package)"; $(APT) mosquitto-clients >/dev/null; }
	@command -v openssl >/dev/null || { echo "== installing openssl (Debian package): certificates for the tests"; $(APT) openssl >/dev/null; }

# The etcd client is generated from its .proto files when it is built; the other package has those of Google that they import.
protoc:
	@[ -n "$$PROTOC" ] || command -v protoc >/dev/null || { echo "== installing protobuf-compiler (Debian package): the build needs protoc"; $(APT) protobuf-compiler libprotobuf-dev >/dev/null; }

# The package starts a service of its own where systemd runs; clusters of ours bring their own processes.
etcd:
	@[ -n "$$HOLDFAST_ETCD" ] || command -v etcd >/dev/null || { echo "== installing etcd-server (Debian package), its service stays off"; $(APT) etcd-server >/dev/null; \
	  if command -v systemctl >/dev/null; then $$S systemctl disable --now etcd >/dev/null 2>&1 || true; fi; }

$(VENV)/done:
	@echo "== installing the paho-mqtt client (Python) in $(VENV)"
	@mkdir -p $(VENV) && python3 -m venv $(VENV) && $(VENV)/bin/pip -q --disable-pip-version-check install 'paho-mqtt==2.1.0' && touch $@

$(NODE)/done:
	@echo "== installing the MQTT.js client (Node) in $(NODE)"
	@mkdir -p $(NODE) && npm --prefix $(NODE) install --silent --no-fund --no-audit mqtt@5 && touch $@

image: ## Build the container image holdfast:latest, with docker or else podman
	$$(command -v docker || command -v podman) build -f deploy/Dockerfile -t holdfast:latest --build-arg REVISION=$$(git rev-parse --short HEAD) $(ARGS) .

bench: build ## Measure throughput, latency, CPU and memory of a cluster of its own
	./target/release/holdfast-load all $(ARGS)

chaos: build faults ## Damage a cluster in every way there is and check that nothing is lost (as root: networks and disks, too)
	./target/release/holdfast-chaos $(ARGS)

# Whatever cannot be installed, or is not allowed, leaves lines of the matrix out, and each of them says why.
faults:
	@$(MAKE) --no-print-directory etcd || echo "== no etcd: its lines are left out, meta-service is on sled"
	@export PATH="$$PATH:/usr/sbin:/sbin"; lacks=; for it in ip:iproute2 nft:nftables mkfs.ext4:e2fsprogs fsfreeze:util-linux; do \
	    command -v $${it%:*} >/dev/null || lacks="$$lacks $${it#*:}"; done; \
	  [ -n "$$HOLDFAST_FAKETIME$$(ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null)" ] || lacks="$$lacks libfaketime"; \
	  [ -z "$$lacks" ] || { echo "== installing for the faults (Debian packages):$$lacks"; { $(APT) $$lacks >/dev/null; } || echo "== not installed: faults that need$$lacks are left out"; }
	@[ $$(id -u) = 0 ] || echo "== not root: faults of networks (cut-...) and of disks (full-disk, stalled-disk) are left out, all processes share loopback"

fmt: ## Format the code
	cargo fmt --all

docs: programs ## Make deploy/CONFIG.md and deploy/METRICS.md from the programs
	@./target/debug/holdfast-docs

deny: export PATH := $(CURDIR)/target/tools/cargo-deny/bin:$(PATH)
deny: ## Check licences and sources of dependencies, and known advisories where their list can be fetched
	@.ci/tools/cargo-deny
	cargo deny check bans licenses sources
	@if cargo deny fetch db 2>/dev/null; then cargo deny check advisories; else echo "== advisories were not fetched, and are not checked"; fi
