"""Taking clothes out of an identity embedding in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_demo, write_people
from torch import Tensor
from torch.nn.functional import normalize

from bdam_reid.data.datasets import load_dataset
from bdam_reid.engine.run import load_best
from bdam_reid.engine.trainer import make_method
from bdam_reid.methods.bdam.erasure import Erasure
from bdam_reid.methods.bdam.method import BDAM
from bdam_reid.train import train

WIDTH = 12


def seen(erasure: Erasure, leaks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings that tell of a person, of what person and clothes share, and a little, in so many directions, of
    clothes; what was observed."""
    generator = torch.Generator().manual_seed(0)
    person, clothes, noise = torch.randn(3, 20000, WIDTH, generator=generator)
    clothes = clothes + person  # Skirts tell of women.
    mixing = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    shown = person @ mixing + 0.1 * noise
    shown[:, :leaks] += 0.6 * (clothes - person)[:, :leaks]
    embedding = normalize(shown, dim=1)
    for batch in range(0, len(person), 100):
        erasure.observe(*(x[batch : batch + 100] for x in (embedding, clothes, person)))
    return embedding, clothes, person


def read(features: Tensor, of: Tensor) -> Tensor:
    """The share of the variance of each column that the best linear reader of features finds, (C,)."""
    features, of = (x.double() - x.double().mean(dim=0) for x in (features, of))
    left = of - features @ torch.linalg.lstsq(features, of).solution
    return 1 - left.var(dim=0) / of.var(dim=0)


def test_clothes_cannot_be_read_and_the_person_can() -> None:
    erasure = Erasure(WIDTH, 3)
    embedding, clothes, person = seen(erasure, leaks=3)
    assert torch.equal(erasure(embedding), embedding), "nothing is taken out in training"
    erased = erasure.eval()(embedding)
    alone = clothes - person
    torch.testing.assert_close(erased.norm(dim=1), torch.ones(len(erased)))
    assert read(embedding, alone)[:3].min() > 0.2
    assert read(erased, alone).max() < 0.02
    # What is not read with the clothes stays: of twelve numbers of a person, all but parts of three.
    assert read(erased, person).sum() > read(embedding, person).sum() - 3
    assert read(erased, person).mean() > 0.7


def test_only_so_many_directions_are_taken_out() -> None:
    erasure = Erasure(WIDTH, 2)
    embedding, clothes, person = seen(erasure, leaks=4)
    erasure.eval()
    assert torch.linalg.matrix_rank(torch.eye(WIDTH) - erasure.projection, atol=1e-3) == 2
    torch.testing.assert_close(erasure.projection @ erasure.projection, erasure.projection, atol=1e-4, rtol=0)
    assert 0.02 < read(erasure(embedding), clothes - person).max() < read(embedding, clothes - person).max()


def test_moments_are_kept_and_the_projection_follows_from_them() -> None:
    erasure = Erasure(WIDTH, 3)
    embedding, *_ = seen(erasure, leaks=3)
    assert list(erasure.state_dict()) == ["moments"]
    again = Erasure(WIDTH, 3)
    again.load_state_dict(erasure.state_dict())
    assert torch.equal(again.eval()(embedding), erasure.eval()(embedding))


@pytest.mark.parametrize("assign", [False, True])
def test_moments_may_be_loaded_at_any_time(assign: bool) -> None:
    erasure = Erasure(WIDTH, 3)
    embedding, *_ = seen(erasure, leaks=3)
    expected = erasure.eval()(embedding)
    evaluated = Erasure(WIDTH, 3).eval()
    evaluated.load_state_dict(erasure.state_dict(), assign=assign)
    assert torch.equal(evaluated(embedding), expected)
    with torch.inference_mode():
        inferred = Erasure(WIDTH, 3)
        inferred.load_state_dict(erasure.state_dict(), assign=assign)
        assert torch.equal(inferred.eval()(embedding), expected)


def test_without_moments_nothing_is_taken_out() -> None:
    embedding = normalize(torch.randn(5, WIDTH), dim=1)
    torch.testing.assert_close(Erasure(WIDTH, 3).eval()(embedding), embedding)


@pytest.mark.parametrize("directions", [0, WIDTH])
def test_directions_are_fewer_than_the_width(directions: int) -> None:
    with pytest.raises(ValueError, match=f"below the width 12, got {directions}$"):
        Erasure(WIDTH, directions)


def test_a_run_ranks_by_what_is_left(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people")
    config = tiny_demo(people, tmp_path / "run", "--method.decoupling.erase", "3", "--method.optim.epochs", "1")
    method, _ = load_best(train(config), config)
    assert isinstance(method.eval(), BDAM) and method.erasure is not None
    images = torch.randn(4, 3, 48, 24)
    with torch.no_grad():
        erased, projection = method.embed_images(images), method.erasure.projection
        method.erasure = None
        whole = method.embed_images(images)
    own = method.parts["identity"]
    assert torch.equal(erased[:, own.stop :], whole[:, own.stop :])
    differences = erased[:, own] - whole[:, own]
    assert differences.abs().max() > 1e-3
    assert torch.linalg.matrix_rank(torch.eye(16) - projection, atol=1e-3) == 3


def test_a_model_before_training_does_not_project(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people")
    (tmp_path / "run").mkdir()
    method = make_method(tiny_demo(people, tmp_path / "run"), tmp_path / "run", load_dataset(people)).eval()
    assert isinstance(method, BDAM) and method.erasure is not None
    assert torch.equal(method.erasure.projection, torch.eye(16))


def test_moments_that_hardly_vary_are_no_reason_to_fail() -> None:
    erasure = Erasure(WIDTH, 3)
    embedding = normalize(1 + 1e-7 * torch.randn(8, WIDTH), dim=1)
    erasure.observe(embedding, embedding, embedding)
    torch.testing.assert_close(erasure.eval()(embedding), embedding, atol=1e-5, rtol=0)
