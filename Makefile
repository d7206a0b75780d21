# Everything a newcomer types; `make help` lists it. Each target does the ones it needs first.
# After `make setup`, plain `cargo build`, `cargo run` and `cargo test` work too, with no environment variable.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:

CARGO ?= cargo
DEMO_MINUTES ?= 6
DEMO_LIMIT ?= 128
DEMO_DIR ?= runs/demo

STELLA := target/release/inverse-stella

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo
	echo "  make demo DEMO_MINUTES=20 trains longer; make setup PYTHON=python3.12 takes another Python."

.PHONY: setup
setup: ## fetch libtorch and the demo's encoder into .venv (once)
	@requirements/setup.sh

.PHONY: setup-cuda
setup-cuda: setup ## fetch the headers that several GPUs and CUDA graphs need (docs/gpu.md)
	@requirements/setup.sh cuda

.PHONY: build-cuda
build-cuda: setup-cuda ## compile the command with them; it runs on machines without a GPU too
	@$(CARGO) build --release --features cuda

.PHONY: build
build: setup ## compile the command to target/release/inverse-stella
	@$(CARGO) build --release

RECIPE ?= configs/captions.toml
BUNDLE ?= runs/bundle
BUNDLE_FLAGS ?=

.PHONY: bundle
bundle: build-cuda ## pack program, recipe, encoder and texts for a closed GPU box (RECIPE=, BUNDLE=, BUNDLE_FLAGS=)
	@$(STELLA) bundle --recipe "$(RECIPE)" --out "$(BUNDLE)" $(BUNDLE_FLAGS)

.PHONY: demo
demo: build ## texts -> pairs -> a decoder -> its scores -> an export -> a vector read back as text
	@configs/demo.sh "$(STELLA)" "$(DEMO_DIR)" "$(DEMO_MINUTES)" "$(DEMO_LIMIT)"

.PHONY: test
test: ## run every test
	@requirements/setup.sh test
	$(CARGO) test --release --workspace

.PHONY: check-cuda
check-cuda: setup-cuda ## what is behind the feature cuda: compiled, linked, examined; nothing runs on a GPU
	@# the feature adds C++ and one line of Rust: clippy has seen the rest in `make check`
	echo "== cargo test --features cuda"
	$(CARGO) test --release -p torch-ext --features cuda --lib --test cuda -- cuda

.PHONY: check
check: setup ## formatting, clippy, documentation, licences
	@echo "== cargo fmt --check"
	$(CARGO) fmt --all --check
	echo "== cargo clippy"
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	echo "== cargo doc"
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items
	echo "== cargo deny"
	if $(CARGO) deny --version >/dev/null 2>&1; then
	    $(CARGO) deny --workspace check
	else
	    echo "skipped: cargo-deny is not installed (cargo install --locked cargo-deny)"
	fi

.PHONY: bench
bench: setup ## time the batcher, the Arrow reader, tokenization and the metrics
	@$(CARGO) bench --workspace --benches

.PHONY: clean
clean: ## remove what was compiled and fetched; runs stay
	@rm -rf target .venv .libtorch
