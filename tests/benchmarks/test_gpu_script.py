"""A rehearsal of tools/gpu.sh without a GPU, in which one part hangs, one crashes and one fails."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require

ROOT = Path(__file__).parents[2]

FAULTY_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *"test_smoke[hsic-cuda-f32]"*) sleep 1000 ;;
  *"-k mamba_layer"*) kill -SEGV $$ ;;
  *"-k decoding"*) echo "a part that fails"; exit 3 ;;
esac
exec {python} "$@"
"""
# What hangs need not do so for as long as anything may take.
SHORTENED_TIMEOUT = """#!/usr/bin/env bash
case "$*" in
  *"test_smoke[hsic-cuda-f32]"*) set -- "$1" 3 "${{@:3}}" ;;
esac
exec {timeout} "$@"
"""


@pytest.mark.skipif(shutil.which("timeout") is None, reason="timeout was not found")
def test_every_other_part_leaves_its_figures(tmp_path: Path) -> None:
    require("cpu")
    pytest.importorskip("triton")
    python, timeout = tmp_path / "python", tmp_path / "timeout"
    python.write_text(FAULTY_PYTHON.format(python=sys.executable))
    timeout.write_text(SHORTENED_TIMEOUT.format(timeout=shutil.which("timeout")))
    python.chmod(0o755)
    timeout.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    rehearsal = {"BDAM_CUDA_HOST": "1", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "PATH": path, "PYTHON": str(python), **rehearsal}
    out = tmp_path / "out"
    subprocess.run([ROOT / "tools" / "gpu.sh", out], env=environment, check=True, stdout=subprocess.DEVNULL)
    parts = {name: int(status) for name, status, _ in csv.reader((out / "steps.tsv").open(), delimiter="\t")}
    log = (out / "log.txt").read_text()
    assert parts.pop("smoke hsic cuda f32") in (124, 137), log
    assert parts.pop("bench mamba_layer") == 139
    assert parts.pop("bench decoding or causal_conv1d") == 3 and "a part that fails" in log
    # Only a GPU has these.
    tools = [name for name in parts if name.split()[0] in ("device", "memcheck", "racecheck", "counters")]
    assert len(tools) == 10
    failed = {name: status for name, status in parts.items() if status and name not in tools}
    assert not failed, log
    rows = {entry["name"]: entry for entry in json.loads((out / "results.json").read_text())["results"]}
    for name, ours in (
        ("test_selective_scan_gpu[64-512-197]", {"cuda", "triton"}),
        ("test_cross_attention_gpu[128-12-196-64]", {"cuda", "triton"}),
        ("test_hsic_gpu[64]", {"cuda"}),
        ("test_autograd_gpu", {"an autograd.Function"}),
        ("test_preset_step_gpu", {"ours"}),
    ):
        assert ours <= {contender for contender, row in rows[name]["contenders"].items() if "train" in row}
    assert not [name for name in rows if "mamba_layer" in name or "decoding" in name]
