"""A run of preset "demo", tiny, from its first step to search: convolutions, pooling by position, published words."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import transformers
from tiny_run import start, steps_done, tensors_of, tiny_demo, train_alone, train_apart

import bdam_reid
from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.tokens import train_wordpiece
from bdam_reid.engine.checkpoint import load_state, load_weights
from bdam_reid.engine.run import load_best, load_config, read_curves
from bdam_reid.evaluate import Options, evaluate_run
from bdam_reid.methods import PRESETS
from bdam_reid.methods.bdam.method import BDAM

STEPS = 8


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody interrupted, trained in a process of its own."""
    return train_apart(tiny_demo(people, tmp_path_factory.mktemp("demo") / "run"))


def test_it_has_the_parts_of_the_preset(run: Path) -> None:
    weights = load_weights(run / "best")
    for name in (
        "image_encoder.towers.1.0.weight",
        "image_encoder.towers.1.1.running_var",
        "bdam.identity_pooling.attention.scores.weight",
        "identity_text_pooling.scores.weight",
        "temperatures.logarithms.contrast",
    ):
        assert name in weights
    assert not any(name.startswith("fusion") for name in weights)
    assert weights["bdam.projection.weight"].shape == (2 * 8, 16)
    assert all(value.isfinite().all() for value in weights.values())
    for name in ("info", "clothing", "contrast"):
        assert load_weights(run / "last")[f"temperatures.logarithms.{name}"] != torch.tensor(math.log(0.07))


def test_its_curves_have_what_the_preset_trains_by(run: Path) -> None:
    curves = read_curves(run)
    for name in ("info", "clothing", "decouple", "contrast", "gate", "total"):
        assert curves[f"loss/{name}"][0] == list(range(1, STEPS + 1))
    assert "loss/triplet" not in curves and not any(name.startswith("weight/") for name in curves)
    # Outfits of the drawn persons are known, and some batch has a person in two of them.
    assert any(curves["loss/contrast"][1])
    for name in ("info", "clothing", "contrast"):
        assert all(0.06 < value < 0.08 for value in curves[f"temperature/{name}"][1])
    shares = [curves[f"gradient/{name}"][1][0] for name in ("info", "clothing", "decouple", "contrast", "gate")]
    assert sum(shares) == pytest.approx(1) and all(share >= 0 for share in shares)


def test_killed_at_some_steps_it_ends_with_the_same_bits(people: Path, run: Path, tmp_path: Path) -> None:
    """Running means of norms, temperatures, and the optimizer's two groups are in what a run goes on from."""
    config = tiny_demo(people, tmp_path / "killed")
    killed = Path(config.output)
    for step in (1, 3, 6):
        process = start(config)
        while steps_done(killed) < step:
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL or steps_done(killed) == STEPS
    process = start(config)
    process.join()
    assert process.exitcode == 0
    expected, got = tensors_of(run), tensors_of(killed)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert (killed / "metrics.json").read_text() == (run / "metrics.json").read_text()


def test_evaluation_repeats_what_training_found(run: Path) -> None:
    trained = json.loads((run / "metrics.json").read_text())
    metrics = evaluate_run(Options(run)).metrics
    assert metrics == trained
    assert list(metrics["gates"]) == ["gate"]
    assert list(metrics["protocols"]) == ["test", "clothing_change"]


def test_it_is_opened_to_search_with(people: Path, run: Path) -> None:
    retriever = bdam_reid.load(run)
    records = load_dataset(people).protocols["test"].gallery
    gallery = retriever.embed_images([record.path for record in records])
    assert gallery.shape == (len(records), 32) and gallery.isfinite().all()
    torch.testing.assert_close(retriever.embed_images([records[0].path])[0], gallery[0])
    assert len(retriever.search(gallery, "a tall woman in a red coat", k=3)) == 3
    # Function words are not read.
    texts = retriever.embed_texts(["A woman in a red coat.", "Woman with the red coat."])
    torch.testing.assert_close(texts[0], texts[1])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small published BERT with its tokenizer, which knows words that no caption has."""
    folder = tmp_path_factory.mktemp("published") / "bert"
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    bert = transformers.BertConfig(**sizes, vocab_size=200, max_position_embeddings=8)
    transformers.BertModel(bert).half().save_pretrained(folder)
    train_wordpiece(["a zebra in a red shirt", "a zebra in red"], 200, folder.with_name("tokenizer"))
    for file in folder.with_name("tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


def test_published_words_are_needed_for_training_only(people: Path, published: Path, tmp_path: Path) -> None:
    source = shutil.copytree(published, tmp_path / "bert")
    words = ("--method.text.words", str(source), "--method.text.noise", "0.5", "--method.optim.epochs", "1")
    trained = train_alone(tiny_demo(people, tmp_path / "run", *words))
    source.rename(tmp_path / "gone")
    weights = load_weights(trained / "last")
    assert weights["text_encoder.words.table"].dtype == torch.float16
    assert not any("word_embeddings" in name and len(value) > 1 for name, value in weights.items())
    vectors = transformers.BertModel.from_pretrained(tmp_path / "gone").float().embeddings.word_embeddings.weight
    expected = torch.nn.functional.layer_norm(vectors, (12,)).half()
    assert torch.equal(weights["text_encoder.words.table"], expected)
    assert not {"tokenizer", "text_encoder"} - {path.name for path in trained.iterdir()}
    method, _ = load_best(trained, load_config(trained, PRESETS))
    assert isinstance(method, BDAM) and method.text_encoder.words is not None
    assert torch.equal(method.text_encoder.words.table, expected)
    # The tokenizer is the published one, and the embeddings are the same at every call: no noise.
    ids, _ = method.tokenize(["zebra"])
    known = transformers.AutoTokenizer.from_pretrained(tmp_path / "gone")
    assert ids.tolist() == [known("zebra")["input_ids"]]
    retriever = bdam_reid.load(trained)
    first, again = (retriever.embed_texts(["a man in a red shirt"]) for _ in range(2))
    assert torch.equal(first, again)
    assert load_state(trained / "last")["progress"]["step"] == STEPS // 2


def test_words_that_cannot_be_had_are_named_by_their_field(people: Path, tmp_path: Path) -> None:
    config = tiny_demo(people, tmp_path / "run", "--method.text.words", "./no-such-words")
    with pytest.raises(ConfigError, match=r"tokenizer of --method\.text\.words './no-such-words' could not be loaded"):
        config.method.prepare(config.data, load_dataset(people), tmp_path)
