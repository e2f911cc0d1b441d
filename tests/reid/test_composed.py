"""ITCPR: queries of an image and a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import write_image
from image_search import Brightness
from tiny_run import tiny

from bdam_reid.data.__main__ import main as data
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import DatasetError, Query, QueryError
from bdam_reid.evaluate import Options, evaluate_run
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.train import train


def entry(number: int, person: Any, instance: Any, **more: Any) -> dict[str, Any]:
    path = f"PRCC/rgb/{number}.jpg"
    return {"file_path": path, "datasets": "PRCC", "person_id": person, "instance_id": instance, **more}


def queries() -> list[dict[str, Any]]:
    """Of two persons, each in the outfit of other images."""
    return [entry(n, n, 10 + n, caption=f"The person wears a red shirt {n}.") for n in range(2)]


def gallery() -> list[dict[str, Any]]:
    """Two images of each instance that is looked for, one of the first person in other clothes, two distractors."""
    right = [entry(100 + 10 * n + i, str(n), 10 + n) for n in range(2) for i in range(2)]
    return [*right, entry(120, 0, 30), entry(121, -1, -1), entry(122, "-1", "-1")]


def write(root: Path, asked: list[Any], found: list[Any]) -> Path:
    for number, one in enumerate((*asked, *found)):
        if isinstance(one, dict) and one.get("file_path"):
            write_image(root / one["file_path"], 20 + 9 * number)
    root.mkdir(parents=True, exist_ok=True)
    (root / "query.json").write_text(json.dumps(asked))
    (root / "gallery.json").write_text(json.dumps(found))
    return root


def test_itcpr(tmp_path: Path) -> None:
    root = write(tmp_path / "itcpr", queries(), gallery())
    dataset = load_dataset(root)
    assert (dataset.name, dataset.train, list(dataset.protocols)) == ("itcpr", (), ["test"])
    protocol = dataset.protocols["test"]
    first = Query(text="The person wears a red shirt 0.", image=root / "PRCC/rgb/0.jpg", identity=10)
    assert protocol.queries[0] == first and len(protocol.queries) == 2
    assert [record.identity for record in protocol.gallery] == [10, 10, 11, 11, 30, -1, -1]
    assert str(dataset.report).endswith("test: 9 images of 2 persons, 2 captions")
    assert data(["check", str(root)]) == 0


def test_what_cannot_be_used_is_skipped_and_counted(tmp_path: Path) -> None:
    asked = [*queries(), entry(7, 1, 11, caption=" "), entry(8, -1, -1, caption="Nobody."), 5, entry(9, "x", 3)]
    asked += [{**entry(9, 1, 11, caption="A man."), "file_path": ""}]
    found = [*gallery(), gallery()[0], entry(9, 2**63, 3)]
    dataset = load_dataset(write(tmp_path / "itcpr", asked, found))
    assert len(dataset.protocols["test"].queries) == 2 and len(dataset.protocols["test"].gallery) == 7
    assert {finding.what: finding.count for finding in dataset.report.findings} == {
        "entries of query.json without file_path, person_id or instance_id skipped": 3,
        "entries of gallery.json without file_path, person_id or instance_id skipped": 1,
        "queries without a caption skipped": 1,
        "queries whose instance is a distractor skipped": 1,
        "gallery entries of an image that has one already skipped": 1,
    }


def change(index: int, **changes: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda entries: [{**one, **(changes if at == index else {})} for at, one in enumerate(entries)]


@pytest.mark.parametrize(
    ("asked", "found", "message"),
    [
        (change(0, instance_id=11), list, "instance 11 of .* is of the persons 0 and 1"),
        (list, lambda entries: [*entries, {**entries[0], "instance_id": 12}], "is of the instances 10 and 12"),
        (change(0, file_path="../a.jpg"), list, r"query\.json: entry number 0 must name a file below"),
        (list, lambda _: {"a": 1}, r"gallery\.json must hold a list of entries, got an object"),
        (lambda _: [], list, "got 0 and 7"),
        (list, lambda _: [], "got 2 and 0"),
        (list, lambda entries: entries[4:], "for some query, got none for all 2 queries and 3 images"),
    ],
)
def test_what_would_make_a_result_wrong_is_an_error(
    tmp_path: Path, asked: Callable[[list[Any]], Any], found: Callable[[list[Any]], Any], message: str
) -> None:
    root = write(tmp_path / "sets" / "itcpr", asked(queries()), found(gallery()))
    with pytest.raises(DatasetError, match=message):
        load_dataset(root)


def test_missing_images_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "itcpr", queries(), gallery())
    (root / "PRCC/rgb/0.jpg").unlink()
    (root / "PRCC/rgb/122.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 missing of 2 query images .* 1 missing of 7 test images"):
        load_dataset(root)
    assert len(load_dataset(root, allow_missing=True).protocols["test"].gallery) == 7


def test_nothing_is_trained_on_it(tmp_path: Path) -> None:
    root = write(tmp_path / "itcpr", queries(), gallery())
    with pytest.raises(DatasetError, match=r"expected training images, got itcpr at .* for evaluation only"):
        train(tiny(root, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_is_evaluated_on_it(finished: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "itcpr", queries(), gallery())
    metrics = evaluate_run(Options(finished, root=root, output=tmp_path / "out")).metrics
    assert metrics["evaluated_on"] == f"itcpr at {root}"
    results = metrics["protocols"]["test"]["results"]
    assert all((row["queries"], row["gallery"]) == (2, 7) for row in results.values())
    assert metrics["protocols"]["test"]["chance_r1"] == pytest.approx(100 * 2 / 7)


def test_a_method_that_cannot_read_both_says_so(tmp_path: Path) -> None:
    class Sentences(Brightness):
        def embed_queries(self, queries: object) -> torch.Tensor:
            raise QueryError("it reads sentences only")

    protocol = load_dataset(write(tmp_path / "itcpr", queries(), gallery())).protocols["test"]
    with pytest.raises(QueryError, match="sentences only"):
        Embedder(Sentences(), torch.device("cpu")).rank(protocol)
