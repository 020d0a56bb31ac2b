# `make run` and `make test` do all their own set-up: a virtual environment in .venv, made once and re-used, and made
# again when the pins (constraints.txt, pyproject.toml) or the Python change.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
PINS := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
STAMP := $(VENV)/.installed-$(PINS)

# Whole files go to the workers, in the order of tests/conftest.py: the long ones first.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test test-heavy check lint setup clean
.DEFAULT_GOAL := run

run: $(STAMP)
	$(VENV)/bin/raft run $(CONFIG)

test: $(STAMP)
	$(PYTEST) -m "not heavy" $(TESTS)

# Minutes each, some with the real models; before a release.
test-heavy: $(STAMP)
	$(VENV)/bin/python -m pytest -m heavy $(TESTS)

check: lint
	$(PYTEST) -q -m "not heavy and not slow" $(TESTS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

setup: $(STAMP)

# The stamp is written last, so an installation that was cut short is done again.
$(STAMP):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (once; a few minutes)"
	@rm -f $(VENV)/.installed-*
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) .raft
