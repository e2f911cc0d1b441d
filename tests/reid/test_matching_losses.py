"""The losses of CLIP, IRRA and RDE against direct transcriptions in float64, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from naive import close, linear, random
from torch import Tensor, nn
from torch.nn import functional as F

from bdam_reid.losses.info_nce import symmetric_info_nce
from bdam_reid.losses.sdm import similarity_distribution_matching
from bdam_reid.losses.tal import triplet_alignment_loss
from bdam_reid.methods.dual_encoder.method import identity_loss

TAU, MARGIN = 0.3, 0.4
DISTINCT, PAIRS, UNEVEN = [4, 2, 9, 0, 7], [1, 1, 5, 5, 3, 3], [2, 2, 2, 8, 0, 8]


def features(people: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    image, text = (F.normalize(random(len(people), 5, seed=seed), dim=1) for seed in (1, 2))
    return image, text, torch.tensor(people)


def naive_itc(s: list[list[float]], people: list[int], aware: bool) -> float:
    total = 0.0
    for i, row in enumerate(s):
        positives = [j for j in range(len(row)) if (people[i] == people[j] if aware else i == j)]
        below = sum(math.exp(x / TAU) for x in row)
        total -= sum(math.log(math.exp(row[j] / TAU) / below) for j in positives) / len(positives)
    return total / len(s)


def naive_sdm(s: list[list[float]], people: list[int]) -> float:
    total = 0.0
    for i, row in enumerate(s):
        below, friends = sum(math.exp(x / TAU) for x in row), people.count(people[i])
        for j, x in enumerate(row):
            p, q = math.exp(x / TAU) / below, (people[i] == people[j]) / friends
            total += p * math.log(p / (q + 1e-8))
    return total / len(s)


def naive_tal(s: list[list[float]], people: list[int]) -> float:
    total = 0.0
    for i, row in enumerate(s):
        positive = [x for j, x in enumerate(row) if people[i] == people[j]]
        negative = [x for j, x in enumerate(row) if people[i] != people[j]]
        alpha = [math.exp(x / TAU) for x in positive]
        wanted = sum(a * x for a, x in zip(alpha, positive, strict=True)) / sum(alpha)
        total += max(0.0, MARGIN - wanted + TAU * math.log(sum(math.exp(x / TAU) for x in negative)))
    return total / len(s)


def both_ways(naive: Callable[..., float], image: Tensor, text: Tensor, *more: object) -> float:
    s = (image @ text.T).tolist()
    return naive(s, *more) + naive([list(column) for column in zip(*s, strict=True)], *more)


@pytest.mark.parametrize("people", [DISTINCT, PAIRS, UNEVEN], ids=["distinct", "pairs", "uneven"])
def test_losses_are_the_equations(people: list[int]) -> None:
    image, text, identities = features(people)
    for aware in (False, True):
        expected = both_ways(naive_itc, image, text, people, aware) / 2
        close(symmetric_info_nce(image, text, identities, TAU, aware), expected)
    close(similarity_distribution_matching(image, text, identities, TAU), both_ways(naive_sdm, image, text, people))
    close(triplet_alignment_loss(image, text, identities, TAU, MARGIN), both_ways(naive_tal, image, text, people))


def test_where_persons_are_distinct_awareness_changes_nothing() -> None:
    image, text, identities = features(DISTINCT)
    plain, aware = (symmetric_info_nce(image, text, identities, TAU, aware) for aware in (False, True))
    assert torch.equal(plain, aware)


def test_sdm_is_near_zero_where_similarities_are_as_the_identities() -> None:
    image = torch.eye(3).double().repeat_interleave(2, dim=0)
    identities = torch.tensor([0, 0, 1, 1, 2, 2])
    assert abs(similarity_distribution_matching(image, image, identities, 0.02)) < 1e-6
    assert similarity_distribution_matching(image, image, identities.flip(0).roll(1), 0.02) > 1


def test_tal_is_the_triplet_loss_with_the_hardest_negative_in_the_limit() -> None:
    image, text, identities = features(PAIRS)
    s, same = image @ text.T, identities[:, None] == identities
    expected = sum(
        (MARGIN - x.masked_fill(~same, -9).amax(1) + x.masked_fill(same, -9).amax(1)).relu().mean() for x in (s, s.T)
    )
    torch.testing.assert_close(
        triplet_alignment_loss(image, text, identities, 1e-4, MARGIN), expected, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tal_of_one_person_is_zero_and_moves_nothing(dtype: torch.dtype) -> None:
    image, text, identities = features([3, 3, 3])
    image, text = image.to(dtype).requires_grad_(), text.to(dtype)
    loss = triplet_alignment_loss(image, text, identities, 0.015, MARGIN)
    loss.backward()
    assert loss == 0 and torch.equal(image.grad, torch.zeros_like(image))  # type: ignore[arg-type]


def test_no_gradient_goes_through_tals_weights_of_positives() -> None:
    people = PAIRS
    image, text, identities = features(people)
    leaf = image.clone().requires_grad_()
    triplet_alignment_loss(leaf, text, identities, TAU, 5.0).backward()
    s, same = image @ text.T, (identities[:, None] == identities)
    gradient = torch.zeros_like(s)
    for scores, way in ((s, gradient), (s.T, gradient.T)):
        positive = (scores / TAU).exp() * same
        negative = (scores / TAU).exp() * ~same
        way += (negative / negative.sum(1, keepdim=True) - positive / positive.sum(1, keepdim=True)) / len(people)
    close(leaf.grad, gradient @ text)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.015, 0.02])
def test_published_temperatures_are_finite_in_float32(temperature: float) -> None:
    people = torch.arange(64) // 2
    aligned = F.normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    for image, text in ((aligned, aligned), (aligned, -aligned)):
        image = image.clone().requires_grad_()
        for loss in (
            symmetric_info_nce(image, text, people, temperature),
            similarity_distribution_matching(image, text, people, temperature),
            triplet_alignment_loss(image, text, people, temperature, 0.1),
        ):
            (gradient,) = torch.autograd.grad(loss, image)
            assert loss.isfinite() and gradient.isfinite().all()


def test_one_classifier_reads_images_and_sentences() -> None:
    image, text, _ = features(PAIRS)
    people = [0, 0, 2, 2, 1, 1]
    classifier = nn.Linear(5, 3).double()
    expected = 0.0
    for rows in (image, text):
        for row, person in zip(linear(classifier, rows).tolist(), people, strict=True):
            expected -= row[person] - math.log(sum(math.exp(x) for x in row))
    close(identity_loss(classifier, image, text, torch.tensor(people)), expected / 12)
