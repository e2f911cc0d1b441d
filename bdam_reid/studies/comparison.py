"""BDAM beside other methods: icme Table I, long Table 5."""

from __future__ import annotations

from collections.abc import Sequence

from bdam_reid.studies.budgets import Budget
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.papers import BASELINE, COMPARISON, SETS, Published
from bdam_reid.studies.study import command
from bdam_reid.studies.verdicts import Claim

BASELINES = {"CLIP-ITC": "itc", "IRRA": "irra", "RDE": "rde"}
"""Methods of others and their presets, whose small form is named "-demo"."""


def rows(budget: Budget) -> Sequence[Setting]:
    """Ours: the best recipe and the drafts' own, and the baseline without BDAM; the methods that this project has."""
    recipe, icme = ("demo", "demo-icme") if budget.small else ("bdam", "paper-icme")
    long = "demo-icme --method.loss.query identity --method.loss.clothing adversarial" if budget.small else "paper-long"
    ours = COMPARISON["Ours"][1][0]
    others = {name: f"{preset}-demo" if budget.small else _real(preset) for name, preset in BASELINES.items()}
    return [
        Setting("BDAM, best recipe", recipe, ours),
        Setting("BDAM, icme", icme, ours),
        Setting("BDAM, long", long, ours),
        Setting("baseline", f"{recipe} --method.decoupling.kind none --method.loss.decouple-weight 0", BASELINE),
        *(Setting(name, preset, _published(name)) for name, preset in others.items()),
    ]


def _real(preset: str) -> str:
    return "clip-itc" if preset == "itc" else preset


def _published(method: str) -> Published | None:
    return COMPARISON[method][1][0] if method in COMPARISON else None


def published_table() -> str:
    """The drafts' whole table, in Markdown."""
    head = ["method", "backbone", *(f"{name}: mAP / R-1 / R-5 / R-10" for name in SETS)]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * len(SETS)]
    for method, (backbone, figures) in COMPARISON.items():
        cells = [" / ".join("-" if x is None else f"{x:.2f}" for x in row) for row in figures]
        lines.append(f"| {method} | {backbone} | {' | '.join(cells)} |")
    return "\n".join(lines)


_SOURCE = "icme IV-D, long 4.6"

STUDY = Study(
    name="comparison",
    title="BDAM beside other methods (icme Table I, long Table 5)",
    note="Every method is trained here on the same images, captions and budget; with the presets of a demonstration "
    "all of them are from scratch, where published rows have pre-trained backbones. The other methods of the "
    "drafts' table are not implemented here. Published, none of it measured by this project:\n\n" + published_table(),
    rows=rows,
    claims=[
        Claim("better than IRRA", _SOURCE, "BDAM, best recipe", "IRRA"),
        Claim("better than RDE", _SOURCE, "BDAM, best recipe", "RDE"),
        Claim("the conference draft's model is better than IRRA", _SOURCE, "BDAM, icme", "IRRA"),
        Claim("the conference draft's model is better than RDE", _SOURCE, "BDAM, icme", "RDE"),
        Claim("the longer draft's model is better than IRRA", _SOURCE, "BDAM, long", "IRRA"),
        Claim("the longer draft's model is better than RDE", _SOURCE, "BDAM, long", "RDE"),
        Claim("better than the baseline without BDAM", _SOURCE, "BDAM, best recipe", "baseline"),
    ],
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command(STUDY, arguments)


if __name__ == "__main__":
    main()
