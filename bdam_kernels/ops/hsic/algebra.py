"""What the forms of HSIC share: centring, divisors of the estimators, weights of Gram matrices, and sums of terms."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
from torch import Tensor

# Asked for once, as torch 2.11 cannot compile the question.
_HAVE_AUTOCAST = frozenset(d for d in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(d))


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Keeps autocast from rounding the products."""
    device = tensor.device.type
    if device in _HAVE_AUTOCAST and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def centre(x: Tensor) -> Tensor:
    """x minus its mean over rows; exactly zero for equal rows, and accurate for rows with a large common offset."""
    differences = x - x[:1]
    return differences - differences.mean(0)


def divisors(n: int, unbiased: bool) -> tuple[int, int, int]:
    """(p, q, r) with r HSIC = <K, L> - 2/p <K 1, L 1> + (1^T K 1)(1^T L 1)/q; the unbiased one is for zero diagonals.

    Source: Gretton et al. 2005 (biased), Song et al. 2012, Eq. 5 (unbiased).
    """
    if unbiased:
        return n - 2, (n - 1) * (n - 2), n * (n - 3)
    return n, n * n, (n - 1) ** 2


def add_present(*terms: Tensor | None) -> Tensor | None:
    present = [t for t in terms if t is not None]
    return reduce(torch.add, present) if present else None


def gram_weights(gram: Tensor, unbiased: bool) -> Tensor:
    """M(L), linear in L, such that r HSIC = <K, M(L)> for Gram matrices K and L of centred features."""
    if not unbiased:
        return gram
    n = gram.shape[0]
    p, q, _ = divisors(n, unbiased)
    diagonal = torch.eye(n, dtype=torch.bool, device=gram.device)
    gram = gram.masked_fill(diagonal, 0)
    sums = gram.sum(1)
    return (gram - (sums[:, None] + sums) / p + sums.sum() / q).masked_fill(diagonal, 0)


def apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x and y as two tensors: torch.compile lets none be two inputs of a Function."""
    return x, y.view_as(y) if y is x else y
