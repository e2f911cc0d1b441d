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
    is_real = rows >= 0
    rows = rows[is_real].long()
    own, out = state[rows], torch.zeros_like(x)
    out[is_real] = step(own, *(None if t is None else t[is_real] for t in (x, *others)))
    state[rows] = own
    return out
