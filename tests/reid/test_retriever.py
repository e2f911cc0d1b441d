"""Search with a trained run: `bdam_reid.load`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from tiny_run import tiny, train_alone

import bdam_reid
from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError
from bdam_reid.data.records import CLOTHES, Protocol
from bdam_reid.data.tokens import train_wordpiece
from bdam_reid.engine.checkpoint import CheckpointError, load_state
from bdam_reid.engine.run import load_best, load_config
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods import PRESETS
from bdam_reid.search.query import unit_parts, weighted
from bdam_reid.search.retriever import Retriever


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose data set is gone."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("search") / "run"))
    config = json.loads((run / "config.json").read_text())
    config["data"]["root"] = "/no/such/folder"
    (run / "config.json").write_text(json.dumps(config))
    return run


@pytest.fixture(scope="module")
def protocol(people: Path) -> Protocol:
    return load_dataset(people).protocols["test"]


@pytest.fixture
def retriever(run: Path) -> Retriever:
    return bdam_reid.load(run)


def test_it_ranks_as_evaluation_does(run: Path, retriever: Retriever, protocol: Protocol) -> None:
    method, best = load_best(run, load_config(run, PRESETS))
    weights = method.chosen_weights(best)
    ranking = Embedder(method, torch.device("cpu")).rank(protocol)
    gallery = retriever.embed_images([record.path for record in protocol.gallery])
    assert retriever.weights == weights == load_state(run / "best")["weights"]
    for clothes in CLOTHES:
        for query, scores in zip(protocol.queries, ranking.scores(weights[clothes]), strict=True):
            hits = retriever.search(gallery, query.text or "", k=len(gallery), clothes=clothes)
            assert sorted(hit.image for hit in hits) == list(range(len(gallery)))
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            torch.testing.assert_close(torch.tensor([h.score for h in hits]), scores[[h.image for h in hits]])


def test_paths_names_and_pictures_are_embedded_alike(retriever: Retriever, protocol: Protocol) -> None:
    path = protocol.gallery[0].path
    with Image.open(path) as picture:
        embedded = retriever.embed_images(image for image in (path, str(path), picture))
    torch.testing.assert_close(embedded[1:], embedded[:1].expand(2, -1))
    assert embedded.dtype == torch.float32
    assert retriever.parts == {"identity": slice(0, 16), "clothing": slice(16, 32)}
    assert retriever.embed_images([]).shape == retriever.embed_texts([]).shape == (0, 32)


def test_weights_of_the_parts_can_be_chosen(retriever: Retriever, protocol: Protocol) -> None:
    gallery = retriever.embed_images([record.path for record in protocol.gallery])
    (query,) = retriever.embed_texts(["A man in a red shirt."])
    part = retriever.parts["clothing"]
    best = retriever.search(gallery, "A man in a red shirt.", k=1, weights={"clothing": 2.0})
    assert len(best) == 1
    assert best[0].image == int((gallery[:, part] @ query[part]).argmax())


def test_pictures_are_searched_with_alone_and_beside_a_sentence(retriever: Retriever, protocol: Protocol) -> None:
    paths, text = [record.path for record in protocol.gallery], protocol.queries[0].text or ""
    gallery = retriever.embed_images(paths)
    said = unit_parts(retriever.embed_texts([text])[0], retriever.parts)
    for sentence, looked_for in (("", gallery[2]), (text, unit_parts(said + gallery[2], retriever.parts))):
        hits = retriever.search(gallery, sentence, k=len(paths), pictures=paths[2:3])
        scores = gallery @ weighted(looked_for, retriever.parts, retriever.weights["same"])
        assert {hit.image: hit.score for hit in hits} == pytest.approx(dict(enumerate(scores.tolist())), abs=1e-5)


def test_threads_share_it(run: Path, retriever: Retriever, protocol: Protocol) -> None:
    sentences = [query.text or "" for query in protocol.queries] * 4
    expected = [retriever.embed_texts([sentence]) for sentence in sentences]
    path, fresh = protocol.gallery[0].path, bdam_reid.load(run)
    image = retriever.embed_images([path])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda sentence: fresh.embed_texts([sentence]), sentences))
        images = list(pool.map(lambda _: fresh.embed_images([path]), range(16)))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(image, other) for other in images)


def test_what_cannot_be_searched_is_said(run: Path, retriever: Retriever, tmp_path: Path) -> None:
    gallery = torch.zeros(3, 32)
    with pytest.raises(ValueError, match="a caption must not be blank"):
        retriever.search(gallery, " ")
    with pytest.raises(ValueError, match=r"the gallery must be \(images, 32\), got \(3, 5\)"):
        retriever.search(torch.zeros(3, 5), "a man")
    with pytest.raises(ValueError, match="weights must be of identity, clothing, got hat"):
        retriever.search(gallery, "a man", weights={"hat": 1.0})
    with pytest.raises(ValueError, match="weights must be finite numbers"):
        retriever.search(gallery, "a man", weights={"identity": float("nan")})
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        retriever.search(gallery, "a man", k=0)
    with pytest.raises(ValueError, match="clothes must be same or other, got 'new'"):
        retriever.search(gallery, "a man", clothes="new")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the gallery must be a tensor .* got ndarray"):
        retriever.search(gallery.numpy(), "a man")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a sentence must be a text, got PosixPath: a picture goes into pictures"):
        retriever.search(gallery, tmp_path / "x.jpg")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"pictures must be paths or pictures in a list, got the one 'x\.jpg'"):
        retriever.search(gallery, pictures="x.jpg")
    with pytest.raises(TypeError, match="a list of texts, got the one text 'a man'"):
        retriever.embed_texts("a man")
    with pytest.raises(TypeError, match=r"in a list, got the one .*x\.jpg"):
        retriever.embed_images(tmp_path / "x.jpg")  # type: ignore[arg-type]
    assert len(retriever.search(gallery.double(), "a man", k=9)) == 3
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        retriever.embed_images([tmp_path / "missing.jpg"])
    with pytest.raises(CheckpointError, match="is no run"):
        bdam_reid.load(tmp_path)
    with pytest.raises(ConfigError, match="must be a device of this machine, such as cpu, got 'gpu9'"):
        bdam_reid.load(run, device="gpu9")
    shutil.copytree(run, tmp_path / "new", ignore=shutil.ignore_patterns("best*"))
    with pytest.raises(CheckpointError, match="has no best checkpoint yet"):
        bdam_reid.load(tmp_path / "new")


def test_published_encoders_are_fetched_for_training_only(people: Path, protocol: Protocol, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    published = tmp_path / "published"
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(
        published / "vit"
    )
    bert = transformers.BertConfig(**sizes, vocab_size=200, max_position_embeddings=24)
    transformers.BertModel(bert).save_pretrained(published / "bert")
    train_wordpiece(["a man in a red shirt"], 200, published / "tokenizer")
    for file in (published / "tokenizer").iterdir():
        shutil.copy(file, published / "bert")
    options = f"--method.image.pretrained {published / 'vit'} --method.text.pretrained {published / 'bert'}"
    trained = train_alone(tiny(people, tmp_path / "run", *options.split(), "--method.optim.epochs", "1"))
    published.rename(tmp_path / "gone")
    gallery = bdam_reid.load(trained).embed_images([record.path for record in protocol.gallery])
    assert gallery.isfinite().all() and gallery.shape == (8, 32)
    # A finished run is left as it is, without looking for them again.
    train_alone(tiny(people, tmp_path / "run", *options.split(), "--method.optim.epochs", "1"))


def test_importing_the_package_takes_nothing_heavy_along() -> None:
    program = "import sys, bdam_reid, bdam_reid.methods; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
