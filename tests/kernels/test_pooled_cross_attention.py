"""pooled_bidirectional_cross_attention: what the unpooled form does not share."""

from __future__ import annotations

import pytest
import torch
from attention_cases import DTYPES, FORCED, check, forward_only, make_inputs, mean_of_the_unpooled, padding, run
from combinations import fewer
from helpers import assert_matches, require

from bdam_kernels import pooled_bidirectional_cross_attention


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


@FORCED
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_equals_the_mean_of_the_unpooled_form_on_the_same_backend(backend: str, dropout_p: float) -> None:
    batch = fewer(require(backend), 2)
    inputs = make_inputs(batch, fewer(backend, 3), 33, 50, 32)
    options = {"backend": backend, "dropout_p": dropout_p, "key_padding_mask_b": padding(batch, 50)}
    expected = run(mean_of_the_unpooled, inputs, **options)
    for name, value in run(pooled_bidirectional_cross_attention, inputs, **options).items():
        assert_matches(value, expected[name].double(), name)


def test_heads_merge_without_a_copy() -> None:
    require("cpu")
    inputs = [torch.randn(2, length, 3, 8).requires_grad_().transpose(1, 2) for length in (6, 6, 6, 11, 11, 11)]
    outputs = pooled_bidirectional_cross_attention(*inputs, backend="cpu")
    grads = torch.autograd.grad(outputs, inputs, tuple(map(torch.randn_like, outputs)))
    assert all(t.is_contiguous() for t in outputs)
    assert all(t.transpose(1, 2).is_contiguous() for t in grads)
