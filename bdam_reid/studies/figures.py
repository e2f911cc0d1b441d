"""The papers' figures of trained models, from finished runs: `python -m bdam_reid.studies figures RUN`.

Fig. 3 of the longer draft, the weights of the gates; and Fig. 4, t-SNE of the features of test persons, entangled (of a
run without BDAM) beside disentangled. Its Fig. 5 is drawn from benchmarks: `python -m benchmarks.report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from bdam_reid.config import ConfigError
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS
from bdam_reid.studies.study import set_name

if TYPE_CHECKING:
    import numpy as np

    from bdam_reid.data.records import Record
    from bdam_reid.evaluation.pictures import Cloud
    from bdam_reid.evaluation.ranking import Embedder

PERSONS = 12
"""That have a colour of their own in Fig. 4; the others are grey."""
NEIGHBOURS = 30
"""Perplexity of t-SNE, where there are points enough."""
CLOTHES = "top colour"
"""The ground truth of an outfit that Fig. 4 is coloured by."""


@dataclass(frozen=True)
class Options:
    """Draw the gates of a run, and its features beside those of a run without BDAM; says how well they cluster by
    person and by clothes."""

    run: tyro.conf.Positional[Path]
    """Folder that training wrote."""
    baseline: Path | None = None
    """A run without BDAM, such as `python -m bdam_reid.train demo --method.decoupling.kind none
    --method.loss.decouple-weight 0` writes."""
    root: Path | None = None
    """Folder of the data set; that of the run if it is not given."""
    output: Path | None = None
    """Folder of gates.png, tsne.png and figures.json; RUN/figures if it is not given."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""
    batch_size: int = 128
    """Images at a time."""


def draw(options: Options) -> dict[str, Any]:
    """Write the pictures and figures.json; gives the content of that: the runs by the drafts' name for their features,
    mean and deviation of the gates, and silhouettes in [-1, 1] of each feature by person and by clothes.

    Raises: CheckpointError, ConfigError, DatasetError.
    """
    from bdam_reid.engine.checkpoint import write_json
    from bdam_reid.engine.run import load_config
    from bdam_reid.evaluation.pictures import draw_clouds, draw_gates

    if options.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {options.batch_size}")
    output = options.output or options.run / "figures"
    runs = {"entangled": options.baseline, "disentangled": options.run}
    given = {name: run for name, run in runs.items() if run is not None}
    found: dict[str, Any] = {"runs": {name: str(run) for name, run in given.items()}, "gates": {}, "silhouettes": {}}
    clouds: dict[str, Sequence[Cloud]] = {}
    for name, run in given.items():
        embedder, records = _open(run, options)
        output.mkdir(parents=True, exist_ok=True)
        if name == "disentangled" and (gates := embedder.analyse(records)):
            weights = {group: {part: x.flatten().numpy() for part, x in of.items()} for group, of in gates.items()}
            found["gates"] = {
                group: {part: {"mean": float(x.mean()), "std": float(x.std())} for part, x in of.items()}
                for group, of in weights.items()
            }
            draw_gates(weights, output / "gates.png")
        shown, embedded = embedder.probed(records)
        features = {part: values.numpy() for part, values in embedded.items()}
        if "entangled" in features:
            features = {"entangled": features["entangled"]}
        labels = _labels(shown)
        found["silhouettes"][name] = _silhouettes(features, labels)
        title = f"{name.capitalize()}, {set_name(options.root or load_config(run, PRESETS).data.root)} set"
        clouds |= _clouds(title, features, labels, found["silhouettes"][name])
    draw_clouds(clouds, output / "tsne.png")
    write_json(output / "figures.json", found)
    return found


def _open(run: Path, options: Options) -> tuple[Embedder, Sequence[Record]]:
    """What embeds with a run's best weights, and all images of the test persons."""
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.engine.environment import find_device, precision_on, repeat_bits
    from bdam_reid.engine.run import load_best, load_config
    from bdam_reid.evaluation.ranking import Embedder

    config = load_config(run, PRESETS)
    device = find_device(options.device)
    repeat_bits(device)
    method, _ = load_best(run, config)
    roots = (options.root,) if options.root else config.data.roots
    dataset = load_dataset(*roots, hold_out=config.data.hold_out, allow_missing=config.data.allow_missing)
    images = {r.key: r for p in dataset.protocols.values() if p.split == "test" for r in p.gallery}
    precision = precision_on(device, config.engine)
    embedder = Embedder(method.to(device), device, precision, options.batch_size, config.data.allow_missing)
    return embedder, list(images.values())


def _labels(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """Whom the images show, and where it is known in what."""
    from bdam_reid.evaluation.attributes import attribute_columns

    labels: dict[str, list[str | None]] = {"person": [str(record.identity) for record in records]}
    columns = attribute_columns([record.attributes or {} for record in records])["outfit"]
    return labels | {CLOTHES: columns[CLOTHES]} if CLOTHES in columns else labels


def _silhouettes(
    features: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[str | None]]
) -> dict[str, dict[str, float]]:
    """Mean silhouettes, by feature and label, by cosine distance; labels that do not divide the images are left out."""
    from sklearn.metrics import silhouette_score

    found: dict[str, dict[str, float]] = {}
    for name, values in features.items():
        found[name] = {}
        for label, of in labels.items():
            known = [at for at, value in enumerate(of) if value is not None]
            if 1 < len({of[at] for at in known}) < len(known):
                score = silhouette_score(values[known], [of[at] for at in known], metric="cosine")
                found[name][label] = float(score)
    return found


def _clouds(
    title: str,
    features: Mapping[str, np.ndarray],
    labels: Mapping[str, Sequence[str | None]],
    silhouettes: Mapping[str, Mapping[str, float]],
) -> dict[str, Sequence[Cloud]]:
    """Panels of a run, one for each label: all features of all images in one plane."""
    import numpy as np
    from sklearn.manifold import TSNE

    from bdam_reid.evaluation.pictures import Cloud, colours_of

    stacked = np.concatenate([x / np.linalg.norm(x, axis=1, keepdims=True) for x in features.values()])
    tsne = TSNE(perplexity=min(NEIGHBOURS, (len(stacked) - 1) / 3), metric="cosine", init="pca", random_state=0)
    places = np.split(tsne.fit_transform(stacked), len(features))
    panels: dict[str, Sequence[Cloud]] = {}
    for label, of in labels.items():
        colours = colours_of(of, PERSONS if label == "person" else None)
        scores = ", ".join(f"{name} {row[label]:.2f}" for name, row in silhouettes.items() if label in row)
        panels[f"{title}: by {label}\nsilhouette: {scores}"] = [
            Cloud(name, at, colours) for name, at in zip(features, places, strict=True)
        ]
    return panels


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Options, prog="python -m bdam_reid.studies figures", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors("--batch-size"):
            found = draw(options)
            for name, of in found["silhouettes"].items():
                for feature, row in of.items():
                    scores = ", ".join(f"{score:.3f} by {label}" for label, score in row.items())
                    print(f"{found['runs'][name]}, {feature} feature: silhouette {scores}")
            print(f"pictures in {options.output or options.run / 'figures'}")


if __name__ == "__main__":
    main()
