"""Decoupling with position-aware pooling: each place of the image has weights of its own (ours, not the drafts')."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.encoders.pooling import Grids, PlacePooling, head_of
from bdam_reid.methods.bdam.config import DecouplingConfig
from bdam_reid.methods.bdam.decoupling import Decoupling


class PositionalDecoupling(Decoupling):
    """Decoupling whose layers see the means of squares of tokens, and whose pooling knows where a token lies.

    In so many tokens attention costs more than it gives, and their mean forgets where they were: a white head and white
    shoes are the same to it.

    Args:
        width: D of the tokens.
        config: depths, heads, dropout, gate, squares, and widths of the pooling.
        grids: of the tokens; where there are two, the second one's are those of the head.
    Raises: ValueError if the heads do not divide the width.
    """

    means: Tensor

    def __init__(self, width: int, config: DecouplingConfig, grids: Grids) -> None:
        super().__init__(width, config, config.width or None, config.features)
        numbers, self.merges = neighbourhoods(grids, config.merge), config.merge > 1
        self.register_buffer("means", means_of(numbers), persistent=False)
        self.identity_pooling = PositionPooling(width, config, numbers, head_of(grids))
        self.clothing_pooling = PositionPooling(width, config, numbers, None)

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """tokens (B, L, D) -> pooled features of identity and clothing, (B, P), and the tokens (B, L, D) themselves."""
        identity, clothing = self.streams(self.means @ tokens if self.merges else tokens)
        return self.identity_pooling(tokens, identity), self.clothing_pooling(tokens, clothing), tokens


class PositionPooling(PlacePooling):
    """One stream's feature of an image.

    The tokens are the encoder's own, which say what is where; added to each is what the layers made of its square.

    Args:
        width: of the tokens.
        config: channels that are kept of a token, width of the feature.
        numbers: of the tokens' squares, as `neighbourhoods` gives them.
        head: of the tokens, those that attention reads; None for no attention.
    """

    numbers: Tensor
    mixed: nn.Linear

    def __init__(self, width: int, config: DecouplingConfig, numbers: Tensor, head: slice | None) -> None:
        super().__init__(width, len(numbers), config.slots, config.features, head, config.width or width)
        self.register_buffer("numbers", numbers, persistent=False)
        self.merges = config.merge > 1

    def forward(self, tokens: Tensor, mixed: Tensor) -> Tensor:  # type: ignore[override]
        """tokens (B, L, D) of the encoder, mixed (B, squares, D) of a stream -> (B, P)."""
        of_squares = self.mixed(mixed)
        return super().forward(tokens, of_squares[:, self.numbers] if self.merges else of_squares)


def neighbourhoods(grids: Grids, side: int) -> Tensor:
    """Which tokens lie together in squares of `side` x `side`, smaller at the right and lower edges: for each token the
    number of its square, (L,)."""
    numbers, first = [], 0
    for rows, columns in grids:
        wide = -(-columns // side)
        square = torch.arange(rows)[:, None] // side * wide + torch.arange(columns) // side
        numbers.append(square.flatten() + first)
        first += -(-rows // side) * wide
    return torch.cat(numbers)


def means_of(numbers: Tensor) -> Tensor:
    """What makes the means of squares of tokens, (squares, L), by the number of each token's square, (L,)."""
    members = F.one_hot(numbers).T.float()
    return members / members.sum(dim=1, keepdim=True)
