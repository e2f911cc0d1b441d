# `make demo` and `make test` work from a fresh clone: they create .venv, install, compile and do the job.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports by itself: of some 20,000 files a quarter.
INSTALL := $(BIN)/pip install --quiet --no-compile
SOURCES := setup.py pyproject.toml $(wildcard csrc/* csrc/cpu/* csrc/cuda/*)
PERSONS := --identities 4200 --test-identities 100
ALL_CHIPS := sm_80 sm_90 sm_100 sm_120
KERNEL_TESTS := $(addprefix tests/kernels/test_,selective_scan.py causal_conv1d.py packed.py cross_attention_forms.py \
	cross_attention.py pooled_cross_attention.py hsic.py hsic_rbf.py hsic_gpu.py)

.PHONY: demo demo-mta-clip demo-mosaic search test test-suite test-reid test-isas test-triton test-cuda test-chips \
	test-aarch64 aarch64-tools wheels wheel wheel-aarch64 lint bench gpu clean

demo: $(VENV)/base
	test -d data/synthetic || $(BIN)/python -m bdam_reid.synthetic data/synthetic $(PERSONS)
	$(BIN)/python -m bdam_reid.train demo

# After `make demo`: a page that finds the demo's test persons by sentence.
search: $(VENV)/search
	test -f runs/demo/metrics.json || $(MAKE) demo
	$(BIN)/python -m bdam_reid.search test-gallery data/synthetic --output runs/demo-gallery
	$(BIN)/python -m bdam_reid.search index runs/demo runs/demo-gallery/photographs \
		--output runs/demo-gallery/index --table runs/demo-gallery/table.csv
	$(BIN)/python -m bdam_reid.search serve runs/demo-gallery/index

# The other methods, on a small CLIP that is trained first: MTA-CLIP in two domains, MoSAIC-ReID in the first.
demo-mta-clip: models/small-clip data/market-summer-1200 data/market-winter-1200
	$(BIN)/python -m bdam_reid.train mta-clip-demo

demo-mosaic: $(VENV)/dev models/small-clip data/market-summer
	$(BIN)/python -m bdam_reid.train mosaic-demo
	$(BIN)/python -m bdam_reid.studies attributes runs/mosaic-demo

models/small-clip: | $(VENV)/base
	test -d data/synthetic || $(BIN)/python -m bdam_reid.synthetic data/synthetic $(PERSONS)
	$(BIN)/python -m bdam_reid.train small-clip
	$(BIN)/python -m bdam_reid.export runs/small-clip $@ --hub

data/market-summer: | $(VENV)/base
	$(BIN)/python -m bdam_reid.synthetic $@ --layout market --identities 600

data/market-summer-1200: | $(VENV)/base
	$(BIN)/python -m bdam_reid.synthetic $@ --layout market --identities 1200 --test-identities 300

data/market-winter-1200: | $(VENV)/base
	$(BIN)/python -m bdam_reid.synthetic $@ --layout market --identities 1200 --test-identities 300 --domain 1 --seed 1

# Two at a time, what fails soonest and then the longest first, on threads that do not spin as they wait for each other.
test: $(VENV)/dev
	OMP_WAIT_POLICY=passive $(MAKE) --jobs=2 --output-sync=target \
		lint test-suite test-reid test-cuda test-triton test-isas

# Where little is computed at a time, threads wait for each other, in numpy's BLAS by spinning, longer than they work.
test-triton test-reid test-cuda test-isas: export OMP_NUM_THREADS := 1

# Everything but person search, on the best instruction set; each benchmark once at small size.
test-suite: $(VENV)/dev
	$(BIN)/python -m pytest tests --ignore=tests/reid
	$(BIN)/python -m pytest -q benchmarks --small

test-reid: $(VENV)/dev
	$(BIN)/python -m pytest tests/reid

# C++'s kernels on every other instruction set that this processor has, without what is the same on all.
test-isas: $(VENV)/dev
	set -e; for isa in $$($(BIN)/python -c "from bdam_kernels import dispatch; print(*dispatch.usable_isas()[:-1])"); do \
		echo "BDAM_CPU_ISA=$$isa"; BDAM_CPU_ISA=$$isa $(BIN)/python -m pytest -q $(KERNEL_TESTS) \
			-k "not (reference or triton or cuda or compile or opcheck or contracts)"; done

# Triton's kernels in its interpreter; those of single steps have their tests where modules take them.
test-triton: $(VENV)/dev
	BDAM_REQUIRE=triton TRITON_INTERPRET=1 $(BIN)/python -m pytest -q \
		$(KERNEL_TESTS) tests/kernels/test_modules.py tests/kernels/test_compat.py -k "triton or operators_reject"

# CUDA's kernels compiled for the host, the second time with sanitizers.
test-cuda: $(VENV)/dev
	BDAM_REQUIRE=cuda BDAM_CUDA_HOST=1 $(BIN)/python -m pytest -q $(KERNEL_TESTS) -k cuda
	BDAM_REQUIRE=cuda BDAM_CUDA_HOST=sanitized ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest -q $(KERNEL_TESTS) -k "cuda and (layout or launches or strides or time_in)"

# CUDA's and Triton's kernels compiled for every chip that they support: minutes each. The suite does one.
test-chips: $(VENV)/dev
	BDAM_CHIPS="$(ALL_CHIPS)" $(BIN)/python -m pytest tests/kernels/test_cuda_resources.py tests/kernels/test_triton_compile.py

# C++'s kernels for 64-bit ARM in an emulator: minutes to compile, minutes to run.
test-aarch64: export OMP_NUM_THREADS := 1
test-aarch64: aarch64-tools $(VENV)/dev
	$(BIN)/cmake -S tests/cpu_server -B build/aarch64 --toolchain $(CURDIR)/csrc/aarch64.cmake \
		-DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/cmake --build build/aarch64 --target cpu_server --parallel 2
	BDAM_REQUIRE=cpu BDAM_CPU_SERVER="qemu-aarch64-static build/aarch64/cpu_server" $(BIN)/python -m pytest -q \
		$(KERNEL_TESTS) tests/kernels/test_smoke.py tests/kernels/test_hsic_independence.py \
		-k "not (reference or triton or cuda or compile or opcheck or contracts)"

aarch64-tools:
	@command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64-static > /dev/null || \
		{ echo "64-bit ARM needs: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }

# Wheels in dist/ for this Python, and the oldest Linux that auditwheel finds them fit for: one for this processor, tried
# in an environment of its own, and one for 64-bit ARM, made on another machine. OpenMP is torch's own.
wheels: aarch64-tools
	$(MAKE) wheel
	$(MAKE) wheel-aarch64

wheel: export _PYTHON_HOST_PLATFORM := linux-$(shell uname -m)
wheel: $(VENV)/dev
	$(BUILD_WHEEL)
	$(BIN)/python -m venv --clear --without-pip build/wheel
	$(BIN)/pip --python build/wheel install --quiet --no-deps dist/*_$$(uname -m).whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$(echo build/wheel/lib/python*/site-packages)/torch.pth
	cd build/wheel && bin/python -m bdam_kernels && BDAM_REQUIRE=cpu bin/python -m pytest -q -c /dev/null \
		--noconftest -o pythonpath=$(CURDIR)/tests $(CURDIR)/tests/kernels/test_smoke.py -k cpu

wheel-aarch64: export _PYTHON_HOST_PLATFORM := linux-aarch64
wheel-aarch64: export CMAKE_TOOLCHAIN_FILE := $(CURDIR)/csrc/aarch64.cmake
wheel-aarch64: aarch64-tools $(VENV)/dev
	$(BUILD_WHEEL)

wheel wheel-aarch64: export PATH := $(abspath $(BIN)):$(PATH)
wheel wheel-aarch64: export BDAM_STRICT_BUILD := 1
define BUILD_WHEEL
	rm -rf build/lib.$${_PYTHON_HOST_PLATFORM}-* build/wheels dist/*_$${_PYTHON_HOST_PLATFORM#linux-}.whl
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheels .
	$(BIN)/auditwheel repair --exclude libgomp.so.1 --wheel-dir dist build/wheels/*.whl
endef

# On a machine with an NVIDIA GPU, with what is installed there and without a network: builds, checks and measures all
# that runs on the GPU, beside mamba-ssm and causal-conv1d where they are installed.
gpu:
	PYTHON=$(PYTHON) tools/gpu.sh build/gpu-run

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# Measures everything, into the results file of this machine, and writes the tables and figures of all machines anew.
# With SELECT="-k scan" only those benchmarks; the file keeps the others' figures.
bench: $(VENV)/dev
	$(BIN)/python -m pytest -v benchmarks $(SELECT) --results=benchmarks/results/$$($(BIN)/python -m benchmarks.machine)
	$(BIN)/python -m benchmarks.report

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) $(TORCH)
	touch $@

$(VENV)/base: $(VENV)/torch $(SOURCES)
	$(INSTALL) --editable .
	touch $@

$(VENV)/search: $(VENV)/torch $(SOURCES)
	$(INSTALL) --editable ".[search]"
	touch $@ $(VENV)/base

$(VENV)/dev: $(VENV)/torch $(SOURCES)
	$(INSTALL) --editable ".[dev]"
	touch $@ $(VENV)/base $(VENV)/search

clean:
	rm -rf $(VENV) build dist *.egg-info bdam_kernels/*.so
