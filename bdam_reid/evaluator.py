"""Evaluation of a trained run, for the command `bdam_reid.evaluate`.

Ranks the official test split and the clothing-change split with the best checkpoint, measures gates and
disentanglement, writes RUN/metrics.json and draws RUN/pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdam_reid.build import make_accelerator, make_model, make_tokenizer
from bdam_reid.captions.splitter import split_caption
from bdam_reid.checkpoint import CheckpointError, load_into, load_state, load_weights, write_json
from bdam_reid.data import Dataset, EvaluationSet, Record, Tokenize, load_attributes, load_dataset
from bdam_reid.models import BDAMReID
from bdam_reid.probes import Features, above_chance, attribute_columns, probe_attributes
from bdam_reid.ranking import Gallery, Ranker, Ranking
from bdam_reid.report import describe, draw_pictures
from bdam_reid.runs import load_config, log, start_log


def evaluate(run: Path) -> dict[str, Any]:
    """Evaluate the best checkpoint of a run; gives what it writes to metrics.json.

    Raises: CheckpointError, ConfigError, DatasetError.
    """
    config = load_config(run)
    if not (run / "best").exists():
        raise CheckpointError(f"{run} has no best checkpoint yet: train it to its first validation at least")
    start_log(run)
    accelerator = make_accelerator(config)
    dataset = load_dataset(config.data.root)
    tokenizer = make_tokenizer(config, run, dataset.train)
    model = make_model(config, len(tokenizer)).to(accelerator.device)
    ranker = Ranker(model, Tokenize(tokenizer, config.data.max_tokens), config, accelerator)
    best = load_best(run, model)
    rankings = rank(ranker, dataset)
    metrics = measure(rankings, best["beta"])
    gates = gate_weights(ranker, dataset.test)
    metrics["gates"] = {name: {"mean": float(x.mean()), "std": float(x.std())} for name, x in gates.items()}
    probes = probe(ranker, dataset, rankings)
    if probes:
        metrics["probes"] = probes
    write_json(run / "metrics.json", metrics)
    log.info(f"best checkpoint, epoch {best['epoch']}, chosen on validation with beta {best['beta']:g}")
    log.info(describe(metrics))
    pictures = draw_pictures(run, rankings, metrics, gates)
    log.info(f"figures in {run / 'metrics.json'}, pictures in {pictures.parent}: open {pictures}")
    return metrics


def load_best(run: Path, model: BDAMReID) -> dict[str, Any]:
    """Load the best checkpoint of a run into `model`; gives its validation scores, beta and epoch."""
    load_into(model, load_weights(run / "best"), run / "best")
    return load_state(run / "best")


def rank(ranker: Ranker, dataset: Dataset) -> dict[str, Ranking]:
    """Rankings of the test split and, where the set has one, of the clothing-change split."""
    rankings = {"test": ranker.rank_split(dataset.test)}
    if dataset.clothing_change:
        rankings["clothing_change"] = ranker.rank_clothing_change(dataset.clothing_change)
    return rankings


def measure(rankings: Mapping[str, Ranking], beta: float) -> dict[str, Any]:
    """What metrics.json says of rankings: each at `beta` and at 0, and the R-1 of a random ranking."""
    result: dict[str, Any] = {"beta": beta}
    for name, ranking in rankings.items():
        result[name] = asdict(ranking.metrics(beta))
        result[f"{name}_beta0"] = asdict(ranking.metrics(0.0))
        result[f"{name}_chance_r1"] = ranking.chance()
    return result


def gate_weights(ranker: Ranker, records: Sequence[Record]) -> dict[str, Tensor]:
    """Weights that the gates give on images and their first captions, as in both drafts' analysis of gates.

    Returns: "identity" g (N, D) and "clothing" 1 - g (N, D), unless there is no such gate; the fusion weights
    "image" (N,) and "text" (N,).
    """
    described = [record for record in records if record.captions]
    kept: dict[str, list[Tensor]] = defaultdict(list)
    protocol = EvaluationSet(described, (), ranker.tokenize, ranker.image_size)
    with ranker.inference():
        for batch in protocol.gallery_batches():
            identity, clothing = zip(*(split_caption(record.captions[0]) for record in batch.records), strict=True)
            inputs = (*ranker.tokenize(identity), *ranker.tokenize(clothing))
            image = ranker.model.encode_image(batch.images.to(ranker.device))
            text = ranker.model.encode_text(*(x.to(ranker.device) for x in inputs))
            _, weights = ranker.model.fuse(image, text)
            if image.gate is not None:
                kept["identity"].append(image.gate)
                kept["clothing"].append(1 - image.gate)
            kept["image"].append(weights[:, 0])
            kept["text"].append(weights[:, 1])
    return {name: torch.cat(values).float().cpu() for name, values in kept.items()}


def probe(ranker: Ranker, dataset: Dataset, rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    """What linear probes, learnt on the training split, tell of everybody else; empty without ground truth.

    No person is on both sides: the loader does not accept splits that share one.
    """
    attributes = load_attributes(dataset.root)
    if attributes is None:
        return {}
    train, validation = (
        ranker.encode_gallery(EvaluationSet(records, (), ranker.tokenize, ranker.image_size))
        for records in (dataset.train, dataset.val)
    )
    unseen = [validation, *(ranking.gallery for ranking in rankings.values())]
    result: dict[str, Any] = {}
    for group in ("identity", "outfit"):
        scores = probe_attributes(_features([train], attributes, group), _features(unseen, attributes, group))
        result[group] = {name: asdict(score) for name, score in scores.items()}
        result[f"{group}_above_chance"] = {
            feature: above_chance(scores, feature) for feature in ("identity", "clothing")
        }
    return result


def _features(galleries: Sequence[Gallery], attributes: Mapping[str, Any], group: str) -> Features:
    images = [attributes.get(record.key, {}) for gallery in galleries for record in gallery.records]
    return Features(
        identity=torch.cat([gallery.features["identity"] for gallery in galleries]).numpy(),
        clothing=torch.cat([gallery.features["clothing"] for gallery in galleries]).numpy(),
        columns=attribute_columns(images)[group],
    )
