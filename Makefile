# make run     try it: demo services and the gateway in front of them
# make test    everything: format, lint, types, import contracts, all tests; COVERAGE=1 measures what they reach, in half as long again
# make check   the same without the slower tests: seconds
# make docs    write the generated pages anew from the code, and build the documentation as a site in build/site
# make bench   measure, against the other proxies that are installed
# make clean   forget the environment and everything generated
#
# Needs python3 >= 3.11 (with venv) and make; no root. Everything is installed into VENV, anew only when pyproject.toml changed.

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
CHECKED := gateway tests

.DELETE_ON_ERROR:
.PHONY: run test check lint docs bench clean
.DEFAULT_GOAL := check

run: $(VENV)/.installed-run
	@$(BIN)/gateway demo

# As many tests at once as there are processors: more of them would only make one another late. JOBS=0: one after the other.
test: lint
ifdef COVERAGE
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist loadgroup
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report
else
	$(PYTEST) -n $(JOBS) --dist loadgroup
endif

check: lint
	$(PYTEST) -q -n $(JOBS) --dist loadscope -m "not slow" tests/unit tests/test_architecture.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check --quiet $(CHECKED)
	$(BIN)/ruff check --quiet $(CHECKED)
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml

docs: $(VENV)/.installed-test
	$(BIN)/python -m tests.docs.pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "built: build/site/index.html, or $(BIN)/python -m http.server -d build/site 8000"

# BENCH=scenario and its options, see tests/bench/README.md. Needs wrk, and the proxies it is to compare with.
bench: $(VENV)/.installed-test
	$(BIN)/python -m tests.bench.compare $(BENCH)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov build dist
	find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-run: pyproject.toml $(BIN)/python
	$(PIP_INSTALL) --editable '.[speed]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(BIN)/python
	$(PIP_INSTALL) --editable '.[speed,dev,docs,lint]'
	@touch $@

# `python` is a link and has the time of the interpreter behind it: after an upgrade of that, everything is installed anew.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "python3 >= 3.11 is needed: install it, or say make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: python3-venv)"; exit 1; }
