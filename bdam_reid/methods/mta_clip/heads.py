"""What tells the training persons of a domain apart."""

from __future__ import annotations

from torch import Tensor, nn

from bdam_reid.methods.mta_clip.tower import Features


class Head(nn.Module):
    """For each of an image's two features a batch-normalised neck without a shift, and a classifier behind it.

    Source: Luo et al. 2019 (BNNeck); twice, as in CLIP-ReID.

    Args:
        widths: of the features.
        persons: how many are told apart.
    """

    def __init__(self, widths: tuple[int, int], persons: int) -> None:
        super().__init__()
        classifiers = [nn.Linear(width, persons, bias=False) for width in widths]
        for classifier in classifiers:
            nn.init.normal_(classifier.weight, std=0.001)
        self.necks = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        """Features (B, ...) -> scores of the persons by each of the two, (B, persons)."""
        each = zip(self.classifiers, self.necks, features, strict=True)
        return tuple(classifier(neck(feature)) for classifier, neck, feature in each)
