"""Steps of a batch whose states are some rows of a larger cache, as servers keep them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def of_rows(step: Callable[..., Tensor], state: Tensor, rows: Tensor, x: Tensor, *others: Tensor | None) -> Tensor:
    """A step of the batch, whose states are rows of a cache.

    Args:
        step: takes states, which it updates in place, then x and the others of as many elements; returns what is like
            x.
        state: the cache, (S, ...), of which these rows are updated in place.
        rows: of each element of the batch, (B,), each once, or -1 for an element that is padding.
        x, others: (B, ...), None for an absent one.
    Returns: what step does, like x; zero for padding.
    """
    if len(rows) == 0:
        return torch.empty_like(x)
    # Padding takes part as another copy of a real element, which writes to that one's row what it writes itself: sizes
    # do not depend on values, for compilers and for GPUs, which need not be waited for.
    is_real = rows >= 0
    chosen = torch.where(is_real, torch.arange(len(rows), device=rows.device), is_real.int().argmax())
    rows = rows.long()[chosen].clamp(min=0)
    before = state[rows]
    after = before.clone()
    out = step(after, *(None if t is None else t[chosen] for t in (x, *others)))
    state[rows] = torch.where(is_real.any(), after, before)
    return torch.where(is_real.view(-1, *[1] * (x.dim() - 1)), out, 0)
