"""What a table may cost: the presets that its rows start from, how long they train, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Name = Literal["smoke", "cpu", "full"]


class Budget(NamedTuple):
    """What the rows of a table have in common."""

    root: str
    """Folder of the data set, unless another is given."""
    small: bool
    """Whether rows start from the presets of a demonstration; else from those of published encoders."""
    common: str = ""
    """Arguments of every row, as on the command line of training."""
    bdam: str = ""
    """Arguments of the rows whose method is BDAM."""
    others: str = ""
    """Arguments of the other rows."""
    drawn: str = ""
    """Arguments with which `python -m bdam_reid.synthetic ROOT` draws the set; empty for real sets."""


_PRECISION = "--engine.mixed-precision no"
"""That rows have in common, on whatever machine they are trained."""

BUDGETS: Mapping[Name, Budget] = {
    "smoke": Budget(
        root="data/synthetic-12",
        small=True,
        common=f"{_PRECISION} --data.identities-per-batch 4 --data.images-per-identity 2 --data.image-height 48 "
        "--data.image-width 24 --data.max-tokens 24 --data.vocab-size 200 --engine.save-every 0 "
        "--engine.validate-every 1",
        bdam="--method.image.width 16 --method.image.heads 2 --method.text.width 16 --method.text.heads 2 "
        "--method.decoupling.heads 2 --method.optim.epochs 1 --method.optim.warmup-steps 2",
        others="--method.optim.epochs 1",
        drawn="--identities 12",
    ),
    "cpu": Budget(
        root="data/synthetic-1200",
        small=True,
        common=_PRECISION,
        bdam="--method.optim.epochs 4 --method.optim.warmup-steps 50",
        others="--method.optim.epochs 4",
        drawn="--identities 1200 --test-identities 100",
    ),
    "full": Budget(root="data/CUHK-PEDES", small=False),
}
"""smoke: seconds a row and seed; cpu: about three minutes, estimated from 288 steps at 2.4 a second and a minute of
evaluation, so that all tables but that of clusterings take about four hours; full: the drafts' presets at their full
length, for real sets and a GPU."""
