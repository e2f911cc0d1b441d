"""Importance of attributes: scores whose truth is known."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import permutations
from math import factorial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student

from bdam_reid.config import ConfigError
from bdam_reid.studies import importance
from bdam_reid.studies.attribute_truth import Truth
from bdam_reid.studies.importance import (
    Importance,
    Trials,
    analyse,
    interactions,
    linear_effects,
    shapley_values,
    trials_wanted,
    welch_tests,
)
from bdam_reid.studies.importance_report import COLUMNS, write

NAMES = ("coat", "bag", "hat", "nothing")
TRUTH = np.array([2.0, 1.0, -0.5, 0.0])


def trials(noise: float = 0.2, together: float = 0.0, number: int = 120) -> Trials:
    generator = np.random.default_rng(0)
    switches = generator.random((number, len(NAMES))) < 0.5
    scores = 40 + switches @ TRUTH + together * (switches[:, 0] & switches[:, 1])
    return Trials(NAMES, switches, scores + noise * generator.standard_normal(number))


@pytest.fixture(scope="module", autouse=True)
def _small_forests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "TREES", 50)
        patch.setattr(importance, "REPEATS", 2)
        yield


@pytest.fixture(scope="module")
def found() -> Importance:
    return analyse(trials())


def test_all_figures_find_what_raises_the_score(found: Importance) -> None:
    assert found.ranked == ["coat", "bag", "nothing", "hat"] and found.explained > 0.9
    for name, truth in zip(NAMES, TRUTH, strict=True):
        effect = found.effects[name]
        assert effect.linear.low < truth < effect.linear.high
        assert abs(effect.shapley - truth) < 0.3
        assert (effect.linear_p < 0.001) == (truth != 0)
    assert found.effects["coat"].test.p_holm < 0.001 < found.effects["nothing"].test.p_holm
    assert found.effects["coat"].test.cohens_d > 1 > abs(found.effects["nothing"].test.cohens_d)
    for kind in ("impurity", "permutation"):
        values = {name: getattr(found.effects[name], kind) for name in NAMES}
        assert values["coat"] > values["bag"] > values["hat"] > values["nothing"]
    again = analyse(trials())
    assert again.effects == found.effects and np.array_equal(again.interactions, found.interactions)


def test_the_linear_model_is_that_of_least_squares() -> None:
    of = trials()
    design = np.column_stack([np.ones(len(of.scores)), of.switches])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ of.scores
    residual = of.scores - design @ coefficients
    errors = np.sqrt(np.diag(inverse) * (residual @ residual) / (len(of.scores) - design.shape[1]))
    for i, (estimate, _) in enumerate(linear_effects(of), start=1):
        assert estimate.value == pytest.approx(coefficients[i])
        # By Student's t: few trials are not enough for the normal distribution.
        assert estimate.high - estimate.value == pytest.approx(student.ppf(0.975, 120 - 5) * errors[i])


def test_welchs_test_and_holms_correction_by_hand() -> None:
    of = trials(noise=2.0)
    found = welch_tests(of)
    p = [one.p for one in found]
    holm = 0.0
    for rank, i in enumerate(np.argsort(p)):
        holm = max(holm, min(1.0, p[i] * (len(p) - rank)))
        assert found[i].p_holm == pytest.approx(holm)
    on, off = of.scores[of.switches[:, 0]], of.scores[~of.switches[:, 0]]
    assert found[0].difference.value == pytest.approx(on.mean() - off.mean())
    assert found[0].difference.low < found[0].difference.value < found[0].difference.high
    error = np.sqrt(on.var(ddof=1) / len(on) + off.var(ddof=1) / len(off))
    assert found[0].difference.high - found[0].difference.value == pytest.approx(1.96 * error, rel=0.15)


def value(switches: np.ndarray) -> np.ndarray:
    """A score of three attributes, two of which count only together."""
    return 3 * switches[:, 0] + 2 * switches[:, 1] * switches[:, 2]


def test_shapley_values_are_the_mean_gain_over_all_orders() -> None:
    expected = np.zeros(3)
    for order in permutations(range(3)):
        on = np.zeros((1, 3))
        for attribute in order:
            before = value(on)
            on[0, attribute] = 1
            expected[attribute] += (value(on) - before)[0] / factorial(3)
    assert expected.tolist() == [3, 1, 1]
    assert shapley_values(value, 3) == pytest.approx(expected)


def test_shapley_values_of_many_attributes_add_up() -> None:
    weights = np.arange(15.0)
    found = shapley_values(lambda on: on @ weights + on[:, 0] * on[:, 14], 15)
    assert found.sum() == pytest.approx(weights.sum() + 1)
    assert found[1:14] == pytest.approx(weights[1:14]) and 0.3 < found[0] < 0.7


def test_interactions_are_what_two_do_more_together() -> None:
    found, p = interactions(trials(together=1.5))
    assert np.array_equal(found, found.T) and not found.diagonal().any()
    assert found[0, 1] == pytest.approx(1.5, abs=0.3)
    others = found.copy()
    others[0, 1] = others[1, 0] = 0
    assert np.abs(others).max() < 0.4
    assert (np.argwhere(p < 0.05) == [[0, 1], [1, 0]]).all() and np.array_equal(p, p.T)


def test_interactions_need_no_more_trials_than_effects() -> None:
    few = trials(number=trials_wanted(len(NAMES)), together=3.0, noise=0.01)
    assert interactions(few).values[0, 1] == pytest.approx(3, abs=0.1)
    # Two that are never on together say nothing of their pair.
    apart = few.switches.copy()
    apart[:, 3] &= ~apart[:, 0]
    found = interactions(Trials(NAMES, apart, few.scores))
    assert np.isnan(found.values[0, 3]) and found.p[0, 3] == 1 and np.isfinite(found.values[0, 1])


def test_a_score_that_no_attribute_changes() -> None:
    of = trials()
    found = analyse(Trials(NAMES, of.switches, np.full(len(of.scores), 40.0)))
    for effect in found.effects.values():
        assert effect.linear.value == pytest.approx(0, abs=1e-9)
        assert (effect.test.p_holm, effect.test.cohens_d, effect.shapley) == (1.0, 0.0, pytest.approx(0))
    assert not found.interactions.values.any() and (found.interactions.p == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y: (s[:, :3], y), "switches must be"),
        (lambda s, y: (s, np.where(np.arange(len(y)) == 3, np.nan, y)), "scores must be finite, got nan"),
        (lambda s, y: (s[:9], y[:9]), "need 10 trials or more, got 9"),
        (lambda s, y: (s | [True, False, False, False], y), "got coat in one"),
        (lambda s, y: (np.column_stack([s[:, :3], s[:, 0]]), y), "apart from each other"),
    ],
)
def test_trials_that_say_nothing_are_refused(change: object, message: str) -> None:
    of = trials()
    with pytest.raises(ConfigError, match=message):
        Trials(NAMES, *change(of.switches, of.scores))  # type: ignore[operator]


def test_tables_and_pictures(found: Importance, tmp_path: Path) -> None:
    bits = dict(zip(NAMES, (2.0, 1.5, 0.5, 1.0), strict=True))
    truths = {name: Truth(0.25, bits[name], None if name == "hat" else 0.1, "bag", 0.5) for name in NAMES}
    text = write(found, truths, "attributes", tmp_path)
    assert (tmp_path / "attributes.md").read_text() == text + "\n"
    lines = text.splitlines()
    assert lines[2].startswith("| coat | 25% | 2.00 | 0.10 | bag 50% | 1.99 [")
    # The effects and the bits have the same order; what is shown is not known of all.
    assert lines[-3].startswith("| linear | 1.00 (p ") and lines[-3].endswith(" | - |")
    with (tmp_path / "attributes.csv").open() as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS and [row[0] for row in rows] == found.ranked
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert {row[0]: row[3] for row in rows} == {"coat": "0.1", "bag": "0.1", "hat": "", "nothing": "0.1"}
    with Image.open(tmp_path / "attributes.png") as image:
        assert image.width > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attributes.csv", "attributes.md", "attributes.png"]
