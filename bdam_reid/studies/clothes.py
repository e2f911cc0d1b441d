"""What makes an identity survive a change of clothes: `python -m bdam_reid.studies clothes`.

Trains the preset `demo` with one part of it left out or changed at a time, all with the same number of steps, on the
synthetic set, and writes what the test split says of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bdam_reid.studies.grid import Figure, Setting, command
from bdam_reid.studies.measures import MEASURES

SETTINGS = (
    Setting("demo", "demo"),
    Setting(
        "without BDAM",
        "demo --method.decoupling.self-layers 0 --method.decoupling.cross-layers 0 --method.decoupling.gate False",
    ),
    Setting("without cross-attention", "demo --method.decoupling.cross-layers 0"),
    Setting("without gate", "demo --method.decoupling.gate False"),
    Setting(
        "mean pooling",
        "demo --method.decoupling.pooling mean --method.decoupling.merge 1 --method.decoupling.width 0",
    ),
    Setting("without head crop", "demo --method.image.head-crop False"),
    Setting("one-way InfoNCE", "demo --method.loss.symmetric False"),
    Setting("without contrast of outfits", "demo --method.loss.contrast-weight 0"),
    Setting("outfit-aware sampling", "demo --data.across-outfits True"),
    Setting("without decoupling", "demo --method.loss.decouple-weight 0"),
    Setting("strong decoupling", "demo --method.loss.decouple-weight 1"),
    Setting("adversarial clothing loss", "demo --method.loss.clothing adversarial"),
    Setting("conference draft", "demo-icme"),
)
"""The recipe, what it is made of, and where it came from."""


def _leak(column: str) -> Figure:
    return lambda metrics: metrics["probes"]["persons"]["test"]["outfit"][column]["linear"]["identity"]


FIGURES: Mapping[str, Figure] = {
    "other clothes R-1": MEASURES["R-1, other clothes"],
    "mAP": MEASURES["mAP, other clothes"],
    "same clothes R-1": MEASURES["R-1"],
    "identity alone": lambda metrics: metrics["protocols"]["test"]["results"]["identity"]["r1"],
    "top colour from identity": _leak("top colour"),
    "lower colour": _leak("lower colour"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command("clothes", SETTINGS, FIGURES, "clothes.json", epochs=2, arguments=arguments)


if __name__ == "__main__":
    main()
