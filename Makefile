# `make run` and `make test` do all their own set-up: a virtual environment in .venv, made once and re-used, and made
# again when the pins (constraints.txt, pyproject.toml) or the Python change.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
# The engine alone, as on a bare JAX image: a newer Python and jax, and none of prefect, faiss and datasets.
PYTHON312 ?= $(shell for p in python3.12 $(HOME)/.pyenv/versions/3.12.*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo $$p && break; done)
BARE := .venv-bare
BARE_PACKAGES := jax==0.11.2 flax==0.12.12 optax orbax-checkpoint safetensors tokenizers sentencepiece gguf matplotlib \
	jinja2 pytest pytest-xdist hypothesis torch transformers peft
CLIENTS := .venv-clients
PINS := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
STAMP := $(VENV)/.installed-$(PINS)

# Whole files go to the workers, in the order of tests/conftest.py: the long ones first.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test test-wide test-heavy test-bare test-clients check lint docs setup release clean
.DEFAULT_GOAL := run

run: $(STAMP)
	$(VENV)/bin/raft run $(CONFIG)

test: $(STAMP)
	$(PYTEST) -m "not heavy and not wide" $(TESTS)

# What CI runs: further cases too.
test-wide: $(STAMP)
	$(PYTEST) -m "not heavy" $(TESTS)

# Minutes each, some with the real models; before a release.
test-heavy: $(STAMP)
	$(VENV)/bin/python -m pytest -m heavy $(TESTS)

test-bare: $(BARE)/.installed-$(PINS)
	JAX_PLATFORMS=cpu PYTHONPATH=$(CURDIR) $(BARE)/bin/python -m pytest -m "not heavy and not wide" -n 2 --dist loadfile $(or $(TESTS),tests/jora_engine)

$(BARE)/.installed-$(PINS):
	@test -n "$(PYTHON312)" || { echo "Python 3.12 is needed and was not found: set PYTHON312"; exit 1; }
	@echo "Setting up $(BARE) with $(PYTHON312) (once; a few minutes)"
	@rm -f $(BARE)/.installed-*
	@test -x $(BARE)/bin/python || $(PYTHON312) -m venv $(BARE)
	@grep -vE '^(jax|jaxlib|flax)==' constraints.txt > $(BARE)/constraints.txt
	@$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check -c $(BARE)/constraints.txt $(BARE_PACKAGES)
	@touch $@

# The clients of docs/serving.md in an environment of their own, as a user has them: they need another openai than ours.
test-clients: $(CLIENTS)/.installed-$(PINS)
	$(VENV)/bin/python -m pytest tests/serving/test_clients.py

$(CLIENTS)/.installed-$(PINS): $(STAMP)
	@rm -f $(CLIENTS)/.installed-*
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	@$(VENV)/bin/uv pip install --quiet --python $(CLIENTS)/bin/python --group clients
	@touch $@

check: lint
	$(PYTEST) -q -m "not heavy and not wide and not slow" $(TESTS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.docs-$(PINS)
	$(VENV)/bin/python .ci/site.py

setup: $(STAMP)

# sdist and wheel in dist/, tried in an empty environment
release:
	.ci/release "$(PYTHON)"

# The stamp is written last, so an installation that was cut short is done again.
$(STAMP):
	@test -n "$(PYTHON)" || { echo "Python 3.11.5 or newer is needed and was not found"; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (once; a few minutes)"
	@rm -f $(VENV)/.installed-*
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@$(VENV)/bin/python -m jora_engine.model.native.library
	@touch $@

$(VENV)/.docs-$(PINS): $(STAMP)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(BARE) $(CLIENTS) .raft
