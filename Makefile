# Everything that a fresh clone needs stands behind a target; `make bench` and `make test` do all the set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
# Wheels that would replace torch by another build of it: without their dependencies.
MODELS := torchvision==0.28.0 timm==1.0.31 transformers==5.23.0

.PHONY: bench bench-full test test-seeds test-slow test-ptx test-all lint docs kernels wheel clean

# `make bench FULL=1` adds every adaptation method on every stream, on the same networks.
bench: $(STAMP)
	$(BIN)/qact bench $(if $(FULL),--full) --out runs/digits

bench-full: FULL := 1
bench-full: bench

# Two processes of one thread each: more threads than cores wait for each other, spinning.
test: lint $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# `make test-seeds OFFSET=3 THREADS=4 ROOMS=tests/taps`: 3 is added to every seed.
test-seeds: $(STAMP)
	OMP_NUM_THREADS=$(or $(THREADS),1) $(BIN)/python -m pytest -n 2 --seed-offset $(OFFSET) $(or $(ROOMS),tests)

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not exhaustive" tests

# The GPU's kernels as they are compiled for a card of this capability, run here lane by lane.
test-ptx: $(STAMP)
	QACT_PTX=$(or $(SM),90) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/kernels/test_triton.py

test-all: lint $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The installation has lowered the CPU's kernels; after an edit of one Numba compiles them, until this.
kernels: $(STAMP)
	$(BIN)/python -m qact.kernels.cpu.lower

wheel: $(STAMP)
	QACT_LOWER=all $(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

$(STAMP): pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -e ".[bench]"
	$(BIN)/python -m pip install --quiet --no-deps $(MODELS)
	touch $@

# Corruptions' passes are kept by the date of their own file, not of those that they inline from.
clean:
	find src \( -name '*.nb[ci]' -o -path '*/__pycache__/*.o' \) -delete
	rm -rf src/qact/kernels/cpu/lowered*
	rm -rf $(VENV) site runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
