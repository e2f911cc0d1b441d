# `make demo` and `make test` work from a fresh clone: they create .venv, install, compile and do the job.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard csrc/* csrc/cpu/* csrc/cuda/*)
KERNEL_TESTS := $(addprefix tests/test_,selective_scan.py causal_conv1d.py cross_attention.py hsic.py)

.PHONY: demo test lint bench clean

demo: $(VENV)/base
	test -d data/synthetic || $(BIN)/python -m bdam_reid.data.synthetic data/synthetic --identities 800 --seed 0
	$(BIN)/python -m bdam_reid.train demo
	$(BIN)/python -m bdam_reid.evaluate runs/demo

# The whole suite on the best instruction set, then the kernels on every other one that this processor has.
test: lint
	$(BIN)/python -m pytest tests
	set -e; for isa in $$($(BIN)/python -c "from bdam_kernels import backend; print(*backend.usable_isas()[:-1])"); do \
		echo "BDAM_CPU_ISA=$$isa"; BDAM_CPU_ISA=$$isa $(BIN)/python -m pytest -q $(KERNEL_TESTS); done

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m pytest benchmarks

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	touch $@

$(VENV)/base: $(VENV)/torch $(SOURCES)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/dev: $(VENV)/torch $(SOURCES)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/base

clean:
	rm -rf $(VENV) build *.egg-info bdam_kernels/*.so
