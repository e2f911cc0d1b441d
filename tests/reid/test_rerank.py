"""Re-ranking: the matcher against its formulas, what it is trained on, and runs with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from documented import told
from image_search import Brightness
from naive import close, linear, norm, random
from PIL import Image
from test_fusion import align
from tiny_run import tiny, train_alone
from torch import Tensor
from torch.nn import functional as F

from bdam_reid.config import ConfigError, check_config
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import Clothes, Dataset, Findings, Protocol, Query, Record, Report
from bdam_reid.data.tokens import Tokenize, load_tokenizer
from bdam_reid.engine.checkpoint import load_state, load_weights
from bdam_reid.engine.run import load_best, load_config
from bdam_reid.engine.trainer import Trainer, make_method
from bdam_reid.evaluate import Options, evaluate_run
from bdam_reid.evaluation import ranking as ranked
from bdam_reid.evaluation import reranking as evaluated
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.evaluation.reranking import rerank
from bdam_reid.evaluation.tables import describe
from bdam_reid.evaluation.validation import validator
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam import reranking
from bdam_reid.methods.bdam.batches import UNKNOWN
from bdam_reid.methods.bdam.config import RerankConfig
from bdam_reid.methods.bdam.matcher import Matcher, Words, join_words
from bdam_reid.methods.bdam.method import BDAM
from bdam_reid.methods.bdam.reranking import Gallery, QuestionBatches, Questions, base_scores, find_best, matching, said

KINDS = ("mamba", "transformer", "simple")
STEPS = 12
"""Of a tiny run without a matcher."""
MASK = torch.arange(5) < torch.tensor([[5], [3]])


def matcher(kind: Any, **options: Any) -> Matcher:
    """Of candidates with 4 patches, as training may leave it."""
    torch.manual_seed(0)
    made = Matcher(RerankConfig(kind=kind, width=16, **options), image_width=6, places=4, text_width=5).double().eval()
    torch.nn.init.normal_(made.out.weight)
    torch.nn.init.normal_(made.norm.bias)
    return made


def pairs() -> tuple[Tensor, Words]:
    """Two queries with three candidates each."""
    return random(2, 3, 4, 6), Words(random(2, 5, 5, seed=1), MASK)


def read_together(module: Matcher, patches: Tensor, words: Tensor) -> Tensor:
    """What the layers make of one pair: patches (4, 6), words (L, 5) without padding."""
    image, text = align(module.align_image, patches + module.places), align(module.align_text, words)
    if module.pair is not None:
        hidden = norm(module.pair[1], linear(module.pair[0], torch.cat((image.mean(0), text.mean(0)))))
        return hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    tokens = torch.cat((image, text))[None]
    layers = module.mixer.layers
    for layer in layers if isinstance(layers, torch.nn.ModuleList) else layers.layers:
        tokens = tokens + layer(tokens) if isinstance(layers, torch.nn.ModuleList) else layer(tokens)
    return tokens[0, 4:].mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_matcher_is_its_formula(kind: str) -> None:
    module, (patches, words) = matcher(kind), pairs()
    found = module(patches, words)
    for query, length in enumerate((5, 3)):
        for candidate in range(3):
            mixed = read_together(module, patches[query, candidate], words.tokens[query, :length])
            close(found[query, candidate], (module.out.weight @ norm(module.norm, mixed))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_neither_padding_nor_other_candidates_change_a_score(kind: str) -> None:
    module, (patches, words) = matcher(kind), pairs()
    found = module(patches, words)
    noise = torch.where(MASK[..., None], words.tokens, 100 * random(2, 5, 5, seed=2))
    close(module(patches, Words(noise, MASK)), found)
    close(module(patches, Words(F.pad(words.tokens, (0, 0, 0, 3)), F.pad(MASK, (0, 3)))), found)
    close(module(patches[:, [2, 0, 1]], words), found[:, [2, 0, 1]])
    close(module(patches[1:, :1], Words(words.tokens[1:], MASK[1:])), found[1:, :1])
    assert not torch.allclose(module(patches[:, :, [1, 0, 2, 3]], words), found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matcher_says_nothing_before_it_is_trained(kind: Any) -> None:
    patches, words = pairs()
    fresh = Matcher(RerankConfig(kind=kind, width=16), 6, 4, 5).double().eval()
    assert fresh(patches, words).eq(0).all()
    if kind != "simple":
        # Of no words all candidates have the same.
        silent = matcher(kind)(patches, Words(words.tokens, torch.zeros_like(MASK)))
        close(silent, silent[:, :1].expand_as(silent))


def test_texts_are_joined_with_their_padding_at_the_end() -> None:
    first, second = torch.arange(6.0).view(2, 3, 1), torch.arange(10.0, 14).view(2, 2, 1)
    tokens, mask = join_words(
        Words(first, torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()), Words(second, torch.tensor([[1, 0], [1, 1]]).bool())
    )
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    assert tokens[mask].flatten().tolist() == [0, 1, 10, 12, 13]


def questions(identities: list[int], outfits: list[int], other: list[bool]) -> Questions:
    texts, said = torch.zeros(len(other), 1), torch.ones(len(other), dtype=torch.bool)
    return Questions(
        torch.tensor(identities), torch.tensor(outfits), torch.tensor(other), texts, texts, texts, texts, said, said
    )


GALLERY = Gallery(
    torch.empty(0),
    torch.empty(0),
    torch.empty(0),
    identities=torch.tensor([0, 0, 1, 1, 2]),
    outfits=torch.tensor([0, 1, 0, UNKNOWN, 0]),
)


def test_the_best_images_are_those_that_the_question_allows() -> None:
    scores = torch.arange(5.0, 0, -1).expand(4, 5)
    best = find_best(scores, 3, questions([0, 0, 1, 3], [0, 0, 0, 0], [False, True, True, False]), GALLERY)
    # In other clothes: not the outfit that is described, nor one that is not known.
    assert best.images.tolist() == [[0, 1, 2], [1, 2, 3], [0, 1, 4], [0, 1, 2]]
    assert best.right.tolist() == [[True, True, False], [True, False, False], [False] * 3, [False] * 3]
    assert best.counts.all()
    few = find_best(scores[:1], 9, questions([0], [0], [True]), GALLERY)
    assert few.counts.tolist() == [[True] * 4 + [False]] and not few.right[0, 4]


@pytest.mark.parametrize("other", [False, True])
def test_the_loss_is_the_cross_entropy_over_the_best_of_queries_that_found(other: bool) -> None:
    scores, corrections, weight, tau = random(2, 5), random(2, 4, seed=1), 0.3, torch.tensor(0.2)
    best = find_best(scores, 4, questions([0, 3], [0, 0], [other, other]), GALLERY)
    loss, found = matching(lambda *_: corrections, None, torch.empty(0), best, weight, tau)  # type: ignore[arg-type]
    assert found == (0.5 if best.right[0].any() else 0)
    logits = (scores[0, best.images[0]] + weight * corrections[0]) / tau
    expected = -logits.log_softmax(0)[best.right[0]].mean() if best.right[0].any() else torch.tensor(0.0)
    close(loss, expected)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four an epoch of the tiny set's eight persons."""
    monkeypatch.setattr(reranking, "QUERIES", 2)


def question_batches(dataset: Dataset, run: Path, seed: int = 0) -> QuestionBatches:
    return QuestionBatches(dataset.train, (32, 16), Tokenize(load_tokenizer(run / "tokenizer"), 24), seed)


def test_batches_of_questions_depend_on_seed_epoch_and_number(
    people: Path, finished: Path, small_batches: None
) -> None:
    dataset = load_dataset(people)
    batches = question_batches(dataset, finished)
    whole, again = list(batches.batches(1)), list(question_batches(dataset, finished).batches(1, start=2))
    assert len(whole) == len(batches) == 4
    for mine, theirs in zip(whole[2:], again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(mine).values(), vars(theirs).values(), strict=True))
    assert not torch.equal(whole[0].identities, next(batches.batches(2)).identities)
    assert not torch.equal(whole[0].identities, next(question_batches(dataset, finished, 1).batches(1)).identities)
    assert sorted(torch.cat([batch.identities for batch in whole]).tolist()) == sorted(
        {record.identity for record in dataset.train}
    )
    changes = torch.cat([batch.other for epoch in range(9) for batch in batches.batches(epoch)]).float().mean()
    assert 0.2 < changes < 0.8


def options(kind: str, training: str = "frozen") -> list[str]:
    sizes = "--method.rerank.width 16 --method.rerank.layers 1 --method.rerank.heads 2 --method.rerank.top 4"
    return f"--method.rerank.kind {kind} --method.rerank.training {training} {sizes}".split()


def tensors(run: Path, name: str) -> dict[str, Tensor]:
    return load_weights(run / name)


def test_a_frozen_matcher_is_trained_alone_and_resumes_to_the_bit(
    people: Path, tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A norm so small that what the limit takes for gradients is in every weight.
    more = [*options("mamba"), "--method.rerank.epochs", "2", "--method.optim.clip-norm", "0.05"]
    whole = train_alone(tiny(people, tmp_path / "whole", *more))
    step = Trainer.step
    # At the end of the stage before, and within both epochs of the matcher's.
    states: list[dict[str, Tensor]] = []
    for last in (STEPS, STEPS + 2, STEPS + 4 + 2):

        def broken(trainer: Trainer, batch: Any, last: int = last) -> dict[str, float]:
            if trainer.progress.step == last:
                raise KeyboardInterrupt
            return step(trainer, batch)

        monkeypatch.setattr(Trainer, "step", broken)
        with pytest.raises(KeyboardInterrupt):
            train_alone(tiny(people, tmp_path / "broken", *more))
        states.append(tensors(tmp_path / "broken", "last"))
    monkeypatch.setattr(Trainer, "step", step)
    broken_run = train_alone(tiny(people, tmp_path / "broken", *more))
    for name in ("last", "best"):
        expected, got = tensors(whole, name), tensors(broken_run, name)
        assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    after = tensors(whole, "last")
    changed = {key.split(".")[0] for key in after if not torch.equal(states[0][key], after[key])}
    assert changed == {"matcher"}


def test_the_matcher_sees_what_the_embeddings_find(
    people: Path, finished: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best images of the training gallery are those of `embed_images` and `embed_queries`."""
    dataset, (method, _) = load_dataset(people), load_best(finished, load_config(finished, PRESETS))
    assert isinstance(method, BDAM)
    batches = question_batches(dataset, finished)
    with torch.no_grad():
        gallery = reranking.embed_gallery(method.eval(), batches, method.device)
        asked: list[str] = []
        monkeypatch.setattr(reranking, "said", lambda caption: (asked.append(caption), said(caption))[1])
        batch = next(batches.batches(0))
        text = method.encode_text(batch.identity_ids, batch.identity_mask, batch.clothing_ids, batch.clothing_mask)
        scores = base_scores(text, batch, gallery, method.default_weights())
        assert gallery.patches.dtype == torch.float16 and len(gallery.patches) == len(dataset.train)
        for row, caption in enumerate(asked):
            weights = method.default_weights()["other" if batch.other[row] else "same"]
            (query,) = method.embed_queries([Query(text=caption)])
            scale = torch.cat([torch.full((16,), weights[part]) for part in method.parts])
            expected = torch.cat((gallery.identity, gallery.clothing), dim=1) @ (scale * query)
            torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_jointly_the_matcher_reaches_the_encoders(people: Path, tmp_path: Path, kind: str) -> None:
    config = tiny(people, tmp_path / "run", *options(kind, "joint"))
    dataset = load_dataset(people)
    (tmp_path / "run").mkdir()
    method = make_method(config, tmp_path / "run", dataset)
    assert isinstance(method, BDAM) and method.matcher is not None
    (stage,) = method.stages(dataset, 0)
    torch.nn.init.normal_(method.matcher.out.weight)
    losses = method.train().losses(next(iter(stage.batches.batches(0))), 0)
    assert 0 < losses.scalars["rerank/found"] <= 1
    losses.parts["rerank"].backward()
    for part in (method.image_encoder, method.text_encoder, method.matcher):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    # Their own scores have losses of their own.
    assert all(p.grad is None for p in (*method.bdam.parameters(), *method.identity_projection.parameters()))


def test_in_search_of_other_clothes_words_on_clothes_are_not_read(people: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    method = make_method(tiny(people, tmp_path / "run", *options("mamba")), tmp_path / "run", load_dataset(people))
    assert isinstance(method.eval(), BDAM) and method.matcher is not None
    torch.nn.init.normal_(method.matcher.out.weight)
    texts = "A man with black hair in a red shirt.", "A man with black hair in blue trousers."
    candidates, scores = method.candidates(torch.randn(3, 3, 32, 16)).expand(2, -1, -1, -1), torch.rand(2, 3)
    with torch.no_grad():
        same, other = (
            method.rerank([Query(text=text) for text in texts], candidates, scores, clothes) - scores
            for clothes in ("same", "other")
        )
    assert not torch.allclose(same[0], same[1])
    torch.testing.assert_close(other[0], other[1])
    assert not torch.allclose(other[0, 0], other[0, 1], atol=1e-6)


def test_sizes_that_do_not_fit_are_one_message(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--method.rerank.width must be a multiple of --method.rerank.heads"):
        check_config(tiny(people, tmp_path, *options("transformer"), "--method.rerank.heads", "3"))
    monkeypatch.setattr(reranking, "CACHE_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"keeps the patches of .* training images in memory, at most 0.0 GiB"):
        train_alone(tiny(people, tmp_path / "run", *options("simple"), "--method.optim.epochs", "1"))


class Wrong(Brightness):
    """Ranks the dark first whatever is asked; its `rerank` finds the image that is as bright as the query."""

    reranks = 2

    def embed_queries(self, queries: Sequence[Query]) -> Tensor:
        return -torch.ones(len(queries), 1)

    def candidates(self, images: Tensor) -> Tensor:
        return self.embed_images(images)

    def rerank(self, queries: Sequence[Query], candidates: Tensor, scores: Tensor, clothes: Clothes) -> Tensor:
        assert candidates.shape == (*scores.shape, 1) and candidates.dtype == torch.float16
        torch.testing.assert_close(scores, -candidates[..., 0].float(), rtol=0, atol=1e-3)
        return -(candidates[..., 0] - super().embed_queries(queries)).abs()


class Backwards(Wrong):
    """Orders the two from bright to dark."""

    def rerank(self, queries: Sequence[Query], candidates: Tensor, scores: Tensor, clothes: Clothes) -> Tensor:
        return -scores


def grey(folder: Path) -> tuple[tuple[Query, ...], tuple[Record, ...]]:
    """Five images from dark to bright, and a query for each but the brightest."""
    records = []
    for number in range(5):
        path = folder / f"{number}.png"
        Image.new("L", (4, 8), 50 * number).save(path)
        records.append(Record(path, path.name, number, "val"))
    return tuple(Query(image=record.path, identity=record.identity) for record in records[:4]), tuple(records)


def test_the_best_are_ordered_anew_and_the_others_stay_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, records = grey(tmp_path)
    embedder = Embedder(Wrong(), torch.device("cpu"), batch_size=4)
    ranking = embedder.rank(Protocol("val", queries, records, split="val"))
    assert ranking.metrics({"all": 1.0}).r1 == 25
    # Of the two darkest each query finds its own; the others are at ranks 3 and 4.
    found = rerank(embedder, ranking, {"all": 1.0}, "same")
    assert (found.metrics.r1, found.metrics.r5) == (50, 100)
    assert found.metrics.map == pytest.approx(100 * (1 + 1 + 1 / 3 + 1 / 4) / 4)
    assert found.pair_ms > 0 and found.query_ms > 0
    junk = torch.zeros(4, 5, dtype=torch.bool)
    junk[2:, 0] = True
    spared = rerank(embedder, replace(ranking, junk=lambda *_: junk), {"all": 1.0}, "same").metrics
    assert spared.map == pytest.approx(100 * (1 + 1 + 1 + 1 / 3) / 4)
    # A gallery that fits no memory: some queries at a time, and images are read again for each.
    for module, name, value in ((evaluated, "PATCHES", 0), (ranked, "BUDGET", 1), (ranked, "LEAST", 2)):
        monkeypatch.setattr(module, name, value)
    assert rerank(embedder, ranking, {"all": 1.0}, "same").metrics == found.metrics


@pytest.mark.parametrize("pays", [True, False])
def test_validation_prefers_what_ranks_better(tmp_path: Path, pays: bool) -> None:
    queries, records = grey(tmp_path)
    protocols = {"val": Protocol("val", queries, records, split="val")}
    dataset = Dataset("grey", tmp_path, (), protocols, Report.of({s: () for s in ("train", "val", "test")}, Findings()))
    method = Wrong() if pays else Backwards()
    validate = validator(dataset, torch.device("cpu"), "no", False)
    assert validate is not None
    found = validate(method)
    assert found.reranks == (["same"] if pays else [])
    assert (found.metrics["r1"], found.metrics["reranked_r1"]) == (25, 50 if pays else 25)
    assert found.score[0] == (50 if pays else 25)
    assert "R-1 25.00, mAP 52.08 (all 1), re-ranked R-1" in found.words


def test_patches_are_kept_in_half_precision_whatever_the_run_computes_in(tmp_path: Path) -> None:
    _, records = grey(tmp_path)
    for precision in ("no", "bf16"):
        kept = Embedder(Wrong(), torch.device("cpu"), precision, batch_size=1).candidates(records[:2])
        assert kept.dtype == torch.float16 and len(kept) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_says_what_re_ranking_gains_and_costs(people: Path, tmp_path: Path, kind: str) -> None:
    more = ["--method.optim.epochs", "1", "--method.rerank.epochs", "1", "--method.rerank.lr", "0.1"]
    run = train_alone(tiny(people, tmp_path / "run", *options(kind), *more))
    metrics = json.loads((run / "metrics.json").read_text())
    reranks = load_state(run / "best")["reranks"]
    assert "protocols.PROTOCOL.rerank.preferred" in told(metrics)
    for found in metrics["protocols"].values():
        assert found["results"]["reranked"].keys() == found["results"]["same"].keys()
        assert found["rerank"]["top"] == 4 and found["rerank"]["pair_ms"] > 0
        assert found["rerank"]["preferred"] == (found["clothes"] in reranks)
    text = describe(metrics)
    assert "for same clothes, re-ranked" in text and "for other clothes, re-ranked" in text
    assert "re-ranking of the best 4: " in text and " ms a pair, " in text
    if kind == "simple":
        again = evaluate_run(Options(run)).metrics["protocols"]
        assert {name: found["results"] for name, found in again.items()} == {
            name: found["results"] for name, found in metrics["protocols"].items()
        }
        assert all(
            again[name]["rerank"]["preferred"] == metrics["protocols"][name]["rerank"]["preferred"] for name in again
        )


def test_without_a_matcher_nothing_is_said_of_it(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert all("rerank" not in found and "reranked" not in found["results"] for found in metrics["protocols"].values())
    assert "re-rank" not in describe(metrics) and load_state(finished / "best")["reranks"] == []
