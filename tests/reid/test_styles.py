"""Styles of captions: masking, embeddings, clusterings, prompts and their file."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from bdam_reid.captions import __main__ as command
from bdam_reid.captions import stand_in, style_picture
from bdam_reid.captions.clustering import NEIGHBOURS, Clustering, cluster, eps_of
from bdam_reid.captions.masking import mask
from bdam_reid.captions.splitter import split_caption
from bdam_reid.captions.style_vectors import style_vectors
from bdam_reid.captions.styles import caption_styles, cluster_captions, read_styles, styles_of
from bdam_reid.config import ConfigError
from bdam_reid.encoders.hub import PACKAGES

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CLUSTERINGS = get_args(Clustering)


@pytest.mark.parametrize(
    ("caption", "masked"),
    [
        ("An old man wearing blue jeans.", "a person wearing garment."),
        ("His hair is long and black; a red shirt.", "their person is so and so; a garment."),
        ("He carries a shoulder bag over his shoulder", "someone carries a garment over their body"),
        ("A very tall woman, walking slowly.", "a very person, walking slowly."),
        ("Please find a girl in a coat!", "please find a person in a garment!"),
        ("", ""),
        ("...", "."),
    ],
)
def test_masking(caption: str, masked: str) -> None:
    assert mask(caption) == masked


def test_captions_that_differ_in_content_alone_are_masked_alike() -> None:
    one, other = "A tall man in a black suit and shoes.", "A short-haired young girl in a pink dress and white boots."
    assert mask(one) == mask(other) == "a person in a garment and garment."


MANNERS = (
    "The {person} wears a {garment}{more}. The {person} has {colour} hair{trait}.",
    "{person}, {colour} hair{trait}; top: {garment}{more}; shoes: {colour} boots",
    "Please find a {person} with {colour} hair{trait}, last seen in a {garment}{more}.",
    "Wearing a {garment}{more}, the {person} seems to be walking, and it looks like there is {colour} hair{trait} too.",
)
CONTENT = {
    "{person}": ("man", "tall woman", "slim young girl", "old lady", "boy"),
    "{garment}": ("red coat", "long blue shirt", "black hoodie", "jacket"),
    "{more}": ("", " and black jeans", " over a white shirt", " with a bag on the back", ", a hat"),
    "{colour}": ("red", "light brown", "black", "white"),
    "{trait}": ("", " and glasses", ", a beard", " in a ponytail"),
}


def drawn(count: int, seed: int = 100) -> tuple[list[str], list[int]]:
    """Captions in random manners about random persons, and the number of each one's manner."""
    random = Random(seed)
    manners = [random.randrange(len(MANNERS)) for _ in range(count)]
    captions = [re.sub(r"{\w+}", lambda slot: random.choice(CONTENT[slot.group()]), MANNERS[m]) for m in manners]
    return captions, manners


@pytest.mark.parametrize("by", [by for by in CLUSTERINGS if by not in ("random", "none")])
def test_every_clustering_tells_manners_apart_whatever_their_content(by: Clustering) -> None:
    captions, manners = drawn(240)
    found = adjusted_rand_score(manners, caption_styles(captions, by, clusters=4))
    # Those that find out how many there are divide some manners further.
    assert found > (0.6 if by in ("dbscan", "hdbscan") else 0.9)


def test_lots_say_nothing_of_manners_and_none_is_one_style() -> None:
    captions, manners = drawn(240)
    assert abs(adjusted_rand_score(manners, caption_styles(captions, "random"))) < 0.05
    assert caption_styles(captions, "none") == [0] * 240


@pytest.mark.parametrize("by", CLUSTERINGS)
def test_clusters_are_numbered_by_size_and_the_same_every_time(by: Clustering) -> None:
    captions, _ = drawn(100)
    labels = caption_styles(captions, by, clusters=5, seed=3)
    assert labels == caption_styles(captions, by, clusters=5, seed=3)
    sizes = np.bincount(labels)
    assert (np.diff(sizes) <= 0).all() and sizes.min() > 0


@pytest.mark.parametrize("by", CLUSTERINGS)
@pytest.mark.parametrize("captions", [["A man."], ["A man."] * 40, ["A man.", "wearing a coat, she walks"]])
def test_few_or_equal_captions_have_a_style_too(by: Clustering, captions: list[str]) -> None:
    labels = caption_styles(captions, by)
    assert len(labels) == len(captions) and min(labels) == 0


def blobs(*sizes: int) -> np.ndarray:
    """Unit vectors around as many axes, near enough to each to be dense."""
    random = np.random.default_rng(0)
    centres = np.eye(len(sizes), 8)
    vectors = np.concatenate([c + 0.05 * random.normal(size=(n, 8)) for c, n in zip(centres, sizes, strict=True)])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_noise_joins_the_nearest_cluster_and_small_clusters_are_merged() -> None:
    """DBSCAN alone finds three clusters here, of which one has less than a hundredth, and calls two vectors noise."""
    vectors = blobs(1200, 600, NEIGHBOURS)
    lonely = np.zeros((2, 8), dtype=np.float32)
    lonely[0, :2], lonely[1, :2] = (0.8, 0.6), (0.6, 0.8)
    labels = cluster(np.concatenate([vectors, lonely]), "dbscan")
    assert (labels[:1200] == 0).all() and (labels[1200:1800] == 1).all()
    assert set(labels[1800:]) == {0, 1} and labels[-2:].tolist() == [0, 1]


def test_eps_is_the_median_of_the_k_distances() -> None:
    vectors = blobs(30, 31)
    distances = np.sort(1 - vectors @ vectors.T, axis=1)
    assert eps_of(vectors, 5) == pytest.approx(float(np.median(distances[:, 5])), abs=1e-6)


def test_only_a_part_of_very_many_captions_is_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdam_reid.captions.clustering.SAMPLE", 150)
    captions, manners = drawn(400)
    assert adjusted_rand_score(manners, caption_styles(captions, "agglomerative", clusters=4)) > 0.9


def test_a_prompt_says_what_is_common_in_its_captions_and_shows_no_content() -> None:
    captions, manners = drawn(200)
    found = cluster_captions(captions, "kmeans", "hashing", 4, 0)
    prompts = {}
    for number, style in enumerate(styles_of(found)):
        manner = manners[captions.index(found.captions[found.labels.tolist().index(number)])]
        prompts[manner] = style.prompt
        assert 1 <= len(style.examples) <= 3
        assert not any(colour in example for example in style.examples for colour in ("red", "blue", "black", "coat"))
    assert "2 sentences" in prompts[0] and "semicolons" in prompts[1]
    assert "request" in prompts[2] and "unsure" in prompts[3]
    assert sum(style.share for style in styles_of(found)) == pytest.approx(1, abs=1e-3)


@pytest.mark.skipif(find_spec(PACKAGES[MINILM]) is None, reason="needs pip install -e '.[pretrained]'")
def test_published_sentence_embeddings_tell_manners_apart() -> None:
    captions, manners = drawn(60)
    assert adjusted_rand_score(manners, caption_styles(captions, "kmeans", MINILM, clusters=4)) > 0.9


def test_a_clip_text_encoder_is_read_from_a_folder(tmp_path: Path) -> None:
    words = sorted({word for caption in drawn(40)[0] for word in mask(caption).replace(".", " . ").split()})
    vocabulary = {word: n for n, word in enumerate(["<pad>", "<start>", "<end>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(vocabulary), "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    CLIPModel(CLIPConfig(text_config=text, vision_config=sizes, projection_dim=8)).save_pretrained(tmp_path)
    captions = ["A man in a coat.", "Please find a man in a coat.", "A girl in a red shirt.", "Man, coat."]
    vectors = style_vectors(captions, str(tmp_path))
    assert (
        vectors.shape == (4, 4)
        and np.allclose(vectors[0], vectors[2], atol=1e-4)
        and not np.allclose(vectors[0], vectors[1])
    )
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="could not be loaded"):
        style_vectors(captions, str(tmp_path))


@pytest.mark.parametrize("encoder", ["./nowhere", "hash"])
def test_an_encoder_that_there_is_not_is_refused(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdam_reid.encoders.hub._reachable", lambda: False)
    with pytest.raises(ConfigError, match=r"could not be loaded .*give --encoder hashing"):
        caption_styles(["A man."], "kmeans", encoder)


def test_the_command_writes_styles_that_people_may_change(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(style_picture, "POINTS", 60)
    path = tmp_path / "new" / "found.json"
    assert command.main(["styles", str(people), "--by", "kmeans", "--clusters", "3", "--output", str(path)]) == 0
    assert "3 styles of" in capsys.readouterr().out
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 20)) > 10
    styles, content = read_styles(path), json.loads(path.read_text())
    assert len(styles) == 3 and content["clustering"] == "kmeans"
    content["styles"][0]["prompt"] = "Write like a pirate."
    path.write_text(json.dumps(content))
    assert read_styles(path)[0].prompt == "Write like a pirate."
    with pytest.raises(SystemExit):
        command.main(["styles", str(people), "--by", "none", "--output", str(path)])
    assert "found.json is there, and people may have changed it" in capsys.readouterr().err
    assert read_styles(path)[0].prompt == "Write like a pirate."


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"styles": []}', '{"styles": [{"name": "a"}]}', '{"styles": 3}',
     '{"styles": [{"name": "a", "share": 1, "prompt": " ", "examples": []}]}'],
)  # fmt: skip
def test_a_file_without_styles_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "styles.json").write_text(content)
    with pytest.raises(ConfigError, match="expected the styles that"):
        read_styles(tmp_path / "styles.json")


def test_the_stand_in_takes_peoples_captions_and_evens_out_their_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine captions in ten are in one style; the others are all taken."""
    monkeypatch.setattr(
        stand_in, "caption_styles", lambda captions, *_: [int("rare" in caption) for caption in captions]
    )
    offered = {
        f"{n}.jpg": (f"A man {n}.", f"A {'rare' if n % 5 == 0 else 'tall'} man in a coat {n}.") for n in range(100)
    }
    texts = stand_in.chosen_texts(offered, "kmeans")
    assert list(texts) == list(offered) and texts == stand_in.chosen_texts(offered, "kmeans")
    for (key, own), entry in zip(offered.items(), texts.values(), strict=True):
        assert (entry["identity"], entry["clothing"]) in map(split_caption, own)
        assert entry["style"] == ("kmeans-1" if int(key[:-4]) % 5 == 0 else "kmeans-0")


def test_the_stand_in_draws_lots_without_styles() -> None:
    offered = {f"{n}.jpg": (f"A man {n}.", f"A man {n} in a coat.") for n in range(100)}
    texts = stand_in.chosen_texts(offered, "none")
    assert 30 < sum("coat" in entry["clothing"] for entry in texts.values()) < 70
    assert texts != stand_in.chosen_texts(offered, "none", seed=1)
