"""Accuracy of the three fusions where the drafts have them, in training: `python -m bdam_reid.studies efficiency`.

Trains the preset demo-icme with each kind of fusion at the drafts' sizes, with the same steps and seeds for all, and
keeps what the official test split says of each run; `python -m benchmarks.report` draws Fig. 5 from it. Source: long,
section 4.5 and Fig. 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bdam_reid.methods.bdam.config import FusionConfig
from bdam_reid.studies.grid import Setting, command
from bdam_reid.studies.measures import MEASURES

FUSIONS: Mapping[str, FusionConfig] = {
    "mamba": FusionConfig(kind="mamba", layers=2),
    "transformer": FusionConfig(kind="transformer", layers=4),
    "simple": FusionConfig(kind="simple"),
}
"""The drafts' fusion module and the two that it is compared with, at the drafts' sizes."""
SETTINGS = tuple(
    Setting(
        name,
        f"demo-icme --method.fusion.kind {of.kind} --method.fusion.layers {of.layers} --method.fusion.width {of.width}",
    )
    for name, of in FUSIONS.items()
)
FIGURES = {name: MEASURES[name] for name in ("R-1", "mAP")}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command("efficiency", SETTINGS, FIGURES, "fusion-accuracy.json", epochs=8, arguments=arguments)


if __name__ == "__main__":
    main()
