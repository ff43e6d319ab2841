# make test    set up .venv and run every test
# make check   the same, and lint, types and import contracts: what CI runs
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test check lint types contracts clean

test: .venv/installed
	$(BIN)/python -m pytest

check: lint types contracts test

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

# The marker is newer than pyproject.toml once everything in it is installed.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
