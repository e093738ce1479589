# The commands to know. `make demo` and `make test` need nothing but Python 3.11 or later with venv.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
ROWS ?= 1000000
PY := $(VENV)/bin/python
# Bytecode is kept: the tests start thousands of processes.
export PYTHONDONTWRITEBYTECODE :=
UNIT := tests/unit src
REST := $(filter-out tests/unit tests/golden tests/performance,$(patsubst %/,%,$(wildcard tests/*/)))
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Side by side, file by file: a file's tests share what they set up, each worker has its own servers.
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
COV := --cov --cov-append --cov-report= --cov-fail-under=0
.PHONY: setup demo test prove lint format bench docs lock clean help

help: ## Show this help
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## Make .venv with everything that development needs, from the lock

demo: $(VENV)/.all ## Generate sales data, run the example on it, check the outcome, show where to look
	$(PY) scripts/demo.py

test: $(VENV)/.dev ## All tests, unit tests first, then coverage limits (JOBS=2 side by side)
	@scripts/services
	@$(PY) -m compileall -q src
	@rm -f .coverage .coverage.*
	$(PYTEST) $(UNIT) $(COV)
	$(PYTEST) $(REST) $(COV)
	$(PY) -m pytest tests/performance --benchmark-disable-gc
	$(PY) scripts/check_coverage.py

prove: $(VENV)/.dev ## The long trials: 300 kills, 50 zombies, 50 full disks, 24 power cuts, 200 damages
	HEADRACE_PROVE=full $(PY) -m pytest tests/acceptance/test_prove.py tests/acceptance/test_faults.py \
	  $(wildcard tests/acceptance/test_every_step.py tests/acceptance/test_cdc_*.py tests/acceptance/test_*_workload.py)

lint: $(VENV)/.dev ## Style, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev ## Put the code into the house's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev .venv-bench/.ready ## Measure against peers in one run (ROWS=5000000; RETAIL=… a file of online_retail)
	$(PY) bench/compare.py dirty --rows $(ROWS) --peers .venv-bench/bin/python --jars .venv-bench/jars
	$(PY) bench/postgres.py --rows $(ROWS) --peers .venv-bench/bin/python
	$(PY) bench/cdc.py --changes $(ROWS)
	$(PY) bench/cdc_mariadb.py --changes $(ROWS)
	@test -z "$(RETAIL)" || $(PY) bench/compare.py retail --input "$(RETAIL)" --peers .venv-bench/bin/python

.venv-bench/.ready: bench/requirements.txt bench/pom.xml
	@$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet -r bench/requirements.txt
	@mkdir -p .venv-bench/jars
	@command -v mvn >/dev/null || echo "no Maven: PySpark will write Parquet instead of Delta"
	! command -v mvn >/dev/null || mvn --quiet --batch-mode -f bench/pom.xml dependency:copy-dependencies \
	  -DoutputDirectory="$(CURDIR)/.venv-bench/jars"
	@touch $@

docs: $(VENV)/.dev ## Write the JSON Schemas anew and run every example of the documentation
	$(PY) -m headrace.spec.schema docs/schema
	$(PY) scripts/architecture.py
	$(PY) -m pytest tests/unit/test_docs.py

lock: ## Resolve the locks anew (needs uv)
	scripts/lock

clean: ## Remove what the other targets made
	rm -rf $(VENV) .venv-bench .demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find src -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info

# Which index pip uses, and its certificates, come from the environment (PIP_INDEX_URL, PIP_CERT …).
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed. hint: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "hint: on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.all: requirements/all.lock pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --require-hashes -r requirements/all.lock
	$(PY) -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet --require-hashes -r requirements/dev.lock
	$(PY) -m pip install --quiet --no-deps --editable .
	@touch $@ $(VENV)/.all
