"""The drafts' baseline: an image's feature without the decoupling (icme Tables II and III, long Tables 1 and 2)."""

from __future__ import annotations

from torch import Tensor, nn

from bdam_reid.encoders.pooling import Grids, head_of
from bdam_reid.methods.bdam.config import DecouplingConfig
from bdam_reid.methods.bdam.decoupling import Disentangled
from bdam_reid.methods.bdam.pooling import PositionPooling, means_of, neighbourhoods


class Entangled(nn.Module):
    """One feature that is given for identity and clothing both: a linear layer and the pooling of `Decoupling`, without
    branches, attention and gate.

    The linear projections into the text space read one from it for identity texts and one for clothing texts, so that
    the baseline learns from the same texts by the same losses. The drafts do not say what their baseline is.

    Args:
        width: D of the tokens.
        config: pooling and its widths.
        grids: of the tokens, as `PositionalDecoupling` has it.
    """

    means: Tensor

    def __init__(self, width: int, config: DecouplingConfig, grids: Grids) -> None:
        super().__init__()
        self.projection = nn.Linear(width, config.width or width)
        self.pooling, self.features = None, width
        if config.pooling == "position":
            numbers = neighbourhoods(grids, config.merge)
            self.register_buffer("means", means_of(numbers), persistent=False)
            self.pooling = PositionPooling(width, config, numbers, head_of(grids))
            self.features = config.features

    def forward(self, tokens: Tensor) -> Disentangled:
        """tokens (B, L, D) -> the same feature (B, P) as identity, clothing and pooled clothing."""
        if self.pooling is None:
            tokens = self.projection(tokens)
            feature = tokens.mean(dim=1)
        else:
            feature = self.pooling(tokens, self.projection(self.means @ tokens))
        return Disentangled(feature, feature, feature, gate=None, tokens=tokens)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Weights of the linear layer, the last one with weights that every loss reaches in either pooling."""
        return list(self.projection.parameters())
