# Plain commands under short names. `make` alone lists them.
# Each target prepares what it needs: a virtual environment from the hash-locked requirements, redone when a lock changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# Tests mostly wait, for processes and for time to pass: two at once take little more than half as long.
WORKERS ?= 2
# Another interpreter: make PYTHON=/path/to/python3.13 test
PYTHON ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

DEV := $(VENV)/.ready-dev
# The development environment holds all that the demonstration needs, so one that exists serves both.
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.ready-demo)

# A program for tests, and no Python: see deploy/observability/fetch-prometheus.
PROMETHEUS := build/prometheus

# Not needed by anything else, and long to build: its own environment.
LOCAL_MODEL := build/local-model

# What releases are built and checked with.
RELEASE := build/release-tools

# Its wheel is for Linux on x86-64 only.
HELM = $(or $(wildcard $(BIN)/helm),helm)

.PHONY: help demo test test-containers test-observability test-local-model image unit check fmt schemas dashboards pictures prometheus sim chaos bench chart release test-release lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## An agent with real MCP servers, a SIGKILL in the middle, and the task still ends, once
	@$(BIN)/holdfast demo $(ARGS)

test: $(DEV) ## All tests, with small budgets for those that could go on for ever
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-containers: $(DEV) ## The image and the compose files on a container engine: scaled, killed, upgraded under load; some eight minutes
	$(BIN)/pytest -s tests/containers $(ARGS)

test-local-model: $(DEV) $(LOCAL_MODEL)/.ready ## A task answered by a small real model on this machine; building it takes minutes, once
	LOCAL_MODEL_PYTHON=$(LOCAL_MODEL)/bin/python $(BIN)/pytest -s tests/local_model $(ARGS)

test-observability: $(DEV) prometheus ## Every query of the dashboards and alerts, asked of a real Prometheus that watches a real stack
	$(BIN)/pytest tests/observability tests/unit/test_observability.py $(ARGS)

unit: $(DEV) ## The tests that need no server: under a minute
	$(BIN)/pytest tests/unit tests/property $(ARGS)

check: $(DEV) ## Format, lint, types (mypy and pyright, strict, tests included), generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m schemas.export --check

fmt: $(DEV) ## Format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: $(DEV) ## Regenerate what is generated: JSON Schema, AsyncAPI, the diagram of the machine
	$(BIN)/python -m schemas.export
	$(BIN)/python -m tests.unit.test_docs

dashboards: $(DEV) ## Write the dashboards, and the document of the metrics, from their Python
	$(BIN)/python -m deploy.observability.dashboards
	$(BIN)/python -m deploy.observability.reference

pictures: $(DEV) prometheus ## Draw the dashboards for the documentation: a small system is watched for a minute and a half
	$(BIN)/python -m tests.support.dashboard_pictures

prometheus: $(PROMETHEUS)/.ready ## Fetch prometheus and promtool into build/: from the system's packages, or from the image

sim: export SEEDS ?= 1000
sim: $(DEV) ## Simulated crashes over many seeds: SEEDS=1000, or one of them again: SEED=12345
	$(BIN)/pytest tests/chaos/simulated $(ARGS)

chaos: export KILLS ?= 200
chaos: export ROWS ?= all
chaos: $(DEV) ## Real processes and a server, killed with SIGKILL at every step: KILLS=500, or one row again: ROW=...
	$(BIN)/pytest -s -o faulthandler_timeout=0 $(if $(ROW),tests/chaos/live/test_crash_table.py,tests/chaos/live) $(ARGS)

bench: $(DEV) ## Speed, memory and storage, as a table and in build/bench.json
	$(BIN)/python -m tests.bench $(ARGS)

image: $(BIN)/python ## The container image of this version: holdfast:VERSION; ARGS='--build-arg LOCK=demo' with the examples' tools
	docker build -f deploy/docker/Dockerfile -t holdfast:$(VERSION) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(ARGS) .

chart: $(DEV) ## The Helm chart as a file, with the public chart of NATS in it: needs the network
	$(HELM) dependency update deploy/helm/holdfast
	$(HELM) package --destination build/chart deploy/helm/holdfast

test-release: $(DEV) $(RELEASE)/.ready ## That a release is made, and is not made of what has a known vulnerability: some minutes
	$(BIN)/pytest tests/release $(ARGS)

release: $(RELEASE)/.ready ## What a release consists of, in dist/: wheel, source, bill of materials, licences; known vulnerabilities stop it
	@deploy/release/release $(RELEASE) $(BIN)/python

clean: ## Remove what was built, the environment included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments -----------------------------------------------------------------------

$(BIN)/python:
	@found=""; \
	for candidate in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11; do \
		[ -n "$$candidate" ] || continue; \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
		if [ "$$candidate" = "$(PYTHON)" ]; then \
			echo "error: PYTHON=$(PYTHON) is not a Python 3.11 or newer" >&2; exit 1; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: Holdfast needs Python 3.11 or newer; python3 here is $$(python3 --version 2>&1 || echo missing)." >&2; \
		echo "       Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
		echo "error: $$found has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi; \
	echo "creating $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV)

$(VENV)/.ready-%: requirements/%.txt pyproject.toml | $(BIN)/python
	@echo "installing requirements/$*.txt (a minute or two, once)"
	@$(PIP) install -qq --require-hashes -r requirements/$*.txt
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(LOCAL_MODEL)/.ready: requirements/local-model.txt | $(BIN)/python
	@echo "installing requirements/local-model.txt (llama.cpp is compiled: some minutes, once)"
	@rm -rf $(LOCAL_MODEL)
	@$(BIN)/python -m venv $(LOCAL_MODEL)
	@CMAKE_ARGS="$${CMAKE_ARGS:--DLLAVA_BUILD=OFF}" $(LOCAL_MODEL)/bin/python -m pip --disable-pip-version-check --no-input \
		install -qq --require-hashes -r requirements/local-model.txt
	@touch $@

$(PROMETHEUS)/.ready: deploy/observability/fetch-prometheus
	@deploy/observability/fetch-prometheus $(PROMETHEUS)
	@touch $@

$(RELEASE)/.ready: requirements/release.txt | $(BIN)/python
	@$(BIN)/python -m venv --clear $(RELEASE)
	@$(RELEASE)/bin/python -m pip --disable-pip-version-check --no-input install -qq --require-hashes -r requirements/release.txt
	@touch $@

# --- locks ------------------------------------------------------------------------------

PIP_TOOLS := pip-tools==7.6.2
LOCK_TOOLS := build/lock-tools
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(LOCK_TOOLS)/bin/pip-compile --quiet --strip-extras --generate-hashes \
	--allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options $(ARGS)

lock: $(BIN)/python ## Compile the locks from pyproject.toml; ARGS=--upgrade for newer versions
	@[ -x $(LOCK_TOOLS)/bin/pip-compile ] || { $(BIN)/python -m venv --clear $(LOCK_TOOLS); \
		$(LOCK_TOOLS)/bin/pip install --quiet --disable-pip-version-check $(PIP_TOOLS); }
	$(COMPILE) --output-file requirements/runtime.txt pyproject.toml
	$(COMPILE) --extra demo --build-deps-for editable -c requirements/runtime.txt --output-file requirements/demo.txt pyproject.toml
	$(COMPILE) --extra demo --extra dev --build-deps-for editable -c requirements/demo.txt --output-file requirements/dev.txt pyproject.toml
	$(COMPILE) --output-file requirements/local-model.txt requirements/local-model.in
	$(COMPILE) --output-file requirements/image.txt requirements/image.in
	$(COMPILE) --output-file requirements/release.txt requirements/release.in
	$(COMPILE) --only-build-deps --build-deps-for wheel -c requirements/dev.txt --output-file requirements/build.txt pyproject.toml
