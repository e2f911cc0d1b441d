"""Every operator under everything that PyTorch does to functions: right, or an error that says what to do instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import assert_matches, require
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from bdam_kernels import (
    BackendUnavailable,
    BidirectionalCrossAttention,
    Mamba,
    bidirectional_cross_attention,
    causal_conv1d,
    cka_matrix,
    hsic,
    pooled_bidirectional_cross_attention,
    selective_scan,
)

Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]
MASK = torch.tensor([[False, False, True, False, True]])
SEQUENCES = torch.tensor([[0, 0, 1, 1, 1]])


class Op(NamedTuple):
    """function(*inputs, **options) of tensors of these shapes."""

    function: Function
    shapes: tuple[tuple[int, ...], ...]
    has_backends: bool = True


def scan(*inputs: Tensor, **options: Any) -> Outputs:
    u, delta, A, *others = inputs
    options |= {"delta_softplus": True, "return_last_state": True}
    return selective_scan(u, delta, -A.exp(), *others, **options)


def conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, **options: Any) -> Outputs:
    return causal_conv1d(x, weight, bias, "silu", initial_state=state, return_final_state=True, **options)


def packed_scan(*inputs: Tensor, seq_idx: Tensor = SEQUENCES, **options: Any) -> Outputs:
    return scan(*inputs, seq_idx=seq_idx, **options)


def packed_conv(*inputs: Tensor, seq_idx: Tensor = SEQUENCES, **options: Any) -> Outputs:
    return conv(*inputs, seq_idx=seq_idx, **options)


def attention(*inputs: Tensor, **options: Any) -> Outputs:
    return bidirectional_cross_attention(*inputs, key_padding_mask_b=MASK, **options)


def pooled(*inputs: Tensor, **options: Any) -> Outputs:
    return pooled_bidirectional_cross_attention(*inputs, key_padding_mask_b=MASK, **options)


def linear_hsic(x: Tensor, y: Tensor, **options: Any) -> Outputs:
    return (hsic(x, y, **options),)


def gaussian_hsic(x: Tensor, y: Tensor, **options: Any) -> Outputs:
    return (hsic(x, y, kernel="rbf", sigma=2.0, **options),)


def cka(x: Tensor, y: Tensor) -> Outputs:
    return (cka_matrix([x, y], [y]),)


with torch.random.fork_rng():
    torch.manual_seed(0)  # which nobody does for modules that are imported
    MAMBA = Mamba(6, d_state=3).requires_grad_(False)
    FUSION = BidirectionalCrossAttention(8, 2).requires_grad_(False)
POOLED_FUSION = copy.deepcopy(FUSION)
POOLED_FUSION.forward = POOLED_FUSION.pooled


def mamba(x: Tensor) -> Outputs:
    return (of_layer(MAMBA, x)(x),)


def fusion(a: Tensor, b: Tensor) -> Outputs:
    return of_layer(FUSION, a)(a, b)


def pooled_fusion(a: Tensor, b: Tensor) -> Outputs:
    return of_layer(POOLED_FUSION, a)(a, b)


def of_layer(layer: torch.nn.Module, like: Tensor) -> Callable[..., Any]:
    """The layer with its parameters in a tensor's dtype, as a function; they get no gradients."""
    parameters = {name: p.to(like.dtype) for name, p in layer.named_parameters()}
    return lambda *inputs: torch.func.functional_call(layer, parameters, inputs)


B, D, N, L, W = 1, 2, 3, 5, 3
STREAMS = ((B, 2, 4, 8),) * 3 + ((B, 2, L, 8),) * 3
OPS = {
    "scan": Op(scan, ((B, D, L), (B, D, L), (D, N), (B, N, L), (B, 1, N, L), (D,), (B, D, L), (D,))),
    "constant scan": Op(scan, ((B, D, L), (B, D, L), (D, N), (D, N), (B, N, L))),
    "conv": Op(conv, ((B, D, L), (D, W), (D,), (B, D, W - 1))),
    "packed scan": Op(packed_scan, ((B, D, L), (B, D, L), (D, N), (B, N, L), (B, 1, N, L), (D,), (B, D, L), (D,))),
    "packed conv": Op(packed_conv, ((B, D, L), (D, W), (D,), (B, D, W - 1))),
    "attention": Op(attention, STREAMS),
    "pooled attention": Op(pooled, STREAMS),
    "linear hsic": Op(linear_hsic, ((6, 9), (6, 8))),
    "linear hsic of narrow features": Op(linear_hsic, ((9, 3), (9, 4))),
    "gaussian hsic": Op(gaussian_hsic, ((6, 3), (6, 4))),
    "cka": Op(cka, ((6, 3), (6, 4)), has_backends=False),
    "mamba": Op(mamba, ((B, L, 6),), has_backends=False),
    "fusion": Op(fusion, ((B, 4, 8), (B, L, 8)), has_backends=False),
    "pooled fusion": Op(pooled_fusion, ((B, 4, 8), (B, L, 8)), has_backends=False),
}


def loss(outputs: Outputs) -> Tensor:
    """A scalar that depends on every output, and not symmetrically."""
    return sum((o * torch.linspace(0.5, 1.5, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outputs)


def leaves(inputs: Outputs) -> Outputs:
    return tuple(t.detach().requires_grad_() for t in inputs)


def with_gradients(function: Function, inputs: Outputs) -> Outputs:
    inputs = leaves(inputs)
    outputs = function(*inputs)
    return (*outputs, *torch.autograd.grad(loss(outputs), inputs))


def everywhere(function: Function) -> Function:
    """Its gradient by every input, of torch.func."""
    return lambda *inputs: torch.func.grad(lambda *inputs: loss(function(*inputs)), argnums=tuple(range(len(inputs))))(
        *inputs
    )


def double_backward(function: Function, inputs: Outputs) -> Outputs:
    inputs = leaves(inputs)
    first = torch.autograd.grad(loss(function(*inputs)).sin(), inputs, create_graph=True)
    return (*first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs))


def batched_gradients(function: Function, inputs: Outputs) -> Outputs:
    inputs = leaves(inputs)
    outputs = function(*inputs)
    both = [torch.stack([torch.ones_like(o), o.detach().cos()]) for o in outputs]
    return torch.autograd.grad(outputs, inputs, both, is_grads_batched=True)


def tangents(inputs: Outputs) -> Outputs:
    return tuple(t.cos() for t in inputs)


def dual_numbers(function: Function, inputs: Outputs) -> Outputs:
    with forward_ad.dual_level():
        outputs = function(*map(forward_ad.make_dual, inputs, tangents(inputs)))
        return tuple(part for o in outputs for part in forward_ad.unpack_dual(o))


def twice(inputs: Outputs) -> Outputs:
    """A batch of two, the inputs and others."""
    return tuple(torch.stack([t, others]) for t, others in zip(inputs, another(inputs), strict=True))


def another(inputs: Outputs) -> Outputs:
    return tuple((t + 0.5).sin() for t in inputs)


def of_first(function: Function, inputs: Outputs) -> Callable[[Tensor], Tensor]:
    """The first output as a function of the first input."""
    return lambda first: function(first, *inputs[1:])[0]


def saved_elsewhere(function: Function, inputs: Outputs) -> Outputs:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
        return with_gradients(function, inputs)


def reentrant_checkpoint(function: Function, inputs: Outputs) -> Outputs:
    inputs = leaves(inputs)
    loss(checkpoint(function, *inputs, use_reentrant=True)).backward()
    return tuple(t.grad for t in inputs)


def deterministic(function: Function, inputs: Outputs) -> Outputs:
    torch.use_deterministic_algorithms(True)
    try:
        return with_gradients(function, inputs)
    finally:
        torch.use_deterministic_algorithms(False)


def in_inference(function: Function, inputs: Outputs) -> Outputs:
    with torch.inference_mode():
        return tuple(o.clone() for o in function(*inputs))


class Subclass(Tensor):
    """Does nothing of its own, but whoever reads memory behind torch's back would not see what it did."""


class Wrapper(Tensor):
    """A tensor whose elements are those of another one."""

    @staticmethod
    def __new__(cls, elements: Tensor) -> Wrapper:
        wrapper = Tensor._make_wrapper_subclass(cls, elements.shape, dtype=elements.dtype, strides=elements.stride())
        wrapper.elements = elements
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        args, kwargs = tree_map(lambda t: t.elements if isinstance(t, cls) else t, (args, kwargs or {}))
        return tree_map(lambda t: cls(t) if isinstance(t, Tensor) else t, function(*args, **kwargs))


def as_wrappers(function: Function, inputs: Outputs) -> Outputs:
    return tuple(o.elements if isinstance(o, Wrapper) else o for o in function(*map(Wrapper, inputs)))


TRANSFORMS: dict[str, Callable[[Function, Outputs], Any]] = {
    "autograd": with_gradients,
    "checkpoint": lambda f, x: with_gradients(lambda *x: checkpoint(f, *x, use_reentrant=False), x),
    "reentrant checkpoint": reentrant_checkpoint,
    "saved tensors' hooks": saved_elsewhere,
    "double backward": double_backward,
    "batched gradients": batched_gradients,
    "func.grad": lambda f, x: everywhere(f)(*x),
    "func.grad of grad": lambda f, x: everywhere(everywhere(f))(*x),
    "func.vjp": lambda f, x: torch.func.vjp(f, *x)[1](tuple(map(torch.cos, f(*x)))),
    "vmap": lambda f, x: torch.func.vmap(f)(*twice(x)),
    "vmap over the first input": lambda f, x: torch.func.vmap(f, (0,) + (None,) * (len(x) - 1))(twice(x)[0], *x[1:]),
    "vmap of vmap": lambda f, x: torch.func.vmap(torch.func.vmap(f))(*twice(twice(x))),
    "gradients through vmap": lambda f, x: with_gradients(torch.func.vmap(f), twice(x)),
    "vmap of func.grad": lambda f, x: torch.func.vmap(everywhere(f))(*twice(x)),
    "func.grad of vmap": lambda f, x: everywhere(torch.func.vmap(f))(*twice(x)),
    "func.jacrev": lambda f, x: (torch.func.jacrev(of_first(f, x))(x[0]),),
    "func.jvp": lambda f, x: sum(torch.func.jvp(f, x, tangents(x)), ()),
    "func.jacfwd": lambda f, x: (torch.func.jacfwd(of_first(f, x))(x[0]),),
    "func.hessian": lambda f, x: (torch.func.hessian(lambda first: of_first(f, x)(first).sum())(x[0]),),
    "forward-mode AD": dual_numbers,
    "make_fx": lambda f, x: make_fx(f)(*x)(*another(x)),
    "make_fx of gradients": lambda f, x: make_fx(everywhere(f))(*x)(*another(x)),
    "make_fx of fakes": lambda f, x: make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True)(*x)(*another(x)),
    "make_fx before dispatch": lambda f, x: make_fx(f, pre_dispatch=True)(*x)(*another(x)),
    "jit.trace": lambda f, x: torch.jit.trace(f, x, check_trace=False)(*another(x)),
    "subclasses": lambda f, x: with_gradients(f, tuple(t.as_subclass(Subclass) for t in x)),
    "wrappers": as_wrappers,
    "parameters": lambda f, x: f(*map(torch.nn.Parameter, x)),
    "lazy negation": lambda f, x: f(*(torch._neg_view(-t) for t in x)),
    "inference mode": in_inference,
    "deterministic algorithms": deterministic,
}
"""Each takes a function and its inputs and returns tensors."""


# torch.func.functional_call refuses to be traced.
CASES = [
    (name, transform) for name, op in OPS.items() for transform in TRANSFORMS
    if transform != "jit.trace" or op.function not in (mamba, fusion, pooled_fusion)
]  # fmt: skip


def transformed(transform: str, op: Op, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    inputs = tuple(torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(op.shapes))
    results = TRANSFORMS[transform](
        lambda *tensors: op.function(*tensors, **options), tuple(t.to(dtype) for t in inputs)
    )
    return [t.detach() for t in torch.utils._pytree.tree_leaves(results)]


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("name", "transform"), CASES)
def test_transform(name: str, transform: str) -> None:
    require("cpu")
    op = OPS[name]
    actual = transformed(transform, op, torch.float32)
    expected = transformed(transform, op, torch.float64, **({"backend": "reference"} if op.has_backends else {}))
    assert len(actual) == len(expected) > 0
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == torch.float32
        assert_matches(a.as_subclass(Tensor), e.as_subclass(Tensor), f"result {i}")


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.has_backends])
def test_functionalize_raises(name: str) -> None:
    require("cpu")
    op = OPS[name]
    with pytest.raises(RuntimeError, match="Functionalize rule for custom_function_call"):
        torch.func.functionalize(op.function)(*map(torch.zeros, op.shapes))


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.has_backends])
def test_a_named_backend_refuses_forward_mode(name: str) -> None:
    require("cpu")
    op = OPS[name]
    inputs = tuple(map(torch.zeros, op.shapes))
    with pytest.raises(BackendUnavailable, match="forward-mode"):
        torch.func.jvp(lambda *x: op.function(*x, backend="cpu"), inputs, inputs)


def rounded(op: Op) -> Outputs:
    """Inputs that bfloat16 has exactly."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator).bfloat16().float() for shape in op.shapes)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.has_backends])
def test_autocast(name: str) -> None:
    """Backward is outside of autocast, as in training loops."""
    require("cpu")
    op = OPS[name]
    inputs = leaves(rounded(op))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = op.function(*inputs)
    actual = (*outputs, *torch.autograd.grad(loss(outputs), inputs))
    wide = tuple(t.double() for t in rounded(op))
    expected = with_gradients(lambda *x: op.function(*x, backend="reference"), wide)
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_matches(a, e, f"result {i}", torch.bfloat16)


DROPOUT = {"attention": attention, "pooled attention": pooled}


def dropping(name: str) -> Function:
    return lambda *inputs: DROPOUT[name](*inputs, dropout_p=0.5)


def streams() -> Outputs:
    return rounded(OPS["attention"])


@pytest.mark.parametrize("transform", ["checkpoint", "func.grad", "saved tensors' hooks"])
@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_drops_the_same_in_backward(name: str, transform: str) -> None:
    require("cpu")
    torch.manual_seed(3)
    gradients = TRANSFORMS[transform](dropping(name), streams())[-6:]
    torch.manual_seed(3)
    expected = with_gradients(
        lambda *x: DROPOUT[name](*x, dropout_p=0.5, backend="reference"), tuple(t.double() for t in streams())
    )[-6:]
    for i, (a, e) in enumerate(zip(gradients, expected, strict=True)):
        assert_matches(a, e, f"gradient {i}")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_under_vmap(name: str) -> None:
    require("cpu")
    batch = tuple(torch.stack([t, t]) for t in streams())
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(dropping(name))(*batch)
    for randomness in ("same", "different"):
        for out in torch.func.vmap(dropping(name), randomness=randomness)(*batch):
            assert torch.equal(out[0], out[1]) == (randomness == "same")


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_is_not_captured(name: str) -> None:
    """A graph would keep the seed, and drop the same weights at every replay."""
    if not torch.cuda.is_available():
        pytest.skip("a CUDA graph needs a GPU")
    inputs = tuple(t.cuda() for t in streams())
    form = {"attention": bidirectional_cross_attention, "pooled attention": pooled_bidirectional_cross_attention}[name]
    form(*inputs, dropout_p=0.5)
    with pytest.raises(RuntimeError, match="capture with dropout_p = 0"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        form(*inputs, dropout_p=0.5)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.has_backends])
def test_graph_capture(name: str) -> None:
    """What is replayed on other inputs is what a call gives."""
    if not torch.cuda.is_available():
        pytest.skip("a CUDA graph needs a GPU")
    op = OPS[name]
    options = {"key_padding_mask_b": MASK.cuda()} if name in DROPOUT else {}
    if name.startswith("packed"):
        options = {"seq_idx": SEQUENCES.cuda()}
    function = {"attention": bidirectional_cross_attention, "pooled attention": pooled_bidirectional_cross_attention}
    call: Function = lambda *x: function.get(name, op.function)(*x, **options)  # noqa: E731
    inputs = tuple(t.cuda() for t in rounded(op))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(*inputs)
    for t, value in zip(inputs, another(inputs), strict=True):
        t.copy_(value)
    graph.replay()
    for a, e in zip(captured, call(*inputs), strict=True):
        assert torch.equal(a, e)
