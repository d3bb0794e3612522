# make quickstart installs and runs config.yaml. make test installs and runs the linters and the tests.
# CONTRIBUTING.md says what each of the other targets holds, what it needs and how long it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends

.PHONY: install quickstart lint reference docs test coverage test-browser test-gpu bench-gpu test-slow test-slurm

install: $(VENV)/installed

$(VENV)/installed: envs/lock.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

quickstart: install
	$(BIN)/snakemake
	@echo "Reports:" && ls -1 "$(CURDIR)"/results/*/layer*/report/index.html

# The files that are made from code: docs/make_reference.py lists them.
reference: install
	$(BIN)/python docs/make_reference.py

# The documentation as a site. Every warning is an error, and the site asks for nothing elsewhere (docs/conf.py).
docs: $(DOCS)/installed
	rm -rf site
	$(DOCS)/bin/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --doctree-dir $(DOCS)/doctrees docs site
	@echo "Documentation: $(CURDIR)/site/index.html"

$(DOCS)/installed: envs/docs-lock.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check -r envs/docs-lock.txt
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Files go to the workers in order of their names: whole runs (dag, pipeline) before short tests (unit), so that
# no worker is left with a long file at the end.
test: lint
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# The tests of make test, and the lines of src/crossdiff that none of them runs in its own process.
coverage: install
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist loadfile --cov=crossdiff --cov-report=term-missing:skip-covered

# Tests the latent browser and the live page in Chromium, on Debian as root.
test-browser: install
	dpkg-query --show chromium >/dev/null || (apt-get update && $(APT_INSTALL) chromium)
	$(BIN)/pytest -m browser tests/browser

# These two need a GPU and any Python that has the packages (make test-gpu PYTHON=...). They install nothing.
# Both write the card's record data/cards/{card}.json: what it is, which tests passed on it, and how fast it
# works.
HERE := PYTHONPATH=src:benchmarks$${PYTHONPATH:+:$$PYTHONPATH} HF_HUB_OFFLINE=1

test-gpu:
	$(HERE) $(PYTHON) -m pytest -p card_record -m gpu $$(grep -rlE 'mark.gpu\b' tests --include='test_*.py')

# AUTHORS=CHECKOUT also times the paper authors' trainer.
bench-gpu:
	$(HERE) $(PYTHON) benchmarks/gpu.py $(AUTHORS:%=--authors %)

# Kills trainings and harvests at random moments, and trains in several processes. Reading all tests takes a
# minute, so only files with the word "slow" are read.
test-slow: install
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow -n auto --dist loadfile \
		$$(grep -rliE slow tests --include='test_*.py')

# On Debian as root: starts a SLURM cluster of three nodes on this machine and runs the pipeline through
# faults.
test-slurm: install
	dpkg-query --show munge slurmctld slurmd slurm-client >/dev/null || \
		(apt-get update && $(APT_INSTALL) munge slurmctld slurmd slurm-client)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slurm tests/slurm
