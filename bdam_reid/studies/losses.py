"""The losses, one left out at a time: icme Table IV, long Table 3."""

from __future__ import annotations

from collections.abc import Sequence

from bdam_reid.studies.budgets import Budget
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.papers import LOSSES
from bdam_reid.studies.study import command
from bdam_reid.studies.verdicts import Claim

DRAFTS = (
    "demo --method.loss.triplet-weight 1 --method.loss.decouple-weight 1 --method.loss.normalized-hsic False "
    "--method.loss.contrast-weight 0 --method.loss.gradnorm-every 1 --method.loss.symmetric False "
    "--method.loss.learnt-temperature False"
)
"""The drafts' losses and their balance on the network of the best recipe. With a learnt temperature the adversary would
be content to raise it."""


def rows(budget: Budget) -> Sequence[Setting]:
    """The drafts' losses, each left out, and what the drafts have no row of: both clothing losses, fixed weights, and
    with the presets of a demonstration the losses of the best recipe."""
    whole = DRAFTS if budget.small else "paper-icme"
    arguments = {
        "all losses": whole,
        "without InfoNCE": f"{whole} --method.loss.info-weight 0",
        "without triplet": f"{whole} --method.loss.triplet-weight 0",
        "without clothing loss": f"{whole} --method.loss.clothing-weight 0",
        "without decoupling": f"{whole} --method.loss.decouple-weight 0",
        "without gate regularisation": f"{whole} --method.loss.gate-weight 0",
        "adversarial": f"{whole} --method.loss.clothing adversarial",
        "both clothing losses": f"{whole} --method.loss.clothing both",
        "without GradNorm": f"{whole} --method.loss.gradnorm-every 0",
        "best recipe": "demo" if budget.small else "bdam",
    }
    return [Setting(name, line, LOSSES.get(name)) for name, line in arguments.items()]


_ICME, _LONG, _BOTH = "icme IV-C.3", "long 4.4", "icme IV-C.3, long 4.4"

STUDY = Study(
    name="losses",
    title="The losses, one left out at a time (icme Table IV, long Table 3)",
    note="All losses are InfoNCE, triplet, clothing alignment, HSIC and gate regularisation under GradNorm. The longer "
    "draft has its adversarial clothing loss for the alignment, and prints the same figures; without a clothing loss "
    "its model and icme's are the same, so one row stands for both drafts'.",
    rows=rows,
    claims=[
        Claim("InfoNCE is foundational, its removal catastrophic", _BOTH, "all losses", "without InfoNCE"),
        Claim("the triplet loss is foundational", _BOTH, "all losses", "without triplet"),
        Claim("the alignment loss is necessary", _ICME, "all losses", "without clothing loss"),
        Claim("the adversarial loss is essential", _LONG, "adversarial", "without clothing loss"),
        Claim("HSIC decoupling is necessary", _BOTH, "all losses", "without decoupling"),
        Claim("without gate regularisation a minor degradation", _LONG, "all losses", "without gate regularisation"),
        Claim("GradNorm balances the losses", "icme III-E, long 3.5", "all losses", "without GradNorm"),
    ],
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command(STUDY, arguments)


if __name__ == "__main__":
    main()
