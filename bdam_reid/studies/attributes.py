"""Which attributes a run of MoSAIC-ReID really uses: `python -m bdam_reid.studies attributes RUN`.

Switches attributes on and off, ranks the test images each time, and writes what that costs. The random subsets are
drawn independently of each other, each attribute with probability 1/2, so that statistics of them hold; the others
(all, none, each left out, each alone) depend on each other. Source: Psalta et al., arXiv 2512.08697; the controls are
ours.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tqdm.auto import tqdm

from bdam_reid.config import ConfigError, Presets, Range, check_ranges
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS

if TYPE_CHECKING:
    from bdam_reid.data.attributes import Labels

ALL, NONE, RANDOM = "all attributes", "no attribute", "random "


@dataclass(frozen=True)
class Options:
    """Rank the test images of a run of MoSAIC-ReID with all attributes switched on, none, each left out, each alone,
    and random subsets; with controls. What was done is kept, and not repeated."""

    run: tyro.conf.Positional[Path]
    """Folder that training wrote."""
    root: Path | None = None
    """Folder of the data set; that of the run if it is not given and the run has one."""
    output: Path | None = None
    """Folder of attributes.json, .csv and .md, and of importance.md, .csv and .png; RUN/attributes if it is not
    given."""
    protocol: str = "test"
    """What is ranked: test, or val for its persons held out of training."""
    subsets: Annotated[int, Range(0)] = 64
    """Random subsets, of which the statistics are; those that are there stay if it is raised. 0 is without them."""
    seed: Annotated[int, Range(0)] = 0
    """Of the subsets, and of what the controls shuffle."""
    device: str = "auto"
    """As torch names it; auto is the GPU where there is one."""
    batch_size: int = 64
    """Images at a time."""


def configurations(names: Sequence[str], subsets: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Which attributes are switched on, by the name of the configuration."""
    rng = Random(f"{seed}/subsets")
    drawn = [tuple(name for name in names if rng.random() < 0.5) for _ in range(subsets)]
    return {
        ALL: tuple(names),
        NONE: (),
        **{f"without {left_out}": tuple(name for name in names if name != left_out) for left_out in names},
        **{f"{name} alone": (name,) for name in names},
        **{f"{RANDOM}{number}": on for number, on in enumerate(drawn)},
    }


def run_study(options: Options, presets: Presets = PRESETS) -> dict[str, Any]:
    """Rank what OUTPUT/attributes.json lacks, and write it, attributes.csv and attributes.md, and of the random subsets
    importance.md, .csv and .png; gives the content of the first.

    It has "configurations", by name what is switched on and the metrics; "controls"; "attributes" with the states of
    each, and "persons" with how many have each; and "trials": the attributes ("names"), and for each configuration its
    name ("configurations"), switches (N, A), and mAP in percent ("scores").

    Raises: CheckpointError, DatasetError, ImageError, QueryError; ConfigError for a run of another method, an unknown
        protocol, too few subsets, or if the file is of another run, set, protocol or seed.
    """
    from bdam_reid.data.attributes import labels_of
    from bdam_reid.data.datasets import load_dataset
    from bdam_reid.data.records import DatasetError
    from bdam_reid.engine.checkpoint import find_checkpoint, write_json
    from bdam_reid.engine.environment import repeat_bits
    from bdam_reid.engine.fingerprint import fingerprint
    from bdam_reid.engine.run import open_best
    from bdam_reid.evaluation.ranking import Embedder
    from bdam_reid.methods.mosaic.method import Mosaic
    from bdam_reid.studies.attribute_controls import CONTROLS, run_control
    from bdam_reid.studies.study import set_name
    from bdam_reid.studies.switched import Switched

    check_ranges(options)
    opened = open_best(options.run, presets, options.device)
    repeat_bits(opened.device)
    if not isinstance(opened.method, Mosaic):
        raise ConfigError(f"RUN must be a run of MoSAIC-ReID, got {options.run} of the preset {opened.config.preset}")
    if not options.root and opened.config.data.domains:
        raise ConfigError(f"--root must be one of the sets of {options.run}, {', '.join(opened.config.data.roots)}")
    root = options.root or Path(opened.config.data.root)
    dataset = load_dataset(root, hold_out=opened.config.data.hold_out)
    if options.protocol not in dataset.protocols:
        raise ConfigError(f"--protocol must be of {', '.join(dataset.protocols)}, got {options.protocol}")
    protocol, router = dataset.protocols[options.protocol], opened.method.router
    _check_subsets(options.subsets, len(router.names))
    output = options.output or options.run / "attributes"
    checkpoint = find_checkpoint(options.run, "best")
    study = {
        "run": str(options.run),
        "weights": _digest_of(checkpoint or options.run),
        "set": set_name(root),
        "data": fingerprint(dataset)[options.protocol],
        "protocol": options.protocol,
        "seed": options.seed,
        "attributes": {name: list(states) for name, states in router.states.items()},
    }
    kept = _open(output / "attributes.json", study)
    switched = Switched(opened, protocol, options.batch_size)
    if not any(switched.labels) or not any(labels_of(record) for record in dataset.train):
        raise DatasetError(f"expected labelled persons of training and of {protocol.name} in {root}, got none")
    persons = {person: labels for person, labels in zip(switched.persons, switched.labels, strict=True) if labels}
    kept["persons"] = _persons(router.states, persons.values())
    embedder = Embedder(opened.method, opened.device, opened.precision, options.batch_size)
    wanted = configurations(router.names, options.subsets, options.seed)
    with tqdm([*wanted, *CONTROLS], unit="ranking", disable=None) as bar:
        for name in bar:
            bar.set_postfix(configuration=name)
            if name in wanted and name not in kept["configurations"]:
                router.switch(wanted[name])
                metrics = asdict(switched.metrics(switched.embed(switched.states)))
                kept["configurations"][name] = {"on": list(wanted[name]), "metrics": metrics}
            elif name in CONTROLS and name not in kept["controls"]:
                kept["controls"][name] = run_control(name, switched, embedder, dataset.train, options.seed)
            else:
                continue
            write_json(output / "attributes.json", kept)
    kept["trials"] = _trials(router.names, kept["configurations"])
    write_json(output / "attributes.json", kept)
    for suffix, text in ((".csv", comma_separated(kept)), (".md", markdown(kept, CONTROLS))):
        draft = output / f"attributes{suffix}.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(draft.with_suffix(""))
    if options.subsets:
        write_importance(kept, list(persons.values()), options.seed, output)
    return kept


def write_importance(kept: Mapping[str, Any], persons: Sequence[Labels], seed: int, output: Path) -> str:
    """Write what the random subsets say of each attribute, beside what is true of the labels of persons; gives the
    page."""
    import numpy as np

    from bdam_reid.studies.attribute_truth import truths
    from bdam_reid.studies.importance import Trials, analyse
    from bdam_reid.studies.importance_report import write

    trials = kept["trials"]
    random = [place for place, name in enumerate(trials["configurations"]) if name.startswith(RANDOM)]
    found = analyse(
        Trials(tuple(trials["names"]), np.array(trials["switches"])[random], np.array(trials["scores"])[random]), seed
    )
    # Files of older versions lack it.
    read = kept["controls"]["predicted labels"].get("shown", {})
    return write(found, truths(trials["names"], persons, read), "importance", output)


def _check_subsets(subsets: int, attributes: int) -> None:
    from importlib.util import find_spec

    from bdam_reid.studies.importance import trials_wanted

    if not subsets:
        return
    if subsets < (wanted := trials_wanted(attributes)):
        raise ConfigError(f"--subsets must be {wanted} or more for {attributes} attributes, or 0, got {subsets}")
    if find_spec("statsmodels") is None:
        raise ConfigError("statistics of random subsets need `pip install -e '.[studies]'`, or --subsets 0")


def _digest_of(checkpoint: Path) -> str:
    from bdam_reid.engine.checkpoint import WEIGHTS, digest

    return digest(checkpoint / WEIGHTS)


def _open(path: Path, study: Mapping[str, Any]) -> dict[str, Any]:
    from bdam_reid.engine.checkpoint import read_json

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return {**study, "configurations": {}, "controls": {}}
    kept: dict[str, Any] = read_json(path)
    # Where the run lies does not matter.
    if other := [name for name in study if name != "run" and kept.get(name) != study[name]]:
        raise ConfigError(f"{path} is a study of another {', '.join(other)}: give another --output")
    return kept


def _persons(states: Mapping[str, Sequence[str]], persons: Collection[Labels]) -> dict[str, dict[str, int]]:
    """Attribute -> state -> how many persons have it; those who are not labelled are "unknown"."""
    counts: dict[str, dict[str, int]] = {}
    for name, names in states.items():
        found = Counter(labels.get(name) for labels in persons)
        counts[name] = {**{state: found[state] for state in names}, "unknown": found[None]}
    return counts


def _trials(names: Sequence[str], found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "names": list(names),
        "configurations": list(found),
        "switches": [[name in entry["on"] for name in names] for entry in found.values()],
        "scores": [entry["metrics"]["map"] for entry in found.values()],
    }


def comma_separated(kept: Mapping[str, Any]) -> str:
    """A line for each configuration: which attributes are on, its rates, and by how much its mAP is above that with all
    attributes."""
    names, whole = kept["trials"]["names"], kept["configurations"][ALL]["metrics"]["map"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["configuration", *names, "r1", "map", "delta_map"])
    for name, entry in kept["configurations"].items():
        rates = entry["metrics"]
        on = [int(attribute in entry["on"]) for attribute in names]
        writer.writerow([name, *on, rates["r1"], rates["map"], rates["map"] - whole])
    return text.getvalue()


def markdown(kept: Mapping[str, Any], controls: Mapping[str, str]) -> str:
    """The page: what labels are worth beside the controls, and each attribute left out and alone.

    Args:
        kept: the content of attributes.json.
        controls: what each of them is, in words.
    """
    found = kept["configurations"]
    whole, none = found[ALL]["metrics"], found[NONE]["metrics"]
    words = {
        ALL: (whole, "experts are chosen by the true labels of every image (oracle)"),
        NONE: (none, "no expert is switched on, as in a search"),
        **{name: (kept["controls"][name]["metrics"], text) for name, text in controls.items()},
    }
    images = f"{whole['queries']} queries, {whole['gallery']} gallery images"
    lines = [
        f"# Attributes that {kept['run']} uses",
        "",
        f"Measured on the set {kept['set']}, protocol {kept['protocol']}: {images}; labels of images are truths that "
        "a search has not.",
        "",
        "| labels | R-1 | mAP | what |",
        "|---|---:|---:|---|",
        *(f"| {name} | {rates['r1']:.2f} | {rates['map']:.2f} | {text} |" for name, (rates, text) in words.items()),
        "",
        "| attribute | persons | mAP without it | change | mAP of it alone | change | predicted right |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    predicted = kept["controls"]["predicted labels"]["right"]
    for name, persons in kept["persons"].items():
        without, alone = (found[key]["metrics"]["map"] for key in (f"without {name}", f"{name} alone"))
        shares = ", ".join(f"{state} {count}" for state, count in persons.items() if count)
        right = f"{predicted[name]:.1f}" if name in predicted else "-"
        lines.append(
            f"| {name} | {shares} | {without:.2f} | {without - whole['map']:+.2f} | {alone:.2f} | "
            f"{alone - none['map']:+.2f} | {right} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Options, prog="python -m bdam_reid.studies attributes", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors
        from bdam_reid.studies.attribute_controls import CONTROLS

        with user_errors("--batch-size"):
            print(markdown(run_study(options), CONTROLS))


if __name__ == "__main__":
    main()
