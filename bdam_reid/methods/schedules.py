"""Learning rates over the steps of a stage."""

from __future__ import annotations

import math


def warm_up_and_anneal(step: int, steps: int, *, rate: float, warmup_steps: int) -> float:
    """Linear warm-up to `rate`, then cosine annealing to zero (icme section IV-A, long section 4.2)."""
    if step < warmup_steps:
        return rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return rate * 0.5 * (1 + math.cos(math.pi * done))


def warm_up_and_step(step: int, steps: int, *, rate: float, warmup_steps: int) -> float:
    """Linear warm-up from a tenth of `rate`, which falls to a tenth after half of the steps, and again after five
    sixths of them (CLIP-ReID: after 30 and 50 of 60 epochs)."""
    warmth = 0.1 + 0.9 * step / warmup_steps if step < warmup_steps else 1.0
    falls = (step >= steps / 2) + (step >= steps * 5 / 6)
    return rate * warmth * 0.1**falls
