# Two commands do everything, from a fresh clone with Python 3.11+ and make, without root:
#   make demo    build the environment, train on the default images, print the per-class table
#   make test    build the environment, run the tests
# Also: make docs (README and docs/ as a searchable site in site/); make check (lint, format, types, links of the
# docs); make test-oldest (the fast tests with the lowest versions that pyproject.toml allows); make lock (resolve
# the pinned versions again); make clean; and as root make testbed (a real SLURM of four nodes on this machine;
# `python -m tests.slurm.testbed down` ends it), or make chaos FAULTS=200 SEED=7 (disturbs runs at random instants).

PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.installed
# Optional: decodes no more of a JPEG than a crop needs. It takes gcc and the header of libjpeg-turbo.
REGION := clf/data/jpeg_region.so
# The lowest versions have no wheels for newer Pythons.
OLDEST_PYTHON ?= python3.11
OLDEST := .venv-oldest
# Not among the fast tests: those that start a SLURM, the commands or a browser, and those that train for minutes.
SLOW := tests/slurm tests/launch tests/docs tests/chaos tests/test_extending.py tests/test_end_to_end.py tests/test_golden.py tests/test_ranks.py tests/test_strategies.py
# Two processes share the tests: many of them wait, for SLURM or for one another.
SHARED := -n 2 --no-loadscope-reorder
FAULTS ?= 200
SLURM_FAULTS ?= 0
SEED ?= 0
# deepspeed comes as source: without its compiled kernels no compiler is needed.
export DS_BUILD_OPS := 0

.PHONY: demo test test-oldest chaos testbed check docs env lock clean

demo: env
	$(BIN)/python launch/submit.py --nodes 1 --model resnet18

test: env
	@echo "== running the tests"
	$(BIN)/python -m pytest $(SHARED)

test-oldest: $(OLDEST)/.installed
	@echo "== running the fast tests with the lowest versions that pyproject.toml allows"
	$(OLDEST)/bin/python -m pytest $(SHARED) $(SLOW:%=--ignore=%)

chaos: env
	$(BIN)/python -m tests.chaos --faults $(FAULTS) --slurm-faults $(SLURM_FAULTS) --seed $(SEED)

testbed: $(READY)
	$(BIN)/python -m tests.slurm.testbed up --install

check: $(READY) docs
	@echo "== lint, format, types, Dockerfile"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# A link that leads nowhere is an error (but not with --quiet). The variable silences a note on MkDocs' successors.
docs: $(READY)
	@echo "== the docs as a site"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -f docs/site/mkdocs.yml
	@echo "site/index.html is its first page; it needs no server and no network"

env: $(READY) $(REGION)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); ok or sys.exit(\
	    "clf needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + \
	    ". Name another one: make PYTHON=python3.12 demo")'
	@echo "== building .venv from requirements.lock (once; a few minutes at most)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	    echo "No virtual environment could be made; on Debian: apt-get install python3-venv"; exit 1; }
	@if command -v uv >/dev/null; then uv pip install --compile-bytecode --python $(BIN)/python -r requirements.lock; \
	elif $(BIN)/python -m pip install --quiet uv; then $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r requirements.lock; \
	else $(BIN)/python -m pip install -r requirements.lock; fi
	@touch $(READY)
	@echo "== .venv is ready; to use it by hand: . .venv/bin/activate"

$(REGION): clf/data/jpeg_region.c clf/data/jpeg_huffman.h | $(READY)
	@$(BIN)/python -m clf.data.jpeg_build

# From nothing each time: a version that is installed already would be kept, though it is not the lowest.
$(OLDEST)/.installed: pyproject.toml | $(READY)
	@$(OLDEST_PYTHON) -c 'import sys; ok = sys.version_info[:2] == (3, 11); ok or sys.exit(1)' || { \
	    echo "make test-oldest needs Python 3.11; name one: make OLDEST_PYTHON=/path/to/python3.11 test-oldest"; exit 1; }
	@echo "== building $(OLDEST) from the lower bounds of pyproject.toml (once; a few minutes at most)"
	@rm -rf $(OLDEST)
	@$(OLDEST_PYTHON) -m venv $(OLDEST)
	@if command -v uv >/dev/null; then uv=uv; else uv=$(BIN)/uv; fi; \
	$$uv pip install --compile-bytecode --python $(OLDEST)/bin/python --resolution lowest-direct -r pyproject.toml --extra jersey --extra timm --extra duplicates --extra safetensors --extra parquet --extra label_errors --extra dashboard --extra test
	@touch $@

# torch and torchvision are named because a later torch has no torchvision to go with it. Every extra but `bench`.
EXTRAS = $(shell sed -n '/^.project.optional-dependencies/,/^.build-system/s/^\([a-z_]*\) = .*/\1/p' pyproject.toml)
lock:
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | $(BIN)/uv pip compile pyproject.toml $(patsubst %,--extra %,$(filter-out bench,$(EXTRAS))) --universal \
	    --python-version 3.11 --constraint - --no-emit-index-url --no-header --no-annotate --upgrade -o requirements.lock

clean:
	rm -rf .venv $(OLDEST) site
