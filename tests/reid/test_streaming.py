"""Rankings of large galleries: rated some queries at a time, to the last bit as all at once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_search import Brightness
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bdam_reid.data import checks
from bdam_reid.data.checks import check_answers
from bdam_reid.data.junk import same_camera
from bdam_reid.data.records import Protocol, Query, Record
from bdam_reid.evaluation import ranking as ranking_module
from bdam_reid.evaluation.metrics import retrieval
from bdam_reid.evaluation.ranking import Embedder, Ranking, choose_weights
from bdam_reid.evaluation.retrievals import retrievals

MILLION = 1_000_000
PARTS = {"identity": slice(0, 3), "clothing": slice(3, 8)}
WEIGHTS = {"identity": 1.0, "clothing": 0.3}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_ranking(queries: int, gallery: int) -> Ranking:
    """Of ten persons by four cameras, where an image of the same person and camera is junk."""
    asked = tuple(Query(image=Path("a.jpg"), identity=i % 10, camera=i % 3) for i in range(queries))
    images = tuple(Record(Path(f"{i}.jpg"), f"{i}", i % 10, "test", camera=i % 4) for i in range(min(gallery, 100)))
    embedded = random(queries, 8, seed=0), random(gallery, 8, seed=1)
    return Ranking(asked, images * (gallery // len(images)), *embedded, PARTS, same_camera)


def most_bytes(compute: Callable[[], object]) -> int:
    """The most that torch holds of what it takes meanwhile, as its allocator counts."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        compute()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert events
    return most


@pytest.mark.parametrize("queries", [1, 16, 17, 70])
def test_some_at_a_time_are_rated_as_all_at_once_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    ranking, choices = make_ranking(queries, 100), [WEIGHTS, {"clothing": 1.0}, {"identity": 1.0}]
    whole = ranking.metrics_at(choices)
    junk = same_camera(ranking.queries, ranking.gallery)
    similarity = [ranking.asked[:, part].contiguous() @ ranking.embeddings[:, part].T for part in PARTS.values()]
    scores = 1.0 * similarity[0] + 0.3 * similarity[1]
    assert whole[0] == retrieval(scores, ranking.query_ids, ranking.gallery_ids, junk)
    chosen, chance, shown = choose_weights([ranking], choices), ranking.chance(), retrievals(ranking, WEIGHTS, 5)
    monkeypatch.setattr(ranking_module, "BUDGET", 1)
    chunks = [len(numbers) for numbers in ranking.chunks()]
    assert sum(chunks) == queries and len(chunks) == -(-queries // 16) and max(chunks) - min(chunks) <= 1
    assert ranking.metrics_at(choices) == whole
    assert (choose_weights([ranking], choices), ranking.chance()) == (chosen, chance)
    assert retrievals(ranking, WEIGHTS, 5) == shown


def test_ties_rank_by_their_place_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = make_ranking(40, 100)
    ranking.embeddings[:] = ranking.embeddings[:1]
    whole = ranking.metrics(WEIGHTS)
    monkeypatch.setattr(ranking_module, "BUDGET", 1)
    assert ranking.metrics(WEIGHTS) == whole


def test_a_million_images_are_rated_in_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking, budget = make_ranking(2, MILLION), 75 * MILLION
    monkeypatch.setattr(ranking_module, "BUDGET", budget)
    monkeypatch.setattr(ranking_module, "LEAST", 1)
    ids = 4 * 8 * MILLION  # of persons and cameras
    all_at_once = 2 * 64 * MILLION
    assert most_bytes(lambda: (ranking.metrics(WEIGHTS), ranking.chance())) <= budget + ids < all_at_once


def test_the_budget_holds_for_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking, budget = make_ranking(400, 2000), 4_000_000
    monkeypatch.setattr(ranking_module, "BUDGET", budget)
    assert most_bytes(lambda: ranking.metrics(WEIGHTS)) <= 1.1 * budget < 400 * 2000 * 64


def test_a_million_images_are_looked_up_in_bounded_memory() -> None:
    ranking = make_ranking(1, MILLION)
    nobody = [Query(image=Path("a.jpg"), identity=99, camera=0)] * 40
    protocol = Protocol("test", (*nobody, *ranking.queries[:1]), ranking.gallery, same_camera)
    assert most_bytes(lambda: check_answers(protocol)) <= 4 * checks.CELLS + 4 * 8 * MILLION < 40 * MILLION * 4


def test_a_gallery_is_embedded_into_the_memory_of_its_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Brightness):
        parts = {"all": slice(0, 16)}  # noqa: RUF012

        def embed_images(self, images: Tensor) -> Tensor:
            return super().embed_images(images).expand(-1, 16)

    image = torch.ones(3, 2, 1)
    monkeypatch.setattr(Embedder, "_load", lambda *_: image)
    records = make_ranking(1, 100_000).gallery
    embedder = Embedder(Wide(), torch.device("cpu"), batch_size=1000)
    embeddings, batch = 100_000 * 16 * 4, 1000 * (16 + 6 + 6) * 4
    assert most_bytes(lambda: embedder.gallery(records)) <= embeddings + 3 * batch
    assert embedder.gallery(records)[1].eq(1).all()
