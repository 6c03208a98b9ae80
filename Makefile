# Every target is one short command, so that all of it also runs without make.
.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8001
# Many tests wait for processes and sockets: one worker more than there are cores.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
CODE := server runtime kernels protos tests examples benchmarks

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: .venv/.ready ## Make .venv with penstock, torch (CPU) and everything the tests need

# torch comes first and alone, by its exact version: a range would bring gigabytes of CUDA.
.venv/.ready: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt \
		--requirement constraints/develop.txt --editable '.[all-cpu,examples]'
	@touch $@

.PHONY: run
run: setup examples/repository/.built ## Build the demo repository (once) and serve it on ports 8000 (HTTP), 8001 (gRPC) and 8002 (metrics)
	$(BIN)/penstock serve examples/repository --grpc-port $(PORT)

examples/repository/.built: setup
	$(BIN)/python examples/build_repository.py

# Tests start some hundred interpreters: each would compile all of penstock again, half of its start.
test test-grpcio: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: setup ## Run the test suite (minutes)
	$(PYTEST) -m "not soak and not gpu and not interop"

.PHONY: test-grpcio
test-grpcio: setup ## The tests of whole servers once more, on gRPC's own library
	$(PYTEST) --transport grpcio -m "not soak and not gpu and not interop" tests/server tests/e2e

.PHONY: interop
interop: setup ## Foreign clients against a server: C++, Go, Java, Node, curl and more (installs packages)
	tests/interop/setup
	PENSTOCK_INTEROP_TABLE=docs/interop.md $(BIN)/python -m pytest tests/interop

.PHONY: check
check: setup ## Format, lint, types, layers, protos up to date
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports
	$(BIN)/python protos/build_protos.py --check

.PHONY: protos
protos: setup ## Rebuild the committed descriptors and their types from protos/*.proto
	$(BIN)/python protos/build_protos.py

.PHONY: kernels
kernels: setup ## Compile every CUDA kernel for three architectures (no GPU needed), and renew the committed table
	$(BIN)/python -m penstock_kernels.build --arch 80 90 100

.PHONY: format
format: setup ## Format the code, and mend what the linter can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

.PHONY: bench
bench: setup ## Measure: start-up, overhead per request, reloads under load
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.reload

.PHONY: soak
soak: setup ## The tests that take long
	$(BIN)/python -m pytest -m soak

.PHONY: docker-check
docker-check: setup ## Replay the image's install steps in a fresh environment
	$(BIN)/python -m pytest tests/docker -m "soak or not soak"

.PHONY: clean
clean: ## Remove what was built
	rm -rf .venv examples/repository benchmarks/out build dist .mypy_cache .ruff_cache .pytest_cache

PROTOBUF ?= 7.*
.PHONY: protos-check
protos-check: ## Test the messages under one version of protobuf, in an environment of its own
	$(PYTHON) -m venv build/protobuf
	build/protobuf/bin/pip install --quiet "protobuf==$(PROTOBUF)" grpcio numpy pytest pytest-timeout pytest-asyncio hypothesis
	build/protobuf/bin/python -m pytest tests/server/test_protos.py
