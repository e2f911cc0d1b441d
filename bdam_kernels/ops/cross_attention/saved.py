"""What forward saves for backward: one float32 tensor of one dimension, whose parts depend on backend and form.

From the C++ kernels, for a and then for b: exp(scores - max), unless there are so many keys that backward computes
them again; 1 / its row sums; of the pooled form, saved or not, the mean weight of every key. From a GPU's kernels,
which the unpooled form alone has, no weights, and the logarithms of their sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.ops.cross_attention.roles import Pair

# The weights of a query are saved for backward up to this many times its width, and else computed again: memory stays
# proportional to the inputs.
_SAVED_KEYS_PER_WIDTH = 8


def most_saved_keys(width: int) -> int:
    """Keys of queries so wide, up to which the C++ kernels save their weights."""
    return _SAVED_KEYS_PER_WIDTH * width


def empty_saved(q_a: Tensor, q_b: Tensor, save: bool, backend: str, pooled: bool = False) -> Tensor | None:
    """Room for it. save: whether backward wants something."""
    if not (save or pooled):
        return None
    batch, heads, length_a, width = q_a.shape
    most = most_saved_keys(width) if save and backend == "cpu" else 0
    floats = _floats_of_head(length_a, q_b.shape[2], most, q_a.dtype, save + pooled)
    return q_a.new_empty(batch * heads * floats, dtype=torch.float32)


@dispatch.remembered
def _floats_of_head(length_a: int, length_b: int, most_keys: int, dtype: torch.dtype, vectors: int) -> int:
    """vectors: that have a number for every row of both streams."""
    floats = vectors * (length_a + length_b)
    if most_keys:
        for queries, keys in ((length_a, length_b), (length_b, length_a)):
            # Arithmetic, where a question would fix a side of it in exported graphs.
            is_saved = 1 - torch.sym_min(keys // (most_keys + 1), 1)
            floats += is_saved * _weights_of_head(queries, keys, dtype)
    return floats


def _weights_of_head(queries: int, keys: int, dtype: torch.dtype) -> int:
    kernels = dispatch.cpu()
    pairs = (queries + 1) // 2
    rows = pairs if dtype == torch.bfloat16 and kernels.pairs_bfloat16 else 2 * pairs
    return rows * ((keys + kernels.lanes - 1) // kernels.lanes * kernels.lanes)


def logs_of(saved: Tensor, q_a: Tensor, q_b: Tensor) -> Pair:
    """The part of each stream of what a GPU's kernels save, (B, H, L)."""
    sizes = [q.shape[:3] for q in (q_a, q_b)]
    return Pair(*[part.view(size) for part, size in zip(saved.split([s.numel() for s in sizes]), sizes, strict=True)])
