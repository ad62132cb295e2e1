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
TESTS = not ui and not long and not databases and not stores
UI = ui
SERVERS = postgresql mariadb-server libmariadb-dev pkg-config
FILES =
SERVICE ?= local

ROWS_OF_CLUSTER = $(or $(ROWS),200000)
CLUSTER = .venv-cluster
CLUSTER_CONSTRAINTS = constraints/cluster-$(AIRFLOW).txt
CLUSTER_FILES = $(CLUSTER_CONSTRAINTS) deploy/cluster/requirements.txt pyproject.toml README.md LICENSE
CLUSTER_FILES += $(shell find airflow_provider_openai_batches -type f -not -name '*.pyc')
# Python 3.12 if there is one, also one of pyenv's that is not switched on; else the newest of the others.
CLUSTER_PYTHON ?= $(shell for python in python3.12 $(HOME)/.pyenv/versions/3.12.*/bin/python3.12 \
	python3.13 python3.11; do $$python -c "" 2> /dev/null && echo $$python && break; done)

.PHONY: help demo ui test test-ui test-airflow test-databases test-stores bench-databases lint docs docs-links bench chaos cluster clean

help:
	@echo "make demo                         run the quickstart on real rows (SERVICE=openai for the real service)"
	@echo "make ui                           leave Airflow running with everything configured"
	@echo "make test                         all tests but those that need a browser or many minutes"
	@echo "make test-ui                      the tests of the page, in headless Chromium (VERSION=3.1.8 for another Airflow)"
	@echo "make test-airflow VERSION=3.1.8   the suite on another Airflow"
	@echo "make test-databases               loads into PostgreSQL, MariaDB and DuckDB; needs their servers"
	@echo "make test-stores                  whole jobs on S3, GCS and Azure Blob, which it starts on this machine"
	@echo "make lint                         ruff and mypy --strict"
	@echo "make docs                         the documentation site, in docs/_build; warnings and dead links are errors"
	@echo "make docs-links                   asks each address outside that the site names; needs a network"
	@echo "make bench                        the benchmarks, compared with the other providers"
	@echo "make bench-databases              a load into PostgreSQL, compared with psql"
	@echo "make chaos                        kill processes at random, and count what was lost or paid twice"
	@echo "make cluster                      a job from table to table on a cluster, parts of which are killed"

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
	$(PYTEST) -m "$(UI)"

test-airflow:
	@test -n "$(VERSION)" || { echo "Say which version: make test-airflow VERSION=3.1.8"; exit 1; }
	$(MAKE) test VERSION=$(VERSION) TESTS="not ui and not databases and not stores"

$(VENV)/.databases: $(VENV)/.dev
	@{ command -v mariadbd && { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; }; } > /dev/null 2>&1 \
	  || { echo "Install the servers first; on Debian: apt-get install $(SERVERS)"; exit 1; }
	$(PIP) --editable '.[demo,dev,databases]' apache-airflow==$(AIRFLOW)
	@touch $@

test-databases: $(VENV)/.databases
	DATABASES_REQUIRED=1 $(PYTEST) -m databases $(FILES)

bench-databases: $(VENV)/.databases
	$(BIN)/python benchmarks/table.py

# The clients of three clouds would slow down and hide much in the environment of the other tests. Azurite comes
# from npm; without Node.js the tests of Azure Blob are skipped, and say so.
STORES = .venv-stores
AZURITE = 3.35.0

$(STORES)/.stores: pyproject.toml constraints/stores-$(AIRFLOW).txt
	@echo "Installing Airflow $(AIRFLOW) and the clients of three stores into $(STORES) ..."
	test -x $(STORES)/bin/python || $(PYTHON) -m venv $(STORES)
	$(STORES)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints/stores-$(AIRFLOW).txt --editable '.[demo,stores]' apache-airflow==$(AIRFLOW)
	if command -v npm > /dev/null; then \
		npm install --silent --no-audit --no-fund --prefix $(STORES)/azurite azurite@$(AZURITE); fi
	@touch $@

test-stores: $(STORES)/.stores
	$(STORES)/bin/python -m pytest tests/stores

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site needs no Airflow, and its tools are no part of the other environments. Only installing them needs a network.
DOCS = .venv-docs
SPHINX = $(DOCS)/bin/sphinx-build --fail-on-warning --keep-going --quiet

$(DOCS)/.installed: docs/requirements.txt constraints/docs.txt
	@echo "Installing the tools of the documentation into $(DOCS) ..."
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints/docs.txt --requirement docs/requirements.txt
	@touch $@

# --fresh-env: a page that did not change may name one that is gone.
docs: $(DOCS)/.installed
	$(SPHINX) --fresh-env --builder html docs docs/_build/html
	@echo "The site is in docs/_build/html/index.html"

docs-links: $(DOCS)/.installed
	$(SPHINX) --builder linkcheck docs docs/_build/links

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/waits.py
	$(BIN)/python benchmarks/landing.py
	$(BIN)/python benchmarks/makespan.py --speed 1200
	$(BIN)/python benchmarks/live_rate.py

chaos: $(VENV)/.dev
	$(BIN)/python benchmarks/chaos.py

$(CLUSTER)/.installed: $(CLUSTER_FILES)
	@test -n "$(CLUSTER_PYTHON)" || { echo "Python 3.12 is missing. Install it, or set CLUSTER_PYTHON=/path/to/python."; exit 1; }
	@echo "Installing Airflow $(AIRFLOW), this provider's wheel and the servers into $(CLUSTER), for $$($(CLUSTER_PYTHON) -V) ..."
	@$(CLUSTER_PYTHON) -m venv $(CLUSTER)
	@rm -rf $(CLUSTER)/wheel
	@$(CLUSTER)/bin/pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir $(CLUSTER)/wheel .
	@$(CLUSTER)/bin/pip --quiet --disable-pip-version-check install --constraint $(CLUSTER_CONSTRAINTS) \
		--requirement deploy/cluster/requirements.txt
	@$(CLUSTER)/bin/pip --quiet --disable-pip-version-check install --constraint $(CLUSTER_CONSTRAINTS) \
		--force-reinstall --no-deps $(CLUSTER)/wheel/*.whl
	@touch $@

cluster: $(CLUSTER)/.installed
	@$(CLUSTER)/bin/python deploy/cluster/run_cluster.py --rows $(ROWS_OF_CLUSTER) $(if $(KILLS),--kills $(KILLS)) \
		$(if $(BATCH_SECONDS),--batch-seconds $(BATCH_SECONDS)) $(if $(MINUTES),--minutes $(MINUTES))

clean:
	rm -rf .venv* .axe .bench .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_api docs/_build
