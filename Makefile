# Two commands do everything on a fresh machine: `make report` and `make test`.
PYTHON ?= python3
CORES  ?= all
VENV   := .venv
TORCH  := 2.13.0
READY  := $(VENV)/.ready
DOCS   := $(VENV)-docs
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Where an image sets it, as many do, every process would compile thousands of modules anew: 25 seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: report test test-fast lint format docs lock clean distclean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# torch comes first and pinned; everything else is pinned in the lock and installed without resolving, because
# lmms-eval's own requirements would pull torchvision and a dozen packages that no benchmark here imports. Bytecode is
# left to the first import: of most modules nobody asks for it.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("dyrate needs Python 3.11 or newer; try: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile torch==$(TORCH)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

report: $(READY) ## build the environment, run the whole testbed study, leave reports/testbed/index.html
	snakemake --cores $(CORES)
	@echo "open reports/testbed/index.html"

# One worker more than the two cores of a small machine: many tests wait for a command.
test: $(READY) ## every test
	OMP_NUM_THREADS=1 python -m pytest -n 3 --dist worksteal

test-fast: $(READY) ## the fast tier (four to ten minutes on two cores)
	OMP_NUM_THREADS=1 python -m pytest -n 3 --dist worksteal -m "not slow"

lint: $(READY) ## ruff, mypy, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

format: $(READY) ## rewrite the sources in the house style
	ruff check --fix-only .
	ruff format .
	snakefmt Snakefile workflow

docs: $(DOCS)/.ready ## this documentation as a site that opens from disk: site/index.html
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "open site/index.html"

# An environment of its own: what draws the site is no part of what it describes.
$(DOCS)/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.txt
	@touch $@

# uv (https://docs.astral.sh/uv) asks the index for the hashes of all files; pip knows only those it downloads.
lock: ## pin what is installed in .venv now, with hashes (needs uv on PATH)
	$(VENV)/bin/python -m pip freeze --all --exclude dyrate --exclude torch --exclude pip > requirements.lock.in
	uv pip compile --quiet --no-deps --generate-hashes --universal --no-annotate --no-header requirements.lock.in -o requirements.lock.out
	(sed -n '/^#/p' requirements.lock; cat requirements.lock.out) > requirements.lock.new
	rm requirements.lock.in requirements.lock.out
	mv requirements.lock.new requirements.lock

clean: ## remove what the pipeline made
	rm -rf $(filter-out results/h200,$(patsubst %/,%,$(wildcard results/*/ reports/*/))) data .snakemake logs site

distclean: clean ## remove the environment too
	rm -rf $(VENV) $(DOCS)
