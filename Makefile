# One line per target: `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
CARGO ?= cargo
# Seconds without a line after which a test is taken to hang.
SILENT_MAX := 600
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help preflight build test soak fuzz demo bench services docs fmt lint clean

help: ## shows this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

preflight:
	@scripts/preflight.sh

build: preflight ## the release binary: target/release/conjoin
	$(CARGO) build --release --locked

test: preflight ## format, clippy and all tests, with a Kafka, a Redis, a Postgres, an S3 server and a schema registry of their own; TESTS=kafka chooses by name
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	ORT_DYLIB_PATH=$$(scripts/onnxruntime.sh)
	CONJOIN_PYTHON=$$(scripts/venv.sh scores numpy onnxruntime)
	export ORT_DYLIB_PATH CONJOIN_PYTHON
	scripts/with-services scripts/watched.py $(SILENT_MAX) $(CARGO) test --locked --tests --no-fail-fast $(TESTS)

soak: preflight ## simulated lives with random faults for SECONDS (default 60); ends with one line of JSON; RSS=FILE.csv notes memory
	$(if $(RSS),export SOAK_RSS=$(abspath $(RSS)))
	SOAK_SECONDS=$(or $(SECONDS),60) CARGO_PROFILE_DEV_OPT_LEVEL=1 $(CARGO) test --locked --test it -- --ignored --exact --nocapture simulation::storm::soak

fuzz: preflight ## every fuzz target for SECONDS (default 60), one after another; ends with one line of JSON
	ORT_DYLIB_PATH=$$(scripts/onnxruntime.sh)
	export ORT_DYLIB_PATH
	python3 scripts/fuzz.py $(or $(SECONDS),60) $(TARGETS)

demo: preflight ## made-up traffic through the whole of Conjoin in a minute; SERVE=1 keeps serving the result
	$(CARGO) build --release --locked
	ORT_DYLIB_PATH=$$(scripts/onnxruntime.sh)
	export ORT_DYLIB_PATH
	$(TARGET)/release/conjoin demo $(if $(SERVE),--serve)

bench: preflight ## the end-to-end benchmark at both rates, and with kill -9 in the middle: one line of JSON each
	$(CARGO) build --release --locked
	ORT_DYLIB_PATH=$$(scripts/onnxruntime.sh)
	export ORT_DYLIB_PATH
	python=$$(scripts/venv.sh bench numpy duckdb)
	$$python benches/e2e/run.py --rate 1000
	$$python benches/e2e/run.py --kill --runs 1
	$$python benches/e2e/run.py

services: ## a Kafka, a Redis, a Postgres, an S3 server and a schema registry to play with, until Ctrl-C
	@scripts/services.py serve || [ $$? = 130 ] # 130: Ctrl-C

docs: preflight ## the API documentation: target/doc/conjoin
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked

fmt: ## formats the code
	$(CARGO) fmt

lint: preflight ## formatting, clippy and rustdoc without a warning
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked

clean: ## removes what was built; downloads stay in the cache folder
	$(CARGO) clean
