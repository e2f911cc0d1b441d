"""Which backend serves a call: what names one, what wins, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from helpers import device_of, require
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from bdam_kernels import BackendUnavailable, backends, causal_conv1d, dispatch, hsic, use_backend

CPU = torch.device("cpu")
UNAVAILABLE = next((name for name, reason in backends().items() if reason), None)


class Operators(TorchDispatchMode):
    """The backends of convolutions as they are called; those of the reference are no operators."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace == "bdam":
            self.found.append(args[-1])
        return func(*args, **(kwargs or {}))


def backend_of(call: Callable[[], Tensor]) -> str:
    with Operators() as operators:
        call()
    return operators.found[0] if operators.found else "reference"


def convolve(backend: str | None = None) -> Tensor:
    return causal_conv1d(torch.ones(1, 2, 3), torch.ones(2, 2), backend=backend)


@pytest.fixture
def cpu() -> str:
    return require("cpu")


def test_the_inner_one_counts_and_the_outer_one_returns(cpu: str) -> None:
    assert backend_of(convolve) == "cpu"
    with use_backend("reference"):
        assert backend_of(convolve) == "reference"
        with use_backend("cpu"):
            assert backend_of(convolve) == "cpu"
        assert backend_of(convolve) == "reference"
    assert backend_of(convolve) == "cpu"


def test_an_error_inside_restores(cpu: str) -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backend_of(convolve) == "cpu"


def test_one_object_can_be_entered_twice(cpu: str) -> None:
    reference = use_backend("reference")
    with reference:
        with reference:
            pass
        assert backend_of(convolve) == "reference"
    assert backend_of(convolve) == "cpu"


def test_threads_that_share_an_object_are_apart(cpu: str) -> None:
    forced, entered, left = use_backend("reference"), threading.Event(), threading.Event()

    def other() -> None:
        with use_backend(cpu), forced:
            entered.set()
            left.wait(10)
            named.append(dispatch.asked(None))
        named.append(dispatch.asked(None))

    named: list[str | None] = []
    thread = threading.Thread(target=other)
    with forced:
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert named == ["reference", None]
    assert dispatch.asked(None) == dispatch._OF_PROCESS


def test_the_argument_wins(cpu: str) -> None:
    with use_backend("reference"):
        assert backend_of(lambda: convolve("cpu")) == "cpu"
    with use_backend("cpu"):
        assert backend_of(lambda: convolve("reference")) == "reference"


def test_it_is_of_the_calling_thread(cpu: str) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(backend_of(convolve)))
    with use_backend("reference"):
        thread.start()
        thread.join()
    assert found == ["cpu"]


def test_backward_keeps_the_backend_of_forward(cpu: str) -> None:
    x = torch.ones(1, 2, 3, requires_grad=True)
    with use_backend("cpu"):
        out = causal_conv1d(x, torch.ones(2, 2))
    with use_backend("reference"):
        assert backend_of(lambda: torch.autograd.grad(out.sum(), x)[0]) == "cpu"


@pytest.mark.parametrize("call", [lambda name: use_backend(name), lambda name: convolve(name)])
def test_unknown_names_are_refused(call: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="backend must be one of reference, cpu, triton, cuda, got 'gpu'"):
        call("gpu")


@pytest.mark.skipif(UNAVAILABLE is None, reason="every backend runs here")
def test_what_cannot_run_is_refused_at_once() -> None:
    assert UNAVAILABLE is not None
    with pytest.raises(BackendUnavailable, match=f"backend '{UNAVAILABLE}' cannot run: ") as refusal:
        use_backend(UNAVAILABLE)
    assert backends()[UNAVAILABLE] in str(refusal.value)


def test_an_operator_without_the_kernel_refuses_when_called(cpu: str) -> None:
    require("triton")
    x = torch.randn(5, 3, device=device_of("triton"))
    with use_backend("triton"), pytest.raises(BackendUnavailable, match="this operator has no such kernel"):
        hsic(x, x)


def test_in_a_compiled_function(cpu: str) -> None:
    def numbered() -> int:
        return {"reference": 1, "cpu": 2}[dispatch.choose(None, CPU, dispatch._every_kernel)]

    def both(x: Tensor) -> Tensor:
        outer = numbered()
        with use_backend("reference"):
            x = x + numbered()
            with use_backend("cpu"):
                x = x + 10 * numbered()
            x = x + 100 * numbered()
        return x + 1000 * numbered() + 10000 * outer

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    x = torch.zeros(())
    assert compiled(x) == both(x) == 22121
    for name, expected in (("reference", 11121), ("cpu", 22121)):
        with use_backend(name):
            assert compiled(x) == expected
    found = []
    thread = threading.Thread(target=lambda: found.append(compiled(x)))
    with use_backend("reference"):
        thread.start()
        thread.join()
    assert found == [22121] and compiled(x) == 22121


@pytest.mark.parametrize("name", [None, "reference", "cpu"])
def test_around_a_compiled_operator(cpu: str, name: str | None) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend=keep)
    x, weight = torch.randn(1, 2, 3), torch.randn(2, 2)
    with nullcontext() if name is None else use_backend(name):
        assert torch.allclose(compiled(x, weight), causal_conv1d(x, weight))
    assert ("causal_conv1d_forward" in graphs[0].code) == (name != "reference")


def test_choices_are_remembered() -> None:
    asked = []

    def rule(states: int) -> dict[str, str]:
        asked.append(states)
        return {"cpu": "" if states < 3 else "it is too many"}

    best = "reference" if backends()["cpu"] else "cpu"
    for _ in range(2):
        assert [dispatch.choose(None, CPU, rule, n) for n in (2, 3)] == [best, "reference"]
    assert asked == [2, 3]
    with pytest.raises(BackendUnavailable, match=r"it is too many|cannot be loaded"):
        dispatch.choose("cpu", CPU, rule, 3)


def test_forward_mode_takes_the_reference() -> None:
    with forward_ad.dual_level():
        assert dispatch.choose(None, CPU, dispatch._every_kernel) == "reference"


def test_best_of_a_device(cpu: str) -> None:
    assert dispatch.best(CPU) == "cpu"
    with use_backend("reference"):
        assert dispatch.best(CPU) == "reference"
    assert dispatch.best(torch.device("meta")) == "reference"
    if torch.cuda.is_available():
        assert dispatch.best(torch.device("cuda")) == next(n for n in ("cuda", "triton") if not backends()[n])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reference", "reference"),
        ("", "cpu"),
        ("gpu", "BDAM_BACKEND must be one of reference, cpu, triton, cuda, got 'gpu'"),
    ],
)
def test_the_environment_names_one_for_the_process(cpu: str, name: str, expected: str) -> None:
    program = (
        "import os, torch\n"
        "from bdam_kernels import dispatch, use_backend\n"
        "os.environ['BDAM_BACKEND'] = 'triton'  # too late\n"
        "try: print(dispatch.best(torch.device('cpu')))\n"
        "except ValueError as error: print(error)\n"
        "with use_backend('cpu'): assert dispatch.best(torch.device('cpu')) == 'cpu'\n"
    )
    environment = {**os.environ, "BDAM_BACKEND": name}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"
