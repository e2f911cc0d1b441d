"""What validation chooses: a checkpoint, and weights of parts for each question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from image_search import Brightness
from rankings import ranking_of

from bdam_kernels import cka_matrix
from bdam_reid.data.records import Clothes, Dataset, Findings, Protocol, Query, Record, Report
from bdam_reid.engine.trainer import Validation
from bdam_reid.evaluation.ranking import Embedder, Gallery, Ranking
from bdam_reid.evaluation.validation import dependence, validator

QUERIES = tuple(Query(text=f"caption {i}", identity=i) for i in range(4))
RECORDS = tuple(Record(Path(f"{i}.jpg"), f"{i}.jpg", i, "val") for i in range(4))
SAME, OTHER = (Protocol(clothes, QUERIES, RECORDS, split="val", clothes=clothes) for clothes in ("same", "other"))


class TwoParts(Brightness):
    """Knows an identity part, and a clothing part that it may weigh."""

    parts, weights = {"identity": slice(0, 1), "clothing": slice(1, 2)}, {"identity": 1.0, "clothing": 0.5}

    def weight_choices(self) -> list[dict[str, float]]:
        return [{"identity": 1.0, "clothing": clothing} for clothing in (0.0, 1.0, 2.0)]


def validate(monkeypatch: pytest.MonkeyPatch, *protocols: Protocol) -> Validation | None:
    """The identity part finds half of the persons; the clothing part finds all in the same clothes, none in others."""

    def rank(_: Embedder, protocol: Protocol, gallery: Gallery) -> Ranking:
        identity, found = torch.eye(4), torch.eye(4)
        identity[:2, :2] = torch.tensor([[0.55, 1.0], [1.0, 0.55]])
        clothing = {"same": found, "other": 1 - found}[protocol.clothes]
        return ranking_of(protocol.queries, protocol.gallery, {"identity": identity, "clothing": clothing})

    monkeypatch.setattr(Embedder, "rank", rank)
    monkeypatch.setattr(Embedder, "gallery", lambda *_: (RECORDS, torch.arange(9.0)[:, None].expand(9, 2)))
    named = {protocol.name: protocol for protocol in (*protocols, replace(SAME, name="test", split="test"))}
    dataset = Dataset("drawn", Path(), (), named, Report.of({"train": (), "val": (), "test": ()}, Findings()))
    validates = validator(dataset, torch.device("cpu"), "no", False)
    return validates(TwoParts()) if validates else None


def test_each_question_has_its_weights_and_the_score_is_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    found = validate(monkeypatch, SAME, OTHER)
    assert found is not None
    expected = {"same": {"identity": 1.0, "clothing": 1.0}, "other": {"identity": 1.0, "clothing": 0.0}}
    assert found.weights == expected
    assert (found.metrics["r1"], found.metrics["other_r1"]) == (100, 50)
    assert found.score == (75, (found.metrics["map"] + found.metrics["other_map"]) / 2)
    assert found.words == (
        "validation  the same clothes: R-1 100.00, mAP 100.00 (identity 1, clothing 1); "
        "other clothes: R-1 50.00, mAP 75.00 (identity 1, clothing 0); cka_linear 1.00; cka_rbf 1.00"
    )


@pytest.mark.parametrize(
    ("protocol", "clothes", "weights"), [(SAME, "other", {"identity": 1.0, "clothing": 0.0}), (OTHER, "same", None)]
)
def test_defaults_stand_for_a_question_that_validation_does_not_ask(
    monkeypatch: pytest.MonkeyPatch, protocol: Protocol, clothes: Clothes, weights: dict[str, float] | None
) -> None:
    found = validate(monkeypatch, protocol)
    assert found is not None and found.weights[clothes] == (weights or TwoParts.weights)
    assert len(found.metrics) == 5 + 2 and len(found.score) == 2


def test_without_a_protocol_of_validation_persons_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert validate(monkeypatch) is None


def test_parts_that_share_nothing_are_told_from_those_that_do() -> None:
    one, other, third = (torch.randn(200, 40, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    two, three = ({name: slice(40 * i, 40 * i + 40) for i, name in enumerate("abc"[:parts])} for parts in (2, 3))
    assert dependence(two, torch.cat((one, 3 * one), dim=1)) == pytest.approx({"cka_linear": 1, "cka_rbf": 1}, abs=1e-4)
    assert all(abs(value) < 0.05 for value in dependence(two, torch.cat((one, other), dim=1)).values())
    assert all(value > 0.3 for value in dependence(three, torch.cat((one, third, one + other), dim=1)).values())
    assert dependence({"a": slice(0, 40)}, one) == {}
    assert dependence(two, torch.cat((one, other), dim=1)[:3]) == {}
    # Linear CKA is normalised linear HSIC.
    linear = cka_matrix([one], [one + other], estimator="unbiased").item()
    assert dependence(two, torch.cat((one, one + other), dim=1))["cka_linear"] == pytest.approx(linear, rel=1e-4)


@pytest.mark.parametrize("rows", [torch.zeros(9, 2), torch.ones(9, 2).cumsum(dim=0)[:, :1] * torch.tensor([1.0, 0.0])])
def test_parts_that_are_the_same_for_all_images_are_no_trouble(rows: torch.Tensor) -> None:
    parts = {"a": slice(0, 1), "b": slice(1, 2)}
    assert all(value == 0 for value in dependence(parts, rows).values())
