"""Independence of identity and clothing features, and regularisation of the gate between them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bdam_kernels import hsic


def decoupling_loss(identity: Tensor, clothing: Tensor) -> Tensor:
    """HSIC between the gated identity and clothing features.

    tr(K_id H K_clo H) / (N-1)^2 with linear kernels.  Source: both drafts, Eq. 2.
    The features are L2-normalised first: HSIC is of degree 4 in their scale, so shrinking them would do.

    Args:
        identity: (B, D).
        clothing: (B, D).
    Returns: scalar.
    Raises: ValueError for a batch of one.
    """
    if len(identity) < 2:
        raise ValueError(f"the decoupling loss needs a batch of at least 2 samples, got {len(identity)}")
    return hsic(F.normalize(identity, dim=1), F.normalize(clothing, dim=1))


def gate_regularisation(gate: Tensor) -> Tensor:
    """mean (g - 0.5)^2 of the gate (B, D): keeps it from giving everything to one branch.

    Source: both drafts report "w/o Gate Reg." without a formula; this one is ours.
    """
    return (gate - 0.5).square().mean()
