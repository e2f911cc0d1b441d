"""Retrieval metrics against a slow and obvious loop."""

from __future__ import annotations

from dataclasses import astuple, replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bdam_reid.evaluation import metrics
from bdam_reid.evaluation.metrics import Metrics, retrieval

# Sums of at most a few hundred terms, in percent.
TOLERANCE = 1000 * 100 * torch.finfo(torch.float64).eps


Problem = tuple[list[list[float]], list[int], list[int]]


def slow(
    similarity: list[list[float]],
    query_ids: list[int],
    gallery_ids: list[int],
    junk: list[list[bool]] | None = None,
) -> Metrics:
    """Definitions, one query at a time."""
    rows: list[tuple[float, ...]] = []
    for number, (scores, identity) in enumerate(zip(similarity, query_ids, strict=True)):
        kept = [i for i in range(len(gallery_ids)) if junk is None or not junk[number][i]]
        ranking = sorted(kept, key=lambda i: (-scores[i], i))
        ranks = [rank for rank, i in enumerate(ranking, 1) if gallery_ids[i] == identity]
        if ranks:
            within = [float(ranks[0] <= k) for k in (1, 5, 10)]
            average_precision = sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks)
            rows.append((*within, average_precision, len(ranks) / ranks[-1]))
    means = (100 * sum(column) / len(rows) for column in zip(*rows, strict=True))
    return Metrics(*means, len(query_ids), len(gallery_ids), len(query_ids) - len(rows))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    queries, gallery = draw(st.integers(1, 12)), draw(st.integers(1, 15))
    # Few distinct values, so that ties are the rule.
    score = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.25, 1.0])
    identity = st.integers(0, 4)
    gallery_ids = draw(st.lists(identity, min_size=gallery, max_size=gallery))
    query_ids = draw(st.lists(identity, min_size=queries, max_size=queries))
    query_ids[0] = gallery_ids[0]
    row = st.lists(score, min_size=gallery, max_size=gallery)
    return draw(st.lists(row, min_size=queries, max_size=queries)), query_ids, gallery_ids


def check(actual: Metrics, expected: Metrics) -> None:
    assert astuple(actual) == pytest.approx(astuple(expected), abs=TOLERANCE, rel=0)


@given(problems())
def test_equals_the_definitions(problem: Problem) -> None:
    check(retrieval(*map(torch.tensor, problem)), slow(*problem))


@given(problems(), st.randoms(use_true_random=False))
def test_junk_is_as_if_it_were_not_in_the_gallery(problem: Problem, random: Random) -> None:
    _, query_ids, gallery_ids = problem
    junk = [[random.random() < 0.5 for _ in gallery_ids] for _ in query_ids]
    junk[0][gallery_ids.index(query_ids[0])] = False
    check(retrieval(*map(torch.tensor, problem), torch.tensor(junk)), slow(*problem, junk))


def test_junk_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"junk must have the shape of similarity \(2, 2\), got \(2,\)"):
        retrieval(torch.zeros(2, 2), torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.bool))


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_queries_is_nothing(problem: Problem, random: Random) -> None:
    similarity, query_ids, gallery_ids = problem
    order = list(range(len(query_ids)))
    random.shuffle(order)
    shuffled = [similarity[i] for i in order], [query_ids[i] for i in order], gallery_ids
    check(retrieval(*map(torch.tensor, shuffled)), retrieval(*map(torch.tensor, problem)))


@given(problems())
def test_better_scores_of_positives_never_hurt(problem: Problem) -> None:
    similarity, query_ids, gallery_ids = map(torch.tensor, problem)
    positive = query_ids[:, None] == gallery_ids
    before, after = (
        retrieval(similarity, query_ids, gallery_ids),
        retrieval(similarity + positive * 0.5, query_ids, gallery_ids),
    )
    assert all(a >= b - TOLERANCE for a, b in zip(astuple(after), astuple(before), strict=True))
    perfect = retrieval(similarity + positive * 10, query_ids, gallery_ids)
    assert (perfect.r1, perfect.map, perfect.minp) == (100, 100, 100)


def random_problem(queries: int, gallery: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(queries, gallery, generator=generator),
        torch.randint(0, 60, (queries,), generator=generator),
        torch.randint(0, 40, (gallery,), generator=generator),
    )


def test_random_ranking_of_a_larger_set() -> None:
    problem = random_problem(300, 200)
    check(retrieval(*problem), slow(*(x.tolist() for x in problem)))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(50, 30)
    whole = retrieval(*problem)
    junk = torch.rand(50, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    whole_with_junk = retrieval(*problem, junk)
    monkeypatch.setattr(metrics, "CHUNK", 7)
    assert retrieval(*problem) == whole
    assert retrieval(*problem, junk) == whole_with_junk != whole


def test_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    result = retrieval(similarity, torch.tensor([7, 8, 9]), torch.tensor([8, 7, 8, 7]))
    # Query 0: positives at ranks 2 and 4; query 1, all tied: ranks 1 and 3; query 2 has none.
    expected = Metrics(50, 100, 100, 100 * (0.5 + 5 / 6) / 2, 100 * (0.5 + 2 / 3) / 2, 3, 4, 1)
    check(result, expected)


def test_gallery_smaller_than_k() -> None:
    result = retrieval(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0, 1]))
    check(result, Metrics(0, 100, 100, 50, 50, 1, 2, 0))


def test_queries_without_positive_leave_the_rates_alone() -> None:
    similarity, query_ids, gallery_ids = random_problem(40, 30)
    known = torch.isin(query_ids, gallery_ids)
    part = retrieval(similarity[known], query_ids[known], gallery_ids)
    assert 0 < known.sum() < len(known)
    check(
        retrieval(similarity, query_ids, gallery_ids),
        replace(part, queries=len(known), queries_without_positive=int((~known).sum())),
    )


@pytest.mark.parametrize(
    ("similarity", "query_ids", "gallery_ids", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3), torch.zeros(3), r"got \(2, 3\), \(3,\) and \(3,\)"),
        (torch.zeros(2), torch.zeros(2), torch.zeros(1), "similarity must be"),
        (torch.zeros(2, 0), torch.zeros(2), torch.zeros(0), "gallery is empty"),
        (torch.zeros(0, 2), torch.zeros(0), torch.zeros(2), "none of the 0 queries"),
        (torch.zeros(2, 2), torch.ones(2), torch.zeros(2), "none of the 2 queries"),
        (torch.full((1, 1), torch.nan), torch.zeros(1), torch.zeros(1), "NaN"),
    ],
    ids=["shapes", "one-dimensional", "empty-gallery", "no-queries", "no-positive", "nan"],
)
def test_bad_input(similarity: Tensor, query_ids: Tensor, gallery_ids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval(similarity, query_ids, gallery_ids)


def test_ties_in_a_large_gallery_rank_by_index() -> None:
    """Sorting that is not stable keeps the order of short rows only."""
    gallery_ids = torch.zeros(5000, dtype=torch.int64)
    gallery_ids[3123] = 1
    similarity = (torch.arange(5000) % 2).float()[None]
    result = retrieval(similarity, torch.tensor([1]), gallery_ids)
    rank = 3123 // 2 + 1
    check(result, Metrics(0, 0, 0, 100 / rank, 100 / rank, 1, 5000, 0))
