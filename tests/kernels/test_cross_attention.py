"""bidirectional_cross_attention: what the pooled form does not share, and dropout's random bits."""

from __future__ import annotations

import pytest
import torch
from attention_cases import DTYPES, FORCED, check, forward_only, make_inputs, on_device, padding
from helpers import device_of, require
from torch import Tensor

from bdam_kernels import bidirectional_cross_attention
from bdam_kernels.ops.cross_attention import reference


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@DTYPES
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_many_heads(backend: str, dtype: torch.dtype, dropout_p: float) -> None:
    """CUDA's backward keeps heads whole where they are many, whatever their length."""
    inputs, mask = make_inputs(1, 65, 97, 20, 32, dtype), padding(1, 97)
    check(bidirectional_cross_attention, inputs, require(backend), key_padding_mask_a=mask, dropout_p=dropout_p)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_blocks_with_several_rounds(backend: str) -> None:
    """CUDA's forward loads keys once for many queries where there are blocks enough."""
    check(bidirectional_cross_attention, make_inputs(1, 700, 65, 5, 32, torch.bfloat16), require(backend))


@pytest.mark.parametrize("warpgroups", ["1", "0"], ids=["Hopper", "older"])
@pytest.mark.parametrize(
    ("shape", "dtype", "masked"),
    [
        ((1, 2, 196, 77, 64), torch.bfloat16, True),
        ((1, 20, 65, 113, 40), torch.bfloat16, False),
        ((1, 1, 290, 49, 64), torch.float16, True),
    ],
    ids=["resident", "rounds", "streamed"],
)
def test_warpgroups(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    masked: bool,
    warpgroups: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA's kernels for Hopper, and on the host also those that older chips have in their place."""
    backend = require("cuda")
    if warpgroups == "0" and device_of(backend).type == "cuda":
        pytest.skip("a GPU has its own kernels")
    monkeypatch.setenv("BDAM_CUDA_HOST_WARPGROUPS", warpgroups)
    masks = {f"key_padding_mask_{name}": padding(1, length) for name, length in zip("ab", shape[2:4], strict=True)}
    check(bidirectional_cross_attention, make_inputs(*shape, dtype), backend, **(masks if masked else {}))


@FORCED
@DTYPES
@pytest.mark.parametrize("queries", [15, 16])
def test_large_scores_pick_one_key(backend: str, dtype: torch.dtype, queries: int) -> None:
    inputs = make_inputs(1, 1, queries, 16, 16, dtype)
    inputs["q_a"] = (1e4 * torch.eye(16).flip(0)[None, None, :queries]).to(dtype)
    inputs["k_b"] = torch.eye(16)[None, None].to(dtype)
    if backend in ("triton", "cuda") and dtype == torch.float32:
        # Only the outputs: what backward subtracts from a gradient, which cancels here, is rounded on another way.
        out_a, _ = forward_only(bidirectional_cross_attention, inputs, require(backend))
    else:
        out_a = check(bidirectional_cross_attention, inputs, require(backend))["out_a"]
    # Three products in TensorFloat-32 are not all of a product in float32; Triton's interpreter takes one in float32.
    if (backend != "cuda" and device_of(backend).type == "cpu") or dtype != torch.float32:
        assert torch.equal(out_a, inputs["v_b"].flip(2)[:, :, :queries])


@FORCED
def test_nan_stays_in_its_query(backend: str) -> None:
    inputs = make_inputs(1, 3, 9, 20, 32)
    inputs["q_a"][0, 1, 4] = torch.nan
    out, _ = forward_only(bidirectional_cross_attention, inputs, require(backend))
    isnan = torch.zeros_like(out, dtype=torch.bool)
    isnan[0, 1, 4] = True
    assert torch.equal(out.isnan(), isnan)


def test_philox_known_answers() -> None:
    """The published vectors of Random123 for Philox-4x32-10."""
    low = 0xFFFFFFFF
    for counter, seed, expected in (
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (low, -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        words = reference._philox(*(torch.tensor([counter]) for _ in range(4)), torch.tensor(seed))
        assert tuple(int(w) for w in words) == expected


def test_dropout_keeps_the_right_share_independently() -> None:
    threshold = 19661
    keep = reference.dropout_keep((4, 8, 64, 200), 1, threshold, torch.tensor(-123456789)).double()
    share = 1 - threshold / 65536
    deviation = (share * (1 - share) / keep.numel()) ** 0.5
    assert abs(keep.mean() - share) < 5 * deviation
    centred = keep - share
    for dim in range(4):
        n = keep.shape[dim] - 1
        correlation = (centred.narrow(dim, 0, n) * centred.narrow(dim, 1, n)).mean() / (share * (1 - share))
        assert abs(correlation) < 5 / keep.numel() ** 0.5 * (keep.shape[dim] / n) ** 0.5
    other = reference.dropout_keep((4, 8, 64, 200), 0, threshold, torch.tensor(-123456789)).double()
    assert abs((centred * (other - share)).mean()) / (share * (1 - share)) < 5 / keep.numel() ** 0.5


@FORCED
def test_dropout_follows_the_default_generator(backend: str) -> None:
    inputs = on_device(make_inputs(1, 2, 9, 20, 8), backend)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return bidirectional_cross_attention(**inputs, dropout_p=0.5, backend=require(backend))[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_heads_merge_without_a_copy() -> None:
    """Neither outputs, nor the gradients of heads that were split without one, packed or not."""
    require("cpu")
    q_a, k_a, v_a = torch.randn(2, 6, 3, 3, 8).requires_grad_().permute(2, 0, 3, 1, 4)
    b = [torch.randn(2, 11, 3, 8).requires_grad_().transpose(1, 2) for _ in range(3)]
    inputs = [q_a, k_a, v_a, *b]
    outputs = bidirectional_cross_attention(*inputs, backend="cpu")
    grads = torch.autograd.grad(outputs, inputs, tuple(map(torch.randn_like, outputs)))
    assert all(t.transpose(1, 2).is_contiguous() for t in (*outputs, *grads))
