# `make demo` and `make test` set up all that they need: a virtual environment here, and, as root on Debian or
# Ubuntu, the packages of the simulated cluster.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-pythons check format bench cluster clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/farkernel demo

# The fast tests, then those of the cluster: the last line says how many of these ran. A test that fails, as one of few,
# is run once more.
test: test-pythons
	$(BIN)/python -m tests.again --only-cluster

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest --no-cluster

# The fast tests on every supported interpreter that is installed, at once.
test-pythons: $(VENV)/.dev
	$(BIN)/python -m tests.pythons

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

cluster: $(VENV)/.dev
	$(BIN)/python -m tests.cluster

clean:
	rm -rf $(VENV) $(VENV)-3.* $(VENV)-gateway build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { apt-get update && apt-get install --yes python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
