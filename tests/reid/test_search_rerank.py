"""Re-ranking of what a search has found: the order that the method gives, and models that cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from served import make_index
from tiny_run import tiny

from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError
from bdam_reid.data.records import Clothes, Dataset, QueryError
from bdam_reid.engine.trainer import make_method
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods.bdam.method import BDAM
from bdam_reid.search.__main__ import main
from bdam_reid.search.finder import Finder
from bdam_reid.search.index.reader import open_index
from bdam_reid.search.index.update import update_index
from bdam_reid.search.query import Question
from bdam_reid.search.retriever import Retriever
from bdam_reid.search.table import Table

TOP = 4
MATCHER = f"--method.rerank.kind simple --method.rerank.width 16 --method.rerank.top {TOP} --method.rerank.weight 1"


@pytest.fixture(scope="module")
def dataset(people: Path) -> Dataset:
    return load_dataset(people)


@pytest.fixture(scope="module")
def method(people: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> BDAM:
    """As it begins, but for its matcher, which is as training may leave it."""
    folder = tmp_path_factory.mktemp("matcher")
    torch.manual_seed(0)
    method = make_method(tiny(people, folder, *MATCHER.split()), folder, dataset)
    assert isinstance(method, BDAM) and method.matcher is not None
    torch.nn.init.normal_(method.matcher.out.weight)
    return method.eval()


@pytest.fixture(scope="module")
def finder(method: BDAM, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Finder:
    """Photographs of the test persons, each named by its number."""
    root = tmp_path_factory.mktemp("reranked")
    (root / "gallery").mkdir()
    for number, record in enumerate(dataset.protocols["test"].gallery):
        shutil.copy(record.path, root / "gallery" / f"{number}.jpg")
    retriever = Retriever(method, method.default_weights(), torch.device("cpu"), "no", "random")
    update_index(root / "index", root / "gallery", retriever, "nowhere", Table())
    return Finder(open_index(root / "index"), retriever)


@pytest.mark.parametrize("clothes", ["same", "other"])
def test_the_best_are_ordered_as_the_method_orders_them(
    finder: Finder, method: BDAM, dataset: Dataset, clothes: Clothes
) -> None:
    """For captions of the test, whose images are embedded and read by an evaluation's own means."""
    protocol, changed = dataset.protocols["test"], 0
    embedder = Embedder(method, torch.device("cpu"))
    ranking, patches = embedder.rank(protocol), embedder.candidates(protocol.gallery)
    for number, query in enumerate(protocol.queries[:4]):
        assert query.text
        scores = ranking.scores(method.default_weights()[clothes], range(number, number + 1))[0]
        order = scores.argsort(descending=True)
        best = order[:TOP]
        with torch.inference_mode():
            better = method.rerank([query], patches[best][None], scores[best][None], clothes)[0]
        again = better.argsort(descending=True)
        found = finder.find(Question(query.text), 99, clothes=clothes, rerank=True)
        expected = [*best[again].tolist(), *order[TOP:].tolist()]
        assert [hit.path for hit in found] == [f"{place}.jpg" for place in expected]
        assert [hit.score for hit in found[:TOP]] == pytest.approx(better[again].tolist(), abs=2e-2)
        assert found[TOP:] == finder.find(Question(query.text), 99, clothes=clothes)[TOP:]
        assert finder.find(Question(query.text), 2, clothes=clothes, rerank=True) == found[:2]
        changed += again.tolist() != [*range(TOP)]
    assert changed


def test_what_cannot_be_re_ranked_is_said(
    finder: Finder, finished: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Path(finder.gallery.manifest.folder) / finder.find(Question("a man"), 1)[0].path
    for question in (Question("a man", (best,)), Question(pictures=(best,))):
        with pytest.raises(QueryError, match="re-ranking reads a sentence with each photograph: ask without pictures"):
            finder.find(question, rerank=True)
    kept = best.rename(best.with_name("kept"))
    try:
        with pytest.raises(ImageError, match=f"cannot be read any more: '{best.name}'"):
            finder.find(Question("a man"), rerank=True)
    finally:
        kept.rename(best)
    with pytest.raises(SystemExit):
        main(["query", str(make_index(finished, people, tmp_path)), "a man", "--rerank"])
    assert "error: this model has no part that re-ranks: train a run of BDAM with" in capsys.readouterr().err
