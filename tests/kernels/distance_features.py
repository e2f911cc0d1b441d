"""What distance covariance has in place of features."""

from __future__ import annotations

import torch
from torch import Tensor


def distance_features(x: Tensor) -> Tensor:
    """Rows whose squared distances are the distances of the rows of x, by classical scaling, in float64."""
    distances = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    rows = distances - distances.mean(0)
    values, vectors = torch.linalg.eigh((rows - rows.mean(1, keepdim=True)) / -2)
    return vectors * values.clamp_min(0).sqrt()
