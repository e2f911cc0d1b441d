"""What still tells of the clothes is taken out of an identity embedding, in closed form.

Source: Belrose et al., "LEACE: Perfect linear concept erasure in closed form" (2023). The concept is a clothing text,
but for what the identity text tells of it as well (ours): skirts tell of women, and who is asked for must stay. Of all
directions only the first are taken out, in which clothes are read best; each costs a little of the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdam_reid.methods.unit import unit

MEMORY = 0.99
"""Of the moments: of a batch a hundredth is taken in."""
RIDGE = 1e-3
"""Added to variances, as a share of their mean."""


class Erasure(nn.Module):
    """In evaluation mode an oblique projection of embeddings, x -> unit(P x + (1 - P) mean), by moments of what
    `observe` saw, kept as those of batch normalisation are; nothing while the model is trained.

    With S_xx the covariance of the embeddings and S_xz, S_zz those with and of the texts' features, all but for what
    features of the identity texts explain linearly, P = 1 - S_xx^1/2 U U' S_xx^-1/2, U the first left singular vectors
    of S_xx^-1/2 S_xz S_zz^-1/2, whose singular values are partial canonical correlations.

    Args:
        width: E, of the embeddings and of the texts' features.
        directions: how many are taken out.
    Raises: ValueError if there are not so many.
    """

    moments: Tensor
    projection: Tensor
    offset: Tensor

    def __init__(self, width: int, directions: int) -> None:
        super().__init__()
        if not 0 < directions < width:
            raise ValueError(f"directions to erase must be above 0 and below the width {width}, got {directions}")
        self.directions = directions
        # Of an embedding, a clothing text, an identity text, and 1.
        self.register_buffer("moments", torch.zeros(3 * width + 1, 3 * width + 1))
        self.register_buffer("projection", torch.eye(width), persistent=False)
        self.register_buffer("offset", torch.zeros(width), persistent=False)
        self._projected: int | None = self._moments_version
        self.register_load_state_dict_post_hook(Erasure._loaded)

    @property
    def _moments_version(self) -> int:
        """Of the moments; those made for inference alone have none, and do not change but by being loaded."""
        return 0 if self.moments.is_inference() else self.moments._version

    def _loaded(self, _: object) -> None:
        """Project by the moments that were loaded, which may be another tensor."""
        self._projected = None
        self.train(self.training)

    @torch.no_grad()
    def observe(self, image: Tensor, clothing: Tensor, identity: Tensor) -> None:
        """Take in the identity embeddings of B images and features of their texts, (B, E) each."""
        seen = torch.cat((image, clothing, identity, image.new_ones(len(image), 1)), dim=1).to(self.moments)
        self.moments.lerp_(seen.T @ seen / len(seen), 1 - MEMORY)

    def train(self, mode: bool = True) -> Erasure:
        """In evaluation mode, project by the moments as they are now."""
        super().train(mode)
        if not mode and self._projected != self._moments_version:
            self._projected = self._moments_version
            projection, offset = erasing(self.moments.double().cpu(), self.directions)
            self.projection.copy_(projection)
            self.offset.copy_(offset)
        return self

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, E) -> (B, E), both float32 unit vectors."""
        if self.training:
            return embedding
        with torch.autocast(embedding.device.type, enabled=False):
            return unit(embedding @ self.projection.T + self.offset)


def erasing(moments: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """P (E, E) and (1 - P) mean (E,) by moments (3 E + 1, 3 E + 1) of embedding, concept, what is given, and 1."""
    width = len(moments) // 3
    if not (total := moments[-1, -1]):
        return torch.eye(width).to(moments), moments.new_zeros(width)
    mean = moments[-1, :-1] / total
    covariance = moments[:-1, :-1] / total - torch.outer(mean, mean)
    both, given = covariance[: 2 * width], slice(2 * width, None)
    explained = both[:, given] @ torch.linalg.solve(_ridged(covariance[given, given]), both[:, given].T)
    left = both[:, : 2 * width] - explained
    root, whiten = _roots(covariance[:width, :width])
    _, whiten_concept = _roots(left[width:, width:])
    found, *_ = torch.linalg.svd(whiten @ left[:width, width:] @ whiten_concept)
    read = found[:, :directions]
    removed = root @ read @ read.T @ whiten
    return torch.eye(width).to(moments) - removed, removed @ mean[:width]


def _ridged(covariance: Tensor) -> Tensor:
    return covariance + _ridge(covariance) * torch.eye(len(covariance)).to(covariance)


def _ridge(covariance: Tensor) -> Tensor:
    return RIDGE * covariance.diagonal().mean().clamp_min(1e-9)


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """S^1/2 and S^-1/2. Of moments in float32 a variance may come out below 0."""
    values, vectors = torch.linalg.eigh(_ridged(covariance))
    values = values.clamp_min(_ridge(covariance))
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
