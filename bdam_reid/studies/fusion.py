"""Fusion and its parts, where it can tell images apart, in re-ranking: icme Table III, long Table 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bdam_reid.config import Config
from bdam_reid.methods.bdam.config import BDAMConfig, RerankConfig
from bdam_reid.studies.budgets import Budget
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Setting
from bdam_reid.studies.papers import FUSION
from bdam_reid.studies.study import command, run_folder, run_study
from bdam_reid.studies.verdicts import Claim

BASE = "without fusion"


def rows(budget: Budget) -> Sequence[Setting]:
    """The drafts' fusion and its parts as matchers, and the two fusions that the longer draft compares it with."""
    base = "demo" if budget.small else "bdam"
    whole = f"{base} --method.rerank.kind mamba --method.rerank.gate True"
    transformer = f"{base} --method.rerank.kind transformer --method.rerank.layers 4 --method.rerank.gate True"
    simple = f"{base} --method.rerank.kind simple --method.rerank.gate True"
    joint = "--method.rerank.training joint"
    arguments = {
        BASE: base,
        "fusion": whole,
        "without Mamba": f"{base} --method.rerank.kind sum --method.rerank.gate True",
        "without fusion gate": f"{base} --method.rerank.kind mamba",
        "without alignment": f"{whole} --method.rerank.alignment False",
        "transformer": transformer,
        "simple": simple,
        "fusion, end to end": f"{whole} {joint}",
        "transformer, end to end": f"{transformer} {joint}",
        "simple, end to end": f"{simple} {joint}",
    }
    return [Setting(name, line, FUSION.get(name)) for name, line in arguments.items()]


_SOURCE = "icme IV-C.2, long 4.4"

STUDY = Study(
    name="fusion",
    title="Fusion and its parts in re-ranking (icme Table III, long Table 2)",
    note="The drafts' fused feature contains the text that it is matched with, so a ranking cannot use it: in the "
    "drafts' place fusion has no part in ranking. It is measured where it can have one, as the matcher that orders the "
    "best 20 images anew by words and patches read together: of each seed one model is trained without it, and each "
    "matcher alone on the frozen weights of that model, or, end to end, with a model from scratch. Published rows are "
    "of another thing under the same name.",
    rows=rows,
    claims=[
        Claim("fusion substantially outperforms the baseline", _SOURCE, "fusion", BASE),
        Claim("Mamba's removal degrades", _SOURCE, "fusion", "without Mamba"),
        Claim("the gate's removal degrades", _SOURCE, "fusion", "without fusion gate"),
        Claim("the alignment layers' removal degrades", _SOURCE, "fusion", "without alignment"),
        Claim("Mamba's removal costs more than the gate's", _SOURCE, "without fusion gate", "without Mamba"),
        Claim("Mamba's removal costs more than the alignment's", _SOURCE, "without alignment", "without Mamba"),
        Claim("a marked improvement over Simple", "long 4.5", "fusion", "simple"),
        Claim("fusion outperforms the baseline, end to end", _SOURCE, "fusion, end to end", BASE),
        Claim("a marked improvement over Simple, end to end", "long 4.5", "fusion, end to end", "simple, end to end"),
    ],
    paired=True,
)


def train_row(name: str, config: Config) -> Path:
    """Train the model without a matcher, or with one, or a matcher on the weights of the model without one of the same
    seed, which is trained first if it is not there."""
    from bdam_reid.studies.rerank import train_matcher
    from bdam_reid.train import train

    method = config.method
    assert isinstance(method, BDAMConfig)
    if method.rerank.kind == "none" or method.rerank.training == "joint":
        return train(config)
    base = run_folder(Path(config.output).parent, BASE, config.seed)
    if not (base / "metrics.json").exists():
        train(replace(config, output=str(base), method=replace(method, rerank=RerankConfig())))
    return train_matcher(base, config)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command(STUDY, arguments, lambda options: run_study(STUDY, options, train_row))


if __name__ == "__main__":
    main()
