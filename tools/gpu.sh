#!/usr/bin/env bash
# Builds, checks and measures all that runs on the GPU at hand, with what is installed there and without a network:
#
#   tools/gpu.sh OUT [STEP...]     steps: build smoke bench tests sanitize counters; all of them, in this order, if none
#
# Each part of a step is a process of its own with a time limit, and none stops the next. OUT gets, as they come:
#   steps.tsv      every part, its exit status (124: out of time) and seconds
#   results.json   the figures of every benchmark, written after each
#   log.txt        what the parts print
#   *.xml          what the tests say, for machines
#   built.tgz      the CUDA module and Triton's compiled kernels, for a later run: unpack it here
# With BDAM_CUDA_HOST=1 and TRITON_INTERPRET=1 it rehearses without a GPU, at smallest size.
set -u
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:?usage: tools/gpu.sh OUT [STEP...]}")
shift
STEPS=${*:-build smoke bench tests sanitize counters}
PYTHON=${PYTHON:-python3}
CMAKE_BUILD=build/gpu
OPS="cross_attention pooled_cross_attention selective_scan hsic causal_conv1d"
DTYPES="bf16 f32"
TESTS=$(echo tests/kernels/test_{gpu,smoke,transforms,selective_scan,cross_attention,cross_attention_forms}.py \
  tests/kernels/test_{pooled_cross_attention,hsic_gpu,causal_conv1d}.py)
PARALLEL="-n 12 --timeout=120"
REHEARSAL=${BDAM_CUDA_HOST:+--small}
if [ -n "$REHEARSAL" ]; then
  OPS="cross_attention selective_scan hsic" DTYPES="f32" TESTS="tests/kernels/test_gpu.py" PARALLEL=""
fi
export TRITON_CACHE_DIR=$PWD/build/triton PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export BDAM_REQUIRE=triton,cuda
mkdir -p "$OUT" build

# part NAME SECONDS COMMAND...
part() {
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  echo "=== $name" >>"$OUT/log.txt"
  timeout --kill-after=5 "$limit" "$@" >>"$OUT/log.txt" 2>&1
  status=$?
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - begin))" >>"$OUT/steps.tsv"
}

# The same in the background, as soon as fewer parts run than there are processors.
part_beside() {
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
  "$@" &
}

pytest() { # NAME SECONDS ARGUMENTS...
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" "$PYTHON" -m pytest -q --tb=short -p no:cacheprovider "$@"
}

compile_cuda() {
  if [ -n "$REHEARSAL" ]; then
    part "build" 600 "$PYTHON" -c "from tests.cuda_host import build; build.build_kernels()"
    return
  fi
  part "configure" 30 cmake -S csrc -B "$CMAKE_BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/bdam_kernels" -DPython_EXECUTABLE="$("$PYTHON" -c 'import sys; print(sys.executable)')"
  part "build" 240 cmake --build "$CMAKE_BUILD" --target _cuda
  part "the CUDA module is there" 5 bash -c 'ls bdam_kernels/_cuda*.so'
}

smoke() { # BACKEND: every operator that it has in a process of its own
  local op dtype
  for op in $OPS; do
    case "$op $1" in "hsic triton" | "causal_conv1d cuda") continue ;; esac
    for dtype in $DTYPES; do
      part_beside pytest "smoke $op $1 $dtype" 90 "tests/kernels/test_smoke.py::test_smoke[$op-$1-$dtype]"
    done
  done
}

step_build() {
  # Triton compiles its kernels meanwhile; but its stand-in would be compiled in every process.
  if [ -n "$REHEARSAL" ]; then compile_cuda; else compile_cuda & fi
  case " $STEPS " in *" smoke "*) smoke triton ;; esac
  wait
}

step_smoke() {
  smoke cuda
  wait
}

step_bench() {
  local op
  part "device" 20 nvidia-smi
  for op in attention selective_scan hsic mamba_layer "decoding or causal_conv1d"; do
    pytest "bench $op" 120 benchmarks/test_gpu.py $REHEARSAL -k "$op" --results="$OUT/results.json"
  done
}

step_tests() {
  pytest "tests" 300 -vv $PARALLEL --junitxml="$OUT/tests.xml" $TESTS -k "cuda or triton or gpu or mamba or many_rows"
}

step_sanitize() {
  local op tool
  for op in cross_attention selective_scan hsic; do
    for tool in memcheck racecheck; do
      part_beside part "$tool $op" 90 compute-sanitizer --tool "$tool" "$PYTHON" -m pytest -q -p no:cacheprovider \
        "tests/kernels/test_smoke.py::test_smoke[$op-cuda-bf16]"
    done
  done
  wait
}

step_counters() {
  local case
  for case in test_cross_attention_gpu[128-12-196-64] test_selective_scan_gpu[64-512-197]; do
    part "counters $case" 60 ncu --clock-control none --section SpeedOfLight --section Occupancy \
      --section WarpStateStats --kernel-name regex:'scan|attention' --launch-count 12 \
      "$PYTHON" -m pytest -q -p no:cacheprovider "benchmarks/test_gpu.py::$case"
  done
}

for step in $STEPS; do "step_$step"; done
tar czf "$OUT/built.tgz" bdam_kernels/_cuda*.so build/triton 2>/dev/null
column -t -s "$(printf '\t')" "$OUT/steps.tsv" 2>/dev/null || cat "$OUT/steps.tsv"
