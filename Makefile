# Two commands do everything, from a fresh clone with Python 3.11+ and make, without root:
#   make demo    build the environment, train on the default images, print the per-class table
#   make test    build the environment, run the tests
# Also: make check (lint, format, types), make lock (resolve the pinned versions anew), make clean, and as root
# make testbed (a real SLURM of four nodes on this machine; `python -m tests.slurm.testbed down` ends it).

PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.installed
# deepspeed comes as source: without its compiled kernels no compiler is needed.
export DS_BUILD_OPS := 0

.PHONY: demo test testbed check env lock clean

demo: $(READY)
	$(BIN)/python launch/submit.py --nodes 1 --model resnet18

test: $(READY)
	@echo "== running the tests"
	$(BIN)/python -m pytest

testbed: $(READY)
	$(BIN)/python -m tests.slurm.testbed up --install

check: $(READY)
	@echo "== lint, format, types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); ok or sys.exit(\
	    "clf needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + \
	    ". Name another one: make PYTHON=python3.12 demo")'
	@echo "== building .venv from requirements.lock (once; a few minutes at most)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	    echo "No virtual environment could be made; on Debian: apt-get install python3-venv"; exit 1; }
	@if command -v uv >/dev/null; then uv pip install --python $(BIN)/python -r requirements.lock; \
	elif $(BIN)/python -m pip install --quiet uv; then $(BIN)/uv pip install --python $(BIN)/python -r requirements.lock; \
	else $(BIN)/python -m pip install -r requirements.lock; fi
	@touch $(READY)
	@echo "== .venv is ready; to use it by hand: . .venv/bin/activate"

# torch and torchvision are named because a later torch has no torchvision to go with it.
lock:
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | $(BIN)/uv pip compile pyproject.toml --all-extras --universal \
	    --python-version 3.11 --constraint - --no-emit-index-url --no-header --no-annotate --upgrade -o requirements.lock

clean:
	rm -rf .venv
