"""Signals: a run saves and leaves, and the run that goes on ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import arguments

from bdam_reid.engine.checkpoint import load_state, load_weights
from bdam_reid.engine.errors import user_errors
from bdam_reid.engine.signals import handled_by
from bdam_reid.engine.trainer import Trainer
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.train import main


@pytest.fixture(autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """Here and in processes that are started, which `nohup` and background jobs of scripts would have ignore some."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def after(method: Callable[..., Any], calls: int, number: int) -> Callable[..., Any]:
    """`method`, within whose call of that number a signal comes."""
    left = [calls]

    def wrapper(*inputs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return method(*inputs)

    return wrapper


def interrupted(command: list[str], number: int, capfd: pytest.CaptureFixture[str]) -> str:
    """What a command says that a signal must end."""
    with pytest.raises(SystemExit) as stop:
        main(command)
    output = capfd.readouterr()
    assert stop.value.code == 128 + number
    assert "Traceback" not in output.err
    assert f"interrupted by {signal.Signals(number).name}: give the same command again to go on" in output.err
    return output.out + output.err


def test_signals_save_and_leave_and_the_run_ends_with_the_same_bits(
    people: Path, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a step, in the last step of an epoch, in validation."""
    run = tmp_path / "run"
    command = arguments(people, run, "--engine.save-every", "0")
    for number, owner, name, calls, place in [
        (signal.SIGTERM, Trainer, "step", 2, (0, 2)),
        (signal.SIGHUP, Trainer, "step", 2, (0, 4)),
        (signal.SIGINT, Embedder, "rank", 3, (1, 4)),  # each validation ranks for two protocols
        (signal.SIGTERM, Embedder, "rank", 1, (1, 4)),
    ]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, name, after(getattr(owner, name), calls, number))
            said = interrupted(command, number, capfd)
        assert f"interrupted and saved at step {4 * place[0] + place[1]}/12" in said
        progress = load_state(run / "last")["progress"]
        assert (progress["epoch"], progress["batch"]) == place
    main(command)
    for name in ("last", "best"):
        expected, got = load_weights(finished / name), load_weights(run / name)
        assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert load_state(run / "last")["progress"] == load_state(finished / "last")["progress"]
    assert (run / "metrics.json").read_text() == (finished / "metrics.json").read_text()


def test_a_signal_during_the_start_leaves_no_folder(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trainer, "_begin_stage", after(Trainer._begin_stage, 1, signal.SIGTERM))
    interrupted(arguments(people, tmp_path / "run"), signal.SIGTERM, capfd)
    assert not (tmp_path / "run").exists()


def run_python(code: str, *numbers: int) -> subprocess.CompletedProcess[str]:
    """Run a program, and send it a signal for each line "ready" that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None and process.stderr is not None
    for number in numbers:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_second_signal_ends_the_process_at_once() -> None:
    code = """
import time
from bdam_reid.engine.signals import Interruption, handled_by
with handled_by(Interruption()):
    print("ready", flush=True)
    time.sleep(0.5)
    print("ready", flush=True)
    time.sleep(60)
"""
    done = run_python(code, signal.SIGTERM, signal.SIGINT)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.split("\n\n") == [
        "\nSIGTERM: saving, then leaving; one more signal ends the process at once",
        "interrupted by SIGINT\n",
    ]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_signal_during_imports_is_one_line(command: str) -> None:
    """At the first module that the command imports after its arguments."""
    code = f"""
import builtins, sys, time
from bdam_reid.{command} import main
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "bdam_reid.engine.errors":
            print("ready", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Finder())
main(["demo"])
"""
    done = run_python(code, signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted by SIGINT\n")


def test_ignored_signals_stay_ignored() -> None:
    """As `nohup` and background jobs of scripts want it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled_by(lambda *_: 1 / 0):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_one_message(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, user_errors("--batch-size"):
        raise error
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: the device has too little memory: lower --batch-size\n"


def test_too_much_for_the_memory_of_the_cpu_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), user_errors():
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "lower --data.identities-per-batch" in capsys.readouterr().err


def test_a_process_that_is_lost_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), user_errors():
        raise torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0")
    assert capsys.readouterr().err == "error: another process of this run has ended: see what it says\n"


def test_other_errors_of_a_program_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="a fault"), user_errors():
        raise RuntimeError("a fault")
