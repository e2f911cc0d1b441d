"""pooled_bidirectional_cross_attention: what the unpooled form does not share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import DTYPES, FORCED, check, forward_only, make_inputs, mean_of_the_unpooled, padding, run
from helpers import assert_matches, require
from torch import Tensor

from bdam_kernels import pooled_bidirectional_cross_attention
from bdam_kernels.ops.cross_attention import plan


@FORCED
@DTYPES
@pytest.mark.parametrize("queries", [15, 16])
def test_large_scores_pick_one_key(backend: str, dtype: torch.dtype, queries: int) -> None:
    inputs = make_inputs(1, 1, queries, 16, 16, dtype)
    inputs["q_a"] = (1e4 * torch.eye(16)[:queries][None, None]).to(dtype)
    inputs["k_b"] = torch.eye(16)[None, None].to(dtype)
    if require(backend) in ("triton", "cuda") and dtype == torch.float32:
        # Only the outputs: gradients cancel here, and products in TensorFloat-32 round queries and keys on two ways.
        out_a, _ = forward_only(pooled_bidirectional_cross_attention, inputs, backend)
    else:
        out_a = check(pooled_bidirectional_cross_attention, inputs, backend)["out_a"]
    assert_matches(out_a, inputs["v_b"][:, :, :queries].double().mean(2), "out_a")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_equals_the_mean_of_the_unpooled_form_on_the_same_backend(backend: str, dropout_p: float) -> None:
    inputs = make_inputs(2, 3, 33, 50, 32)
    options = {"backend": require(backend), "dropout_p": dropout_p, "key_padding_mask_b": padding(2, 50)}
    expected = run(mean_of_the_unpooled, inputs, **options)
    for name, value in run(pooled_bidirectional_cross_attention, inputs, **options).items():
        assert_matches(value, expected[name].double(), name)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_the_gradient_of_all_queries_is_one_row_in_memory(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: list[Tensor] = []

    def watch(function: Callable[..., None], *args: Any) -> None:
        if function.__name__ == "cross_attention_backward":
            gradients.extend(args[4])
        launch(function, *args)

    launch = plan.launch
    monkeypatch.setattr(plan, "launch", watch)
    run(pooled_bidirectional_cross_attention, make_inputs(1, 2, 5, 9, 16), backend=require(backend))
    assert [t.shape[2] for t in gradients] == [5, 9]
    assert [t.stride(2) for t in gradients] == [0, 0]


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_means_of_halves_are_taken_in_float32(backend: str) -> None:
    """The sum of these outputs is beyond float16."""
    inputs = make_inputs(1, 1, 100, 7, 16, torch.float16)
    inputs["v_b"] = torch.full_like(inputs["v_b"], 1e3)
    out_a, _ = forward_only(pooled_bidirectional_cross_attention, inputs, require(backend))
    assert_matches(out_a, torch.full((1, 1, 16), 1e3, dtype=torch.float64), "out_a")


def test_heads_merge_without_a_copy() -> None:
    require("cpu")
    inputs = [torch.randn(2, length, 3, 8).requires_grad_().transpose(1, 2) for length in (6, 6, 6, 11, 11, 11)]
    outputs = pooled_bidirectional_cross_attention(*inputs, backend="cpu")
    grads = torch.autograd.grad(outputs, inputs, tuple(map(torch.randn_like, outputs)))
    assert all(t.is_contiguous() for t in outputs)
    assert all(t.transpose(1, 2).is_contiguous() for t in grads)
