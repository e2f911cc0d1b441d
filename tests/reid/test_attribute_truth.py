"""Whether the study of attributes finds the truth, on a stand-in for a model and its pictures of which all is known."""

from __future__ import annotations

from math import log2
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from bdam_reid.data.attributes import Labels
from bdam_reid.evaluation.metrics import retrieval
from bdam_reid.evaluation.probes import PROBES
from bdam_reid.studies import importance
from bdam_reid.studies.attribute_truth import Truth, information, rank_correlation, shared, shown, truths
from bdam_reid.studies.importance import Importance, Trials, analyse

PERSONS, IMAGES, TRIALS, WIDTH = 120, 4, 96, 24
STATES = {"coat": 6, "secret": 4, "trousers": 3, "bag": 2, "hat": 1}
"""How many states an attribute has, which persons have at random."""
INVISIBLE, COPY = "secret", "jacket"
"""What no picture shows, and what says the same as the coat."""
NAMES = (*STATES, COPY)


class Study(NamedTuple):
    found: Importance
    truth: dict[str, Truth]


@pytest.fixture(scope="module")
def study() -> Study:
    """What the study says of persons whose labels are numbers of states."""
    generator = np.random.default_rng(0)
    states = {name: generator.integers(number, size=PERSONS) for name, number in STATES.items()}
    states[COPY] = states["coat"]
    people = np.repeat(np.arange(PERSONS), IMAGES)
    persons: list[Labels] = [{name: str(of[person]) for name, of in states.items()} for person in range(PERSONS)]
    images = [persons[person] for person in people]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "TREES", 50)
        patch.setattr(importance, "REPEATS", 2)
        found = analyse(_trials(states, people, generator))
    # Heads learn from the persons of the first half, and say what they read of the others.
    half, pictures = len(images) // 2, _pictures(states, people, generator)
    said: list[dict[str, str]] = [{} for _ in images[half:]]
    for name in NAMES:
        column = np.array([of[name] for of in images[:half]], dtype=str)
        answers = PROBES["linear"](pictures[:half], column)(pictures[half:]) if STATES.get(name) != 1 else column
        for of, answer in zip(said, answers, strict=True):
            of[name] = str(answer)
    return Study(found, truths(NAMES, persons, shown(images[half:], said)))


def _trials(states: dict[str, np.ndarray], people: np.ndarray, generator: np.random.Generator) -> Trials:
    """A model that adds a code of each label that is switched on to what it sees of a person otherwise, whether the
    label is shown or not, as an oracle's experts do. Its neck takes off the mean."""
    told = [0.3 * np.eye(states[name].max() + 1)[states[name]][people] for name in NAMES]
    sight = generator.standard_normal((PERSONS, WIDTH))[people] + generator.standard_normal((len(people), WIDTH))
    switches = generator.random((TRIALS, len(NAMES))) < 0.5
    asked = np.arange(len(people)) % IMAGES == 0
    ids = [torch.from_numpy(people[rows]) for rows in (asked, ~asked)]
    scores = []
    for on in switches:
        codes = [switch * code for switch, code in zip(on, told, strict=True)]
        features = np.concatenate([sight / WIDTH**0.5, *codes], axis=1)
        vectors = functional.normalize(torch.from_numpy(features - features.mean(axis=0)), dim=1)
        scores.append(retrieval(vectors[asked] @ vectors[~asked].T, *ids).map)
    return Trials(NAMES, switches, np.array(scores))


def _pictures(states: dict[str, np.ndarray], people: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """All labels but one, with noise."""
    seen = np.concatenate([np.eye(of.max() + 1)[of] for name, of in states.items() if name != INVISIBLE], axis=1)
    return seen[people] + 0.2 * generator.standard_normal((len(people), seen.shape[1]))


def test_a_constant_attribute_has_no_effect(study: Study) -> None:
    effect, least = study.found.effects["hat"], study.found.effects["bag"]
    assert study.truth["hat"] == Truth(0.0, 0.0, 0.0, "", 0.0)
    assert abs(effect.linear.value) < 0.2 * least.linear.value and abs(effect.shapley) < 0.5 * least.shapley


def test_an_invisible_attribute_is_a_leak(study: Study) -> None:
    """An oracle's ranking cannot tell it from one that is shown, so the study says it beside: nothing of it is read."""
    effect = study.found.effects[INVISIBLE]
    assert effect.linear.low > 0 and effect.test.p_holm < 0.05
    shares = {name: (of.shown or 0) / of.information for name, of in study.truth.items() if of.information}
    assert shares.pop(INVISIBLE) < 0.15 and min(shares.values()) > 0.8


def test_a_copy_is_told_by_what_it_is_a_copy_of(study: Study) -> None:
    assert study.truth[COPY].told_by == "coat" and study.truth["coat"].told_by == COPY
    assert study.truth[COPY].told == study.truth["coat"].told == pytest.approx(1)
    assert all(of.told < 0.2 for name, of in study.truth.items() if name not in (COPY, "coat"))


def test_what_is_found_goes_with_the_information_of_labels(study: Study) -> None:
    effects, bits = [study.found.effects[name] for name in STATES], [study.truth[name].information for name in STATES]
    assert bits == sorted(bits, reverse=True) and bits[-1] == 0
    assert rank_correlation([of.linear.value for of in effects], bits) == (pytest.approx(1), pytest.approx(0))
    found = rank_correlation([of.shapley for of in effects], bits)
    assert found is not None and found[0] > 0.65


def test_information_is_counted_in_bits() -> None:
    assert information("aabb") == information(["x", "x", None, None]) == 1
    assert information("aaaa") == 0 and information("abcd") == 2
    assert information("aaab") == pytest.approx(0.75 * log2(4 / 3) + 0.25 * 2)
    assert shared("aabb", "xyxy") == pytest.approx(0) and shared("aabb", "yyxx") == pytest.approx(1)
    assert shared("abcd", "xxyy") == pytest.approx(1)
    read = shown([{"hat": "no", "age": None}, {"hat": "yes"}, {}], [{"hat": "a", "age": "old"}, {"hat": "b"}, {}])
    assert read == {"hat": pytest.approx(1)}


def test_a_rank_correlation_needs_ranks_on_both_sides() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 40]) == (pytest.approx(1), pytest.approx(0))
    assert rank_correlation([1, 2, 3], [1, 1, 1]) is None and rank_correlation([2, 2], [1, 3]) is None
    assert rank_correlation([1, 2], [1, None]) is None
