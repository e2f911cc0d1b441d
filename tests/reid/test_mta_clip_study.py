"""The study of MTA-CLIP: its rows, what it measures of clusters and of where a method looks, what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mta_clip_run import write_market
from PIL import Image
from published import write_clip

from bdam_reid.config import ConfigError, check_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.run import open_best
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mta_clip.config import MTAClipConfig
from bdam_reid.studies import mta_clip
from bdam_reid.studies.clusters import clusters, share_in_middle
from bdam_reid.studies.mta_clip import STUDY, DomainOptions
from bdam_reid.studies.study import config_of, whole_line


@pytest.mark.parametrize("budget", ["smoke", "cpu", "full"])
def test_every_row_is_a_config_of_its_own(budget: Any) -> None:
    sizes = STUDY.budgets[budget]
    configs = {row.name: config_of(row.name, whole_line(row, sizes)) for row in STUDY.rows(sizes)}
    for config in configs.values():
        check_config(config)
    # Those of one domain are told apart by their sets.
    assert len({repr(configs[name]) for name in configs.keys() - mta_clip.ALONE.keys()}) == len(configs) - 2
    assert all({claim.better, claim.worse} <= configs.keys() for claim in STUDY.claims)
    methods = {name: config.method for name, config in configs.items()}
    base, ours, plain = (methods[name] for name in ("CLIP-ReID", "MTA-CLIP", "baseline"))
    assert isinstance(base, MTAClipConfig) and isinstance(ours, MTAClipConfig) and isinstance(plain, MTAClipConfig)
    assert (base.tower.adapter, base.prompts.shared, base.prompts.domain) == ("none", 0, 0)
    assert (ours.tower.adapter, ours.tower.groups, ours.prompts.shared, ours.prompts.domain) == ("sga", 8, 4, 4)
    assert (plain.plan, plain.loss.i2t_weight, plain.tower.adapter) == ("images", 0, "none")


def test_clusters_are_what_loops_over_images_find() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(9, 5, generator=generator)
    persons = [3, 3, 3, 7, 7, 8, 9, 9, 9]
    unit = [row / np.linalg.norm(row) for row in embeddings.double().numpy()]
    pairs: dict[int, list[float]] = {}
    nearest, silhouettes = [], []
    several = [at for at, person in enumerate(persons) if person != 8]  # who has one image
    for at in several:
        own = [1 - unit[at] @ unit[to] for to in several if persons[to] == persons[at] and to != at]
        others = {p: [1 - unit[at] @ unit[to] for to in several if persons[to] == p] for p in (3, 7, 9)}
        del others[persons[at]]
        pairs.setdefault(persons[at], []).extend(own)
        nearest.append(min(min(of) for of in others.values()))
        a, b = np.mean(own), min(np.mean(of) for of in others.values())
        silhouettes.append((b - a) / max(a, b))
    found = clusters(embeddings, persons)
    assert found.compactness == pytest.approx(np.mean([1 - np.mean(of) for of in pairs.values()]))
    assert found.separation == pytest.approx(np.mean(nearest))
    assert found.silhouette == pytest.approx(np.mean(silhouettes))
    with pytest.raises(ValueError, match="of two persons or more, got 1 such"):
        clusters(embeddings, [1, 1, 2, 3, 4, 5, 6, 7, 8])


def test_the_brightest_patches_are_looked_for_in_the_middle() -> None:
    maps = torch.zeros(2, 2, 8)
    maps[0, 0, 2:6] = 1.0  # the middle half of the columns
    maps[1, :, 0], maps[1, :, 3] = 1.0, 2.0
    assert share_in_middle(maps) == pytest.approx((4 + 2) / 8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charts: None) -> Path:
    """A folder with two domains and a CLIP where the budget "smoke" looks for them."""
    write_market(tmp_path / "data" / "market-summer-24")
    write_market(tmp_path / "data" / "market-winter-24", 4, 1)
    write_clip(tmp_path / "models" / "small-clip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_are_trained_ranked_in_both_domains_and_written(place: Path) -> None:
    rows = ("stage 1 alone", "MTA-CLIP", "second domain alone")
    options = DomainOptions(budget="smoke", rows=rows, seeds=(3,), output=place / "out")
    results = mta_clip.run(options)
    assert [run["setting"] for run in results["runs"]] == list(rows)
    config = json.loads((place / "out" / "second-domain-alone-3" / "config.json").read_text())
    assert (config["data"]["root"], config["data"]["domains"]) == ("data/market-winter-24", [])
    for run in results["runs"]:
        assert list(run["metrics"]["protocols"]) == ["market-summer-24_test", "market-winter-24_test"]
        for of in run["metrics"]["clusters"].values():
            assert -1 <= of["silhouette"] <= 1 and 0 <= of["on_person"] <= 1
    whole = results["runs"][1]["metrics"]
    rate = whole["protocols"]["market-winter-24_test"]["results"]["same"]["map"]
    silhouette = 50 * sum(of["silhouette"] for of in whole["clusters"].values())
    text = (place / "out" / "mta-clip.md").read_text()
    assert f"| {rate:.1f} |" in text and f"| {silhouette:.1f} |" in text and "## The authors' claims" in text
    assert "published" not in text and str(place) not in (place / "out" / "mta-clip.json").read_text()
    assert whole["clusters"]["market-winter-24_test"] == pytest.approx(_clusters(place), rel=1e-5)
    for name in ("mta-clip.png", "mta-clip-tsne.png"):
        with Image.open(place / "out" / name) as picture:
            assert picture.width > 100
    trained = (place / "out" / "MTA-CLIP-3" / "log.txt").stat().st_mtime_ns
    assert mta_clip.run(options) == results
    assert (place / "out" / "MTA-CLIP-3" / "log.txt").stat().st_mtime_ns == trained


def _clusters(place: Path) -> dict[str, float]:
    """Those of the whole method's run in the second domain, embedded alone."""
    _, method, _, device, precision = open_best(place / "out" / "MTA-CLIP-3", PRESETS, "cpu")
    protocol = load_dataset("data/market-winter-24").protocols["test"]
    records, embeddings = Embedder(method, device, precision).gallery(protocol.gallery)
    found = clusters(embeddings, [record.identity for record in records])
    maps = method.maps(torch.stack([_image(record.path, method.image_size) for record in records]))["with adapter"]
    return {**found._asdict(), "on_person": share_in_middle(maps.detach())}


def _image(path: Path, size: tuple[int, int]) -> torch.Tensor:
    from bdam_reid.data.images import load_image

    return load_image(path, size)


def test_another_second_domain_is_another_table(place: Path) -> None:
    rows, output = ("stage 1 alone",), place / "out"
    mta_clip.run(DomainOptions(budget="smoke", rows=rows, seeds=(0,), output=output))
    write_market(place / "data" / "third", 5, 2)
    with pytest.raises(ConfigError, match=r"cannot stand in one table \(set, second are not the same\)"):
        mta_clip.run(DomainOptions(budget="smoke", second="data/third", rows=rows, seeds=(1,), output=output))


def test_a_second_domain_that_is_not_there_is_named_before_anything_is_trained(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a data set in nowhere, .* --domain 1 --seed 1`"):
        mta_clip.run(DomainOptions(budget="smoke", second="nowhere", output=place / "out"))
    assert not (place / "out").exists()
