# Everything happens in .venv, which the first command makes. PYTHON names the interpreter to make it with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test test-all lint types contracts format clean help

help:            ## Show what there is.
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

demo: $(INSTALLED) ## Install, then show a drifting stream adapt.
	$(BIN)/acclimate demo

test: lint types contracts ## Check the code, then run every test in its bounded form, those that measure time alone.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not alone" --numprocesses 2 --dist loadfile --durations 25
	$(BIN)/python -m pytest -m "not slow and alone"

test-all: lint types contracts ## The same with the full-size forms.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not alone" --numprocesses 2 --dist loadfile --durations 25
	$(BIN)/python -m pytest -m "slow or alone" --timeout 3600

lint: $(VENV)/developing ## Style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/developing ## Types.
	$(BIN)/mypy

contracts: $(VENV)/developing ## Who may import whom.
	$(BIN)/lint-imports

format: $(VENV)/developing ## Put the code in form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## Remove the environment and all caches.
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch's range in pyproject.toml is narrow on purpose: a wider one can bring gigabytes of GPU libraries.
$(INSTALLED): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/developing: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(INSTALLED)
