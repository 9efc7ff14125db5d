# Two commands do everything: `make run` and `make test`. Both set up their own virtual environment first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= $(CURDIR)/data

.PHONY: run test lint check bench clean

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed dev-requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement dev-requirements.txt
	command -v cc >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check ziglang
	touch $@

run: $(BIN)/.installed ## Start a server with a sample agent, on embedded defaults
	cd examples/support && $(abspath $(BIN))/sessile serve --data $(DATA) --config sessile.toml --sample agent.json

test: $(BIN)/.installed-dev ## Run all tests
	$(BIN)/python -m pytest

lint: $(BIN)/.installed-dev ## Check style, types, the import contract and the size budgets
	$(BIN)/ruff check src tests benchmarks checks examples
	$(BIN)/ruff format --check src tests benchmarks checks examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m checks.budgets

check: lint test

bench: $(BIN)/.installed-dev ## Measure the budgets of ARCHITECTURE.md and write BENCH.md
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
