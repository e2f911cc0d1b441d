"""The features of a batch that is too large for the memory, computed in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def in_parts(features: Callable[[Any], T], batch: Any, parts: int) -> T:
    """`features` of a batch, computed for one part of it after the other, each a second time for its gradients.

    Losses of the result are those of the whole batch, and so are their gradients, while no more is kept in memory than
    what one part takes, and the features.  Source: gradient caching, Gao et al. 2021, by means of activation
    checkpointing. Random numbers are the same both times, and others than those of the whole batch.

    Args:
        features: batch -> tensors (B, ...), None, and tuples of these. What it computes of an item must not depend on
            the others, as batch normalisation does.
        batch: that has `parts(number)`, equal parts.
        parts: how many; 1 computes the batch as it is.
    """
    if parts == 1:
        return features(batch)
    return _joined([checkpoint(features, part, use_reentrant=False) for part in batch.parts(parts)])


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    entries = [_joined(entry) for entry in zip(*values, strict=True)]
    return type(first)(*entries) if hasattr(first, "_fields") else tuple(entries)
