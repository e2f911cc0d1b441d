"""MTA-CLIP and its parts in two domains: `python -m bdam_reid.studies mta-clip`.

Trains every row on two domains, or on one of them alone, ranks both, and asks what the description of MTA-CLIP expects:
whether clusters of persons are more compact, further apart, and the persons looked at. Beside the table a picture has
the features of the same persons by the frozen CLIP, the baseline, CLIP-ReID and MTA-CLIP (t-SNE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdam_reid.config import Config
from bdam_reid.methods import PRESETS
from bdam_reid.studies.budgets import Budget, Name
from bdam_reid.studies.definition import Study
from bdam_reid.studies.grid import Figure, Setting, outcome
from bdam_reid.studies.study import Options, command, digest_of, run_folder, run_study, set_name
from bdam_reid.studies.verdicts import Claim

if TYPE_CHECKING:
    from bdam_reid.evaluation.ranking import Embedder, Ranking

FROZEN, BASELINE, CLIP_REID, WHOLE = "stage 1 alone", "baseline", "CLIP-ReID", "MTA-CLIP"
ALONE = {"first domain alone": 0, "second domain alone": 1}
"""The rows that are trained on one domain, and which."""
LOOKED_AT = 128
"""Images of each domain whose maps say whether the person is looked at."""
DRAWN = "--layout market --identities 1200 --test-identities 300"
BUDGETS: Mapping[Name, Budget] = {
    "smoke": Budget(
        root="data/market-summer-24",
        small=True,
        common="--data.image-height 48 --data.image-width 24 --data.identities-per-batch 2 "
        "--data.images-per-identity 2 --method.prompts.epochs 1 --method.prompts.batch 8 --method.images.epochs 1 "
        "--method.images.warmup-epochs 0 --engine.validate-every 1",
        drawn="--layout market --identities 24",
    ),
    "cpu": Budget(
        root="data/market-summer-1200",
        small=True,
        common="--method.prompts.epochs 2 --method.images.epochs 3 --engine.validate-every 3",
        drawn=DRAWN,
    ),
    "full": Budget(root="data/Market-1501", small=False),
}
SECOND: Mapping[Name, str] = {
    "smoke": "data/market-winter-24",
    "cpu": "data/market-winter-1200",
    "full": "data/DukeMTMC-reID",
}
"""Folder of the second domain."""


@dataclass(frozen=True)
class DomainOptions(Options):
    """Train every row with every seed, and write the table, what holds of the expected effects, and pictures; finished
    runs are not repeated."""

    budget: Name = "cpu"
    """smoke: seconds a row, to try the command; cpu: 2 and 3 epochs in place of the demonstration's 3 and 8, about two
    and a half hours on two cores for all rows and three seeds, estimated from 4 minutes a run: 380 steps at 18 a
    second, 504 at 2.9, and a minute of features and evaluation; full: preset mta-clip, for real sets and a GPU."""
    second: str | None = None
    """Folder of the second domain; that of the budget if it is not given."""


def rows(budget: Budget) -> Sequence[Setting]:
    """The whole method with parts of it left out or changed."""
    base = "mta-clip-demo" if budget.small else "mta-clip"
    bare, plain = "--method.tower.adapter none", "--method.prompts.shared 0 --method.prompts.domain 0"
    arguments = {
        FROZEN: f"{base} --method.plan prompts",
        BASELINE: f"{base} --method.plan images {bare} --method.loss.i2t-weight 0 --method.loss.id-weight 1",
        CLIP_REID: f"{base} {bare} {plain}",
        "CLIP-ReID + HCP": f"{base} {bare}",
        "CLIP-ReID + SGA": f"{base} {plain}",
        WHOLE: base,
        "patches without SGA": f"{base} --method.tower.adapter identity",
        "joint training": f"{base} --method.plan joint",
        **{f"{groups} groups": f"{base} --method.tower.groups {groups}" for groups in (2, 4, 16)},
        **dict.fromkeys(ALONE, base),
    }
    return [Setting(name, line) for name, line in arguments.items()]


def _rate(domain: int, rate: str) -> Figure:
    def read(metrics: Mapping[str, Any]) -> float | None:
        of = list(metrics["protocols"].values())[domain]["results"]["same"]
        return float(of[rate])

    return read


def _mean_of(name: str) -> Figure:
    """Of the two domains, in percent; None where it was not measured."""

    def read(metrics: Mapping[str, Any]) -> float | None:
        values = [of[name] for of in metrics["clusters"].values()]
        return None if None in values else 100 * sum(values) / len(values)

    return read


MEASURES: Mapping[str, Figure] = {
    "mAP, first": _rate(0, "map"),
    "R-1, first": _rate(0, "r1"),
    "mAP, second": _rate(1, "map"),
    "R-1, second": _rate(1, "r1"),
    "compactness": _mean_of("compactness"),
    "separation": _mean_of("separation"),
    "silhouette": _mean_of("silhouette"),
    "on the person": _mean_of("on_person"),
}
_EFFECTS, _PARTS = "expected effects", "training strategy"

STUDY = Study(
    name="mta-clip",
    title="MTA-CLIP and its parts in two domains",
    note="Rows are the same code, batches and steps of stage 2 with parts left out. Stage 1 trains prompts, which a "
    "search by image does not read: alone it is the frozen CLIP. CLIP-ReID has neither shared words nor those "
    "of the domain (HCP), nor the adapter (SGA); the baseline has no texts at all; patches without SGA are "
    "added to the class token as they are. A row of one domain alone is trained on that one and ranks both, so "
    "that the other column is of a domain that it never saw; all other rows are trained on both. Of the drawn "
    "domains the first is a summer, as the small CLIP was trained on, and the second a winter by other cameras.\n\n"
    "What is expected (the description has neither figures nor a test): compactness, the mean cosine of two "
    "images of a person; separation, the mean cosine distance from an image to the nearest one of another "
    "person; silhouette, the one beside the other; on the person, of the quarter of the patches that is most "
    "like the whole image, how many are in the middle half of its width, where the person is. All in percent, "
    "of the gallery's persons, the mean of both domains; the more the better. The whole image is the class token, and "
    "where patches are pooled their mean is in it.",
    rows=rows,
    claims=[
        Claim("more compact, clearer apart, and looking at persons: than the baseline", _EFFECTS, WHOLE, BASELINE),
        Claim("the same, than the CLIP that it begins with", _EFFECTS, WHOLE, FROZEN),
        Claim("the same, than CLIP-ReID", _EFFECTS, WHOLE, CLIP_REID),
        Claim("HCP helps", _PARTS, "CLIP-ReID + HCP", CLIP_REID),
        Claim("SGA helps", _PARTS, "CLIP-ReID + SGA", CLIP_REID),
        Claim("the mean of the patches helps", "SGA", "patches without SGA", "CLIP-ReID + HCP"),
        Claim("SGA does more than the mean of the patches", "SGA", WHOLE, "patches without SGA"),
        Claim("two stages are better than one", _PARTS, WHOLE, "joint training"),
        Claim("two domains are better than the first alone", "multi-task", WHOLE, "first domain alone"),
        Claim("two domains are better than the second alone", "multi-task", WHOLE, "second domain alone"),
    ],
    claimants="The authors'",
    budgets=BUDGETS,
    measures=MEASURES,
    judged=("mAP, first", "mAP, second", "compactness", "separation", "silhouette", "on the person"),
)


def run(options: DomainOptions) -> dict[str, Any]:
    """Run the study, and draw the picture of the first seed's features; gives the content of the results file.

    Raises: ConfigError as `run_study`, or if there is no second domain; and as `bdam_reid.train.train`.
    """
    budget = BUDGETS[options.budget]
    roots = (options.root or budget.root, options.second or SECOND[options.budget])
    drawn = (budget.drawn, f"{budget.drawn} --domain 1 --seed 1" if budget.drawn else "")
    names = dict.fromkeys(map(set_name, roots, drawn))
    both = {"set": " and ".join(names), "second": digest_of(roots[1])}
    kept = run_study(STUDY, options, partial(train_row, roots), partial(kept_of, roots), both)
    output = options.output or Path("runs/studies") / STUDY.name
    shown = {name: run_folder(output, name, options.seeds[0]) for name in (FROZEN, BASELINE, CLIP_REID, WHOLE)}
    if shown := {name: folder for name, folder in shown.items() if (folder / "metrics.json").exists()}:
        from bdam_reid.studies.features import draw_features

        print(f"features of the same persons: {draw_features(shown, roots, output / f'{STUDY.name}-tsne.png')}")
    return kept


def train_row(roots: Sequence[str], name: str, config: Config) -> Path:
    """Train on both domains, or on that which the row is named after."""
    from bdam_reid.train import train

    own = roots[ALONE[name] : ALONE[name] + 1] if name in ALONE else roots
    return train(replace(config, data=replace(config.data, root=own[0], domains=tuple(own[1:]))))


def kept_of(roots: Sequence[str], folder: Path) -> dict[str, Any]:
    """Evaluate a run in all domains, and give what is kept of it: beside the metrics the clusters of each domain."""
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.engine.run import open_best
    from bdam_reid.evaluation.evaluator import evaluate
    from bdam_reid.evaluation.ranking import Embedder

    config, method, best, device, precision = open_best(folder, PRESETS, "auto")
    dataset = load_dataset(*roots, hold_out=config.data.hold_out, allow_missing=config.data.allow_missing)
    embedder = Embedder(method, device, precision, allow_missing=config.data.allow_missing)
    found = evaluate(embedder, dataset, method.chosen_weights(best), folder)
    kept, of = outcome(folder), {name: _clusters(embedder, ranking) for name, ranking in found.rankings.items()}
    del kept["metrics"]["domains"]  # where they lie on this machine
    kept["metrics"]["clusters"] = of
    return kept


def _clusters(embedder: Embedder, ranking: Ranking) -> dict[str, float | None]:
    from bdam_reid.studies.clusters import of_ranking, on_person

    gallery = ranking.gallery
    seen = gallery[:: max(1, len(gallery) // LOOKED_AT)][:LOOKED_AT]
    return {**of_ranking(ranking)._asdict(), "on_person": on_person(embedder, seen)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command(STUDY, arguments, run, DomainOptions)


if __name__ == "__main__":
    main()
