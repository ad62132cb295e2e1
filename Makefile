# make demo    the main job on real rows in a real Airflow, with progress and a summary
# make test    all tests but those that need a browser
# The rest is listed by: make help

# Tests start hundreds of Pythons, and some machines tell them to compile all that they import anew.
unexport PYTHONDONTWRITEBYTECODE

AIRFLOW ?= 3.3.2
# Another Airflow, and another Python, have an environment of their own:
#   make test-ui VERSION=3.1.8     .venv-3.1.8
#   make test PYTHON=python3.12    .venv-py3.12
ifeq ($(origin VERSION), command line)
AIRFLOW = $(VERSION)
OTHER_AIRFLOW = -$(VERSION)
endif
# The Pythons that this project is tried with, the one that is taken first; Airflow 3.0 is not made for 3.13.
PYTHONS = $(if $(filter 3.0.%,$(AIRFLOW)),,python3.13) python3.12 python3.11
# The first of some Pythons that is there, also one of pyenv's that is not switched on. A path may have spaces.
found = $(shell for name in "$(strip $(1))" $(1); do \
	for python in "$$name" "$(HOME)"/.pyenv/versions/*/bin/"$$name"; \
	do "$$python" -c "" 2> /dev/null && echo "$$python" && exit; done; done)
# Makes the environment $(1) with one of the Pythons $(2), unless it is there. One that has no pip was broken off.
# $(3) is the variable that names another Python, if that is not PYTHON.
define venv
@$(1)/bin/python -m pip --version > /dev/null 2>&1 || { python="$(call found,$(2))"; \
test -n "$$python" || { echo "Python is missing: $(strip $(2))." \
	"Install one, or set $(or $(3),PYTHON)=/path/to/python."; exit 1; }; \
echo "Making $(1) with $$("$$python" -V), $$python ..."; \
"$$python" -m venv --clear $(1) || { rm -rf $(1); exit 1; }; }
endef
ifeq ($(origin PYTHON), undefined)
PYTHON = $(PYTHONS)
else
OTHER_PYTHON := -py$(shell "$(call found,$(PYTHON))" -c "import sys; print('%d.%d' % sys.version_info[:2])" 2> /dev/null)
endif
VENV ?= .venv$(OTHER_AIRFLOW)$(OTHER_PYTHON)
BIN = $(VENV)/bin
CONSTRAINTS = constraints/airflow-$(AIRFLOW).txt
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
PYTEST = $(BIN)/python -m pytest
TESTS = not ui and not long and not databases and not stores
UI = ui
WORKERS ?= 4
SERVERS = postgresql mariadb-server libmariadb-dev pkg-config
FILES =
SERVICE ?= local

ROWS_OF_CLUSTER = $(or $(ROWS),200000)
CLUSTER = .venv-cluster
CLUSTER_CONSTRAINTS = constraints/cluster-$(AIRFLOW).txt
PACKAGE_FILES = pyproject.toml README.md LICENSE
PACKAGE_FILES += $(shell find airflow_provider_openai_batches -type f -not -name '*.pyc')
CLUSTER_FILES = $(CLUSTER_CONSTRAINTS) deploy/cluster/requirements.txt $(PACKAGE_FILES)
# Airflow's image has 3.12.
CLUSTER_PYTHON ?= python3.12 python3.13 python3.11

.PHONY: help environment demo ui test test-short test-ui test-airflow test-databases test-stores test-wheel
.PHONY: bench-databases lint docs docs-links bench chaos cluster clean
# Also with --jobs: two targets at once would install into one environment.
.NOTPARALLEL:

help:
	@echo "make demo                         run the quickstart on real rows (SERVICE=openai for the real service)"
	@echo "make ui                           leave Airflow running with everything configured"
	@echo "make test                         all tests but those that need a browser or many minutes"
	@echo "make test-short PYTHON=python3.12 a part of them, for one more Python"
	@echo "make test-ui                      the tests of the page, in headless Chromium (VERSION=3.1.8 for another Airflow)"
	@echo "make test-airflow VERSION=3.1.8   the suite on another Airflow"
	@echo "make test-databases               loads into PostgreSQL, MariaDB and DuckDB; needs their servers"
	@echo "make test-stores                  whole jobs on S3, GCS and Azure Blob, which it starts on this machine"
	@echo "make test-wheel                   builds the package, and tries it without this checkout"
	@echo "make lint                         ruff and mypy --strict"
	@echo "make docs                         the documentation site, in docs/_build; warnings and dead links are errors"
	@echo "make docs-links                   asks each address outside that the site names; needs a network"
	@echo "make bench                        the benchmarks, compared with the other providers"
	@echo "make bench-databases              a load into PostgreSQL, compared with psql"
	@echo "make chaos                        kill processes at random, and count what was lost or paid twice"
	@echo "make cluster                      a job from table to table on a cluster, parts of which are killed"
	@echo "make clean                        removes all environments, and what was built or cached"

constraints/%.txt:
	@echo "There is no $@, so this cannot be tried with that Airflow. There are:"
	@echo "  $(sort $(notdir $(wildcard constraints/*-*.txt)))"
	@echo "To add one, see constraints/make.sh."; exit 1

$(VENV)/bin/python:
	$(call venv,$(VENV),$(PYTHON))

environment: $(VENV)/bin/python

$(VENV)/.demo: $(CONSTRAINTS) pyproject.toml $(VENV)/bin/python
	$(call venv,$(VENV),$(PYTHON))
	@echo "Installing Airflow $(AIRFLOW) and this provider into $(VENV) ..."
	$(PIP) --editable '.[demo]' apache-airflow==$(AIRFLOW)
	@touch $@

$(VENV)/.dev: $(CONSTRAINTS) pyproject.toml $(VENV)/bin/python
	$(call venv,$(VENV),$(PYTHON))
	@echo "Installing Airflow $(AIRFLOW), this provider and its tests' tools into $(VENV) ..."
	$(PIP) --editable '.[demo,dev]' apache-airflow==$(AIRFLOW)
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python demo/run.py --service $(SERVICE) $(if $(ROWS),--rows $(ROWS))

ui: $(VENV)/.demo
	@$(BIN)/python demo/run.py --service $(SERVICE) --ui

# Most tests wait more than they compute, so several processes run them side by side; those that start an Airflow come
# after them. LIVE=no leaves these out.
test: $(VENV)/.dev
ifneq ($(FILES),)
	$(PYTEST) -m "$(TESTS)" $(FILES)
else
	$(PYTEST) --numprocesses $(WORKERS) --dist worksteal -m "not live and ($(TESTS))"
	$(if $(filter no,$(LIVE)),,$(PYTEST) -m "live and ($(TESTS))")
endif

# For one more Python: what is most likely to differ, and one whole task in a real Airflow.
SHORT = tests/unit tests/operators tests/live/test_live.py::test_a_deferred_wait_succeeds_and_its_log_tells_of_it

test-short: $(VENV)/.dev
	$(PYTEST) --numprocesses 2 --dist worksteal -m "$(TESTS)" $(SHORT)

test-ui: $(VENV)/.dev
	$(PYTEST) -m "$(UI)" tests/ui

test-airflow:
	@test -n "$(VERSION)" || { echo "Say which version: make test-airflow VERSION=3.1.8"; exit 1; }
	$(MAKE) test VERSION=$(VERSION) TESTS="not ui and not databases and not stores"

$(VENV)/.databases: $(VENV)/.dev
	@{ command -v mariadbd && { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; }; } > /dev/null 2>&1 \
	  || { echo "Install the servers first; on Debian: apt-get install $(SERVERS)"; exit 1; }
	$(PIP) --editable '.[demo,dev,databases]' apache-airflow==$(AIRFLOW)
	@touch $@

test-databases: $(VENV)/.databases
	$(PYTEST) -m databases $(FILES)

bench-databases: $(VENV)/.databases
	$(BIN)/python benchmarks/table.py

# The clients of three clouds would slow down and hide much in the environment of the other tests. Azurite comes
# from npm; without Node.js the tests of Azure Blob fail, and say so.
STORES = .venv-stores
STORES_PYTHON ?= python3.11 python3.12 python3.13
AZURITE = 3.35.0

$(STORES)/.stores: pyproject.toml constraints/stores-$(AIRFLOW).txt
	$(call venv,$(STORES),$(STORES_PYTHON),STORES_PYTHON)
	@echo "Installing Airflow $(AIRFLOW) and the clients of three stores into $(STORES) ..."
	$(STORES)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints/stores-$(AIRFLOW).txt --editable '.[demo,stores]' apache-airflow==$(AIRFLOW)
	if command -v npm > /dev/null; then \
		npm install --silent --no-audit --no-fund --prefix $(STORES)/azurite azurite@$(AZURITE); fi
	@touch $@

test-stores: $(STORES)/.stores
	$(STORES)/bin/python -m pytest tests/stores

# What users get: built, the wheel from the source distribution, and installed without this checkout.
WHEEL = $(VENV)-wheel
# uv does this in a tenth of the time, where it is there.
WHEEL_PIP = $(if $(shell command -v uv),uv pip install --quiet --python $(WHEEL)/bin/python,\
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check)

$(WHEEL)/.installed: $(VENV)/bin/python $(CONSTRAINTS) $(PACKAGE_FILES) CHANGELOG.md $(shell find example_dags tests -name '*.py')
	$(call venv,$(WHEEL),$(BIN)/python)
	$(call venv,$(WHEEL)/tools,$(BIN)/python)
	@echo "Building the distributions and installing the wheel, with Airflow $(AIRFLOW), into $(WHEEL) ..."
	test -x $(WHEEL)/tools/bin/twine || \
		$(WHEEL)/tools/bin/python -m pip install --quiet --disable-pip-version-check build twine
	rm -rf $(WHEEL)/dist
	$(WHEEL)/tools/bin/python -m build --outdir $(WHEEL)/dist . > $(WHEEL)/build.log 2>&1 || { cat $(WHEEL)/build.log; exit 1; }
	$(WHEEL_PIP) --constraint $(CONSTRAINTS) apache-airflow==$(AIRFLOW) $(WHEEL)/dist/*.whl
	$(WHEEL_PIP) --force-reinstall --no-deps $(WHEEL)/dist/*.whl
	@touch $@

test-wheel: $(VENV)/.dev $(WHEEL)/.installed
	WHEEL="$(abspath $(WHEEL))" $(PYTEST) tests/wheel

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site needs no Airflow, and its tools are no part of the other environments. Only installing them needs a network.
DOCS = .venv-docs
SPHINX = $(DOCS)/bin/sphinx-build --fail-on-warning --keep-going --quiet

$(DOCS)/.installed: docs/requirements.txt constraints/docs.txt
	$(call venv,$(DOCS),$(PYTHON))
	@echo "Installing the tools of the documentation into $(DOCS) ..."
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
	$(call venv,$(CLUSTER),$(CLUSTER_PYTHON),CLUSTER_PYTHON)
	@echo "Installing Airflow $(AIRFLOW), this provider's wheel and the servers into $(CLUSTER) ..."
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
