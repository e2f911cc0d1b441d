"""Evaluation: probes, pictures and the report of a trained run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bdam_reid import pictures
from bdam_reid.probes import above_chance, probe_attributes


def test_probes_find_what_is_in_the_features_and_only_that() -> None:
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(60), 5)
    sex = rng.integers(2, size=60)[persons]
    colour = rng.integers(3, size=300)
    identity = rng.normal(size=(300, 8)) + 6 * np.eye(8)[sex]
    clothing = rng.normal(size=(300, 8)) + 6 * np.eye(8)[colour]
    attributes = {
        "sex": [("male", "female")[value] for value in sex],
        "colour": [str(value) if index % 3 else None for index, value in enumerate(colour)],
        "constant": ["same"] * 300,
        "one person's": ["yes" if person == 7 else "no" for person in persons],
    }
    scores = probe_attributes(identity, clothing, persons.tolist(), attributes)
    assert set(scores) == {"sex", "colour", "one person's"}
    assert scores["colour"].images == 200
    assert scores["sex"].identity > 95 > 75 > scores["sex"].clothing
    assert scores["colour"].clothing > 95 > 60 > scores["colour"].identity
    assert scores["one person's"].chance == 100 * 295 / 300


def test_probes_are_disjoint_in_persons() -> None:
    """A feature that only names the person tells nothing of the attributes of others."""
    persons = np.repeat(np.arange(40), 5)
    label = np.random.default_rng(0).integers(2, size=40)[persons]
    names = np.eye(40)[persons]
    score = probe_attributes(names, names, persons.tolist(), {"a": [str(value) for value in label]})["a"]
    assert score.identity < 70


def test_above_chance_is_0_at_chance_and_100_at_best() -> None:
    persons = np.repeat(np.arange(40), 5)
    label = np.random.default_rng(0).integers(2, size=40)[persons]
    features = label[:, None] * np.ones((1, 3))
    scores = probe_attributes(features, np.zeros((200, 3)), persons.tolist(), {"a": [str(v) for v in label]})
    assert above_chance(scores, "identity") == 100
    assert above_chance(scores, "clothing") == 0
    assert above_chance({}, "identity") is None


def test_pictures_are_drawn(tmp_path: Path) -> None:
    images = []
    for index in range(5):
        images.append(tmp_path / f"{index}.jpg")
        Image.new("RGB", (24, 48), (50 * index, 90, 120)).save(images[-1])
    long = "A woman with $5 in a <red> coat and a very long description of it. " * 12
    rows = [
        pictures.Retrieval(long, tuple(images), (True, False, False, True, False), 1),
        pictures.Retrieval("short", tuple(images[:3]), (False, False, False), None),
    ]
    rng = np.random.default_rng(0)
    steps = list(range(300))
    pictures.draw_retrievals(rows, "Queries", tmp_path / "retrievals.png")
    weights = {name: rng.random(90) for name in ("identity", "clothing", "image", "text")}
    pictures.draw_gates(weights, tmp_path / "gates.png")
    curves = {
        "loss/info": (steps, [3 * 0.99**s for s in steps]),
        "weight/info": (steps, [1.0] * 300),
        "val/r1": ([100, 200], [10.0, 20.0]),
    }
    pictures.draw_curves(
        {name: (list(map(float, x)), y) for name, (x, y) in curves.items()}, tmp_path / "curves.png"
    )
    pictures.draw_curves({}, tmp_path / "none.png")
    scores = {"sex": {"chance": 50.0, "identity": 90.0, "clothing": 60.0}}
    pictures.draw_probes(scores, tmp_path / "probes.png")
    names = ["retrievals.png", "gates.png", "curves.png", "none.png", "probes.png"]
    pictures.stack([tmp_path / name for name in names], tmp_path / "overview.png")
    for name in [*names, "overview.png"]:
        with Image.open(tmp_path / name) as image:
            assert image.width > 400
            assert np.asarray(image.convert("L")).std() > 5, f"{name} is empty"
    pictures.write_page("Run <x>", "r1 & map", {"Curves": "curves.png"}, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert "Run &lt;x&gt;" in text and "r1 &amp; map" in text and 'src="curves.png"' in text
