# All targets use the environment .venv, which the first one creates. PYTHON is the interpreter for it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

BASE := python:3.11-slim-bookworm
# The index that has torch built for the CPU, by uv's name for it.
TORCH ?= --torch-backend cpu

.PHONY: docs picture demo test test-all coverage lint types contracts format clean help lock sbom base image

help:            ## List the targets.
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

demo: $(INSTALLED) ## Install, then show a drifting stream adapt.
	$(BIN)/acclimate demo

# Without bytecode, every process that a test starts would compile the package again.
test test-all coverage: export PYTHONDONTWRITEBYTECODE =
BOUNDED := -m "not slow and not alone" --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25
ALONE = $(shell grep -rl 'mark\.alone' tests)

test: lint types contracts ## Check the code, then run every test in its bounded form; tests that measure time run alone.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(BOUNDED)
	$(BIN)/python -m pytest -m "not slow and alone" $(ALONE)

test-all: lint types contracts coverage ## The same, the full-size forms of the tests, and the floor of branch coverage.
	$(BIN)/python -m pytest -m "slow or alone" --timeout 3600

coverage: $(VENV)/developing ## Measure branch coverage by the bounded tests, and fail under the floor in pyproject.toml.
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest $(BOUNDED)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/developing ## Check style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/developing ## Check types.
	$(BIN)/mypy

contracts: $(VENV)/developing ## Check the import contracts.
	$(BIN)/lint-imports

format: $(VENV)/developing ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/developing ## Write the generated pages of docs/, then the site in build/site.
	$(BIN)/python -m tests.project.generated
	$(BIN)/mkdocs build

picture: $(VENV)/developing ## Take the README's picture again; needs Chromium.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/e2e/test_dashboard.py -k "kept_as_a_picture and wide and light"
	$(BIN)/python -m tests.project.picture

lock: $(VENV)/developing ## Write requirements.lock and torch.lock: the image's packages with their hashes.
	mkdir -p build
	$(BIN)/uv pip compile pyproject.toml --extra postgres --extra s3 --generate-hashes --python-version 3.11 --upgrade \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet $(TORCH) --output-file build/whole.lock
	sed -n '/^torch==/,/[^\\]$$/p' build/whole.lock > torch.lock
	sed '/^torch==/,/[^\\]$$/d' build/whole.lock > requirements.lock

sbom: $(VENV)/developing ## Write sbom.json, a CycloneDX list of the locked packages.
	cat requirements.lock torch.lock | $(BIN)/cyclonedx-py requirements - --pyproject pyproject.toml \
		--mc-type application --of JSON --output-reproducible --output-file sbom.json

base:            ## Print the digest of the base image's tag, for the Dockerfile's BASE.
	docker buildx imagetools inspect $(BASE) --format '{{.Manifest.Digest}}'

image: sbom      ## Build the image, and write the list of its packages.
	docker build --tag acclimate .

clean:           ## Remove the environment and all caches.
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch's range in pyproject.toml is narrow on purpose: another release may install gigabytes of GPU libraries.
$(INSTALLED): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/developing: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(INSTALLED)
