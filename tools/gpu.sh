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
#   counters.csv   what the profiler counts in each kernel
#   built.tgz      the native modules and Triton's compiled kernels, for a later run: unpack it here
# With GPU_SECONDS=N all parts together take no longer: those that would begin later are left out, as if out of time.
# With BDAM_CUDA_HOST=1 and TRITON_INTERPRET=1 it rehearses without a GPU, at smallest size.
set -u
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:?usage: tools/gpu.sh OUT [STEP...]}")
shift
STEPS=${*:-build smoke bench tests sanitize counters}
PYTHON=${PYTHON:-python3}
CMAKE_BUILD=build/gpu
OPS="cross_attention selective_scan hsic causal_conv1d"
DTYPES="bf16 f32"
TESTS=$(echo tests/kernels/test_{gpu,packed,selective_scan,hsic_gpu,transforms,cross_attention}.py \
  tests/kernels/test_{cross_attention_forms,pooled_cross_attention,causal_conv1d}.py)
END=$((SECONDS + ${GPU_SECONDS:-1000000}))
PARALLEL="-n 12 --timeout=120"
REHEARSAL=${BDAM_CUDA_HOST:+--small}
if [ -n "$REHEARSAL" ]; then
  OPS="selective_scan hsic" DTYPES="f32" TESTS="tests/kernels/test_gpu.py" PARALLEL=""
fi
export TRITON_CACHE_DIR=$PWD/build/triton PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export BDAM_REQUIRE=triton,cuda
mkdir -p "$OUT" build

# part NAME SECONDS COMMAND...
part() {
  local name=$1 limit=$2 begin=$SECONDS status=124
  shift 2
  [ "$limit" -le "$((END - SECONDS))" ] || limit=$((END - SECONDS))
  echo "=== $name" >>"$OUT/log.txt"
  if [ "$limit" -gt 0 ]; then
    timeout --kill-after=5 "$limit" "$@" >>"$OUT/log.txt" 2>&1
    status=$?
  fi
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
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/bdam_kernels" -DPython_EXECUTABLE="$("$PYTHON" -c 'import sys; print(sys.executable)')" \
    -DBDAM_THIS_MACHINE=ON
  part "build" 150 cmake --build "$CMAKE_BUILD"  # the C++ modules too: their checks of arguments are quicker than Python's
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
  case " $STEPS " in *" build "*) ;; *) smoke triton ;; esac
  smoke cuda
  wait
}

bench() { # NAME SECONDS FILE
  pytest "bench $1" "$2" "benchmarks/$3" $REHEARSAL -k "$1" --results="$OUT/results.json"
}

step_bench() { # what matters most first
  part "device" 20 nvidia-smi
  bench attention 90 test_gpu.py
  bench selective_scan 80 test_gpu.py
  bench "hsic or autograd" 80 test_gpu.py
  bench mamba_layer 40 test_gpu.py
  bench preset_step 80 test_step_gpu.py
  bench "decoding or causal_conv1d" 50 test_gpu.py
}

step_tests() { # Triton compiles for long: CUDA's are not to wait for it
  pytest "tests cuda" 200 -vv $PARALLEL --junitxml="$OUT/cuda.xml" $TESTS \
    -k "(cuda or gpu or mamba or many_rows) and not triton"
  pytest "tests triton" 200 -vv $PARALLEL --junitxml="$OUT/triton.xml" $TESTS -k "triton"
}

step_sanitize() {
  local op tool test
  for op in selective_scan hsic cross_attention packed; do
    test="tests/kernels/test_smoke.py::test_smoke[$op-cuda-bf16]"
    [ "$op" != packed ] || test="tests/kernels/test_packed.py::test_scan_of_many_segments[reverse-cuda]"
    for tool in memcheck racecheck; do
      part_beside part "$tool $op" 100 compute-sanitizer --error-exitcode 9 --tool "$tool" "$PYTHON" -m pytest -q \
        -p no:cacheprovider "$test"
    done
  done
  wait
}

step_counters() {
  part "counters" 90 ncu --clock-control none --csv --log-file "$OUT/counters.csv" \
    --section SpeedOfLight --section Occupancy --section WarpStateStats --section SchedulerStats \
    --section LaunchStats --section InstructionStats --section MemoryWorkloadAnalysis \
    --kernel-name-base demangled --kernel-name regex:bdam "$PYTHON" -m benchmarks.once
}

for step in $STEPS; do "step_$step"; done
tar czf "$OUT/built.tgz" bdam_kernels/_c*.so build/triton 2>/dev/null
grep -hE "^(FAILED|ERROR) |ERROR SUMMARY: [1-9]" "$OUT/log.txt" | sort -u | cut -c1-180 | head -n 30
[ ! -f "$OUT/results.json" ] || "$PYTHON" -m benchmarks.results "$OUT/results.json"
column -t -s "$(printf '\t')" "$OUT/steps.tsv" 2>/dev/null || cat "$OUT/steps.tsv"
