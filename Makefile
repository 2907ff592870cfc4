# make demo        see a network answer early: makes .venv, installs, runs, says where the result is
# make test        lint, types and tests; makes .venv and installs first
# make test-slow   the tests that take long
# make docs        the documentation, in docs/_build
# make lint        lint and types alone
# make clean       remove .venv and what the tools left

PYTHON ?= python3
VENV ?= .venv
OUT ?= offramp-demo

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev

# Real data for the tests that ask for it; a value that is set already is left alone.
ifndef OFFRAMP_DATA
ifneq ($(wildcard ../shared/data/.),)
export OFFRAMP_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo docs test test-slow lint format clean

demo: $(DEMO_STAMP)
	$(BIN)/offramp demo --out $(OUT)
	@echo "The result is in $(abspath $(OUT)): demo.png (picture), demo.json and demo.csv (numbers)"

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow

docs: $(DEV_STAMP)
	$(BIN)/python -m sphinx -W --keep-going -n docs docs/_build
	@echo "The documentation is in $(abspath docs/_build): open index.html"

lint: $(DEV_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(OUT) docs/_build build dist .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than the files that decide what is installed, so nothing is installed twice.
$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[demo]"
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[all,docs,dev]"
	@touch $@ $(DEMO_STAMP)
