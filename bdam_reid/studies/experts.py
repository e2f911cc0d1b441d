"""What experts add to their tower: `python -m bdam_reid.studies experts`.

Trains the preset `mosaic-demo` beside the same tower without experts, frozen and fine-tuned, all with the same batches,
losses and number of steps, on drawn persons in Market-1501's layout. Only the first reads labels at test time; what it
finds without them, `without_attributes`, is what is comparable with the others as a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bdam_reid.studies.grid import Figure, Setting, command

SETTINGS = (
    Setting("experts", "mosaic-demo"),
    Setting("frozen tower", "mosaic-demo --method.experts.layers 0"),
    # Published weights take a tenth of the rate, as is usual; it was not searched for.
    Setting(
        "fine-tuned tower",
        "mosaic-demo --method.experts.layers 0 --method.image.frozen False --method.optim.lr 2e-4 "
        "--method.optim.new-factor 10",
    ),
)
"""A frozen tower without experts has nothing to learn but the scale of its neck."""


def _rate(rate: str, *results: str) -> Figure:
    """A rate of the test split, of the first of these results that there is."""

    def read(metrics: Mapping[str, Any]) -> float:
        found = metrics["protocols"]["test"]["results"]
        return next(found[name] for name in results if name in found)[rate]

    return read


FIGURES: Mapping[str, Figure] = {
    "R-1": _rate("r1", "same"),
    "mAP": _rate("map", "same"),
    "R-1 without labels": _rate("r1", "without_attributes", "same"),
    "mAP without labels": _rate("map", "without_attributes", "same"),
}
"""Without labels are those results too that never had them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command("experts", SETTINGS, FIGURES, "mosaic-demo.json", 10, arguments, root="data/market-summer")


if __name__ == "__main__":
    main()
