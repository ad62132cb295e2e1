# make demo    the main job on real rows in a real Airflow, with progress and a summary
# make test    all tests but those that need a browser
# The rest is listed by: make help

PYTHON ?= python3.11
AIRFLOW ?= 3.3.2
VENV ?= .venv
# Another Airflow has an environment of its own: make test-ui VERSION=3.1.8
ifeq ($(origin VERSION), command line)
AIRFLOW = $(VERSION)
VENV = .venv-$(VERSION)
endif
BIN = $(VENV)/bin
CONSTRAINTS = constraints/airflow-$(AIRFLOW).txt
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
PYTEST = $(BIN)/python -m pytest
TESTS = not ui and not long
FILES =
SERVICE ?= local

.PHONY: help demo ui test test-ui test-airflow lint bench chaos clean

help:
	@echo "make demo                         run the quickstart on real rows (SERVICE=openai for the real service)"
	@echo "make ui                           leave Airflow running with everything configured"
	@echo "make test                         all tests but those that need a browser or many minutes"
	@echo "make test-ui                      the tests of the page, in headless Chromium (VERSION=3.1.8 for another Airflow)"
	@echo "make test-airflow VERSION=3.1.8   the suite on another Airflow"
	@echo "make lint                         ruff and mypy --strict"
	@echo "make bench                        the benchmarks, compared with the other providers"
	@echo "make chaos                        kill processes at random, and count what was lost or paid twice"

$(VENV)/bin/python:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is missing. Install it, or set PYTHON=/path/to/python."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	@echo "Installing Airflow $(AIRFLOW) and this provider into $(VENV) ..."
	$(PIP) --editable '.[demo]' apache-airflow==$(AIRFLOW)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	@echo "Installing Airflow $(AIRFLOW), this provider and its tests' tools into $(VENV) ..."
	$(PIP) --editable '.[demo,dev]' apache-airflow==$(AIRFLOW)
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python demo/run.py --service $(SERVICE) $(if $(ROWS),--rows $(ROWS))

ui: $(VENV)/.demo
	@$(BIN)/python demo/run.py --service $(SERVICE) --ui

test: $(VENV)/.dev
	$(PYTEST) -m "$(TESTS)" $(FILES)

test-ui: $(VENV)/.dev
	$(PYTEST) -m ui

test-airflow:
	@test -n "$(VERSION)" || { echo "Say which version: make test-airflow VERSION=3.1.8"; exit 1; }
	$(MAKE) test VERSION=$(VERSION) TESTS="not ui"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/waits.py
	$(BIN)/python benchmarks/landing.py
	$(BIN)/python benchmarks/makespan.py --speed 1200
	$(BIN)/python benchmarks/live_rate.py

chaos: $(VENV)/.dev
	$(BIN)/python benchmarks/chaos.py

clean:
	rm -rf .venv* .bench .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
