"""Learning rates over the steps of a stage."""

from __future__ import annotations

import math


def warm_up_and_anneal(step: int, steps: int, *, rate: float, warmup_steps: int) -> float:
    """Linear warm-up to `rate`, then cosine annealing to zero (icme section IV-A, long section 4.2)."""
    if step < warmup_steps:
        return rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return rate * 0.5 * (1 + math.cos(math.pi * done))
