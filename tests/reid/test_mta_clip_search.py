"""MTA-CLIP evaluated, exported and searched with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
import transformers
from mta_clip_run import untrained, write_market
from naive import close
from PIL import Image
from published import write_clip
from safetensors.torch import load_file
from torch.nn import functional as F

import bdam_reid
from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Query, QueryError
from bdam_reid.engine.run import open_best
from bdam_reid.evaluation import page
from bdam_reid.evaluation.evaluator import Evaluation
from bdam_reid.evaluation.looks import looks
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.methods import PRESETS
from bdam_reid.methods.mta_clip import method as module
from bdam_reid.search.exporter import export_run


@torch.no_grad()
def test_images_and_sentences_are_embedded_as_clip_has_them(domains: Path, tmp_path: Path) -> None:
    method = untrained("clip-reid", domains, tmp_path)
    model = transformers.CLIPModel.from_pretrained(domains / "clip").eval()
    images = torch.rand(3, 3, 32, 16)
    pixels = images * method.image_encoder.encoder.scale + method.image_encoder.encoder.shift
    own = model.vision_model(pixels, interpolate_pos_encoding=True).pooler_output
    both = torch.cat([F.normalize(x, dim=1) for x in (own, model.visual_projection(own))], dim=1)
    close(method.embed_images(images), both / 2**0.5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(domains / "clip")
    sentences = ["a man in a red coat", "the man"]
    read = tokenizer(sentences, padding=True, return_tensors="pt")
    embedded = method.embed_queries([Query(text=sentence) for sentence in sentences])
    assert embedded[:, :16].count_nonzero() == 0
    close(embedded[:, 16:], F.normalize(model.get_text_features(**read).pooler_output, dim=1))
    close(method.text_tower()(*method.tokenize(sentences)), embedded)


@torch.no_grad()
def test_images_and_sentences_may_be_mixed_but_not_in_one_query(domains: Path, tmp_path: Path) -> None:
    method = untrained("mta-clip", domains, tmp_path)
    paths = sorted((domains / "one" / "query").iterdir())[:2]
    mixed = method.embed_queries([Query(image=paths[0]), Query(text="the man"), Query(image=paths[1])])
    close(mixed[[0, 2]], method.embed_queries([Query(image=path) for path in paths]))
    close(mixed.norm(dim=1), torch.ones(3))
    for query in (Query(text="a man", image=paths[0]), Query()):
        with pytest.raises(QueryError, match="searches by an image or a sentence, got a query with both, or with nei"):
            method.embed_queries([query])


@torch.no_grad()
def test_an_evaluation_tells_the_cameras(domains: Path, tmp_path: Path) -> None:
    method = untrained("clip-reid", domains, tmp_path, "--method.tower.cameras True --method.tower.stride 6")
    assert method.image_encoder.cameras is not None and method.people.cameras == (1, 2)
    method.image_encoder.cameras.normal_()
    test = load_dataset(domains / "one").protocols["test"]
    ranking = Embedder(method, torch.device("cpu")).rank(test)
    images, places = [], []
    for record in ranking.gallery:
        images.append(load_image(record.path, method.image_size))
        places.append({1: 0, 2: 1}[record.camera])
    told = module.joined(method.image_encoder(torch.stack(images), torch.tensor(places)))
    close(ranking.embeddings, told)
    assert not torch.allclose(told, method.embed_images(torch.stack(images)), atol=1e-3)
    query = test.queries[0]
    assert not torch.allclose(ranking.asked[0], method.embed_queries([Query(image=query.image)])[0], atol=1e-3)
    # Those of another set have the same numbers, and are others.
    as_unknown = method.embed_images(torch.stack(images))
    method.forget_cameras()
    close(Embedder(method, torch.device("cpu")).rank(test).embeddings, as_unknown)


@torch.no_grad()
def test_maps_say_which_patches_are_like_the_image(domains: Path, tmp_path: Path) -> None:
    method, images = untrained("mta-clip", domains, tmp_path, "--method.tower.groups 2"), torch.rand(2, 3, 32, 16)
    tower, maps = method.image_encoder, method.maps(images)
    assert list(maps) == ["without adapter", "with adapter", "group 1", "group 2"]
    assert all(values.shape == (2, 4, 2) for values in maps.values())
    patches = tower.tokens(images)[:, 1:]
    assert tower.adapter is not None
    adapted = tower.adapter.grouped(patches)
    close(maps["group 2"].flatten(1), adapted.maps[:, 1])
    whole = tower(images).projected
    patch = tower.finish(adapted.tokens[:, 5]).projected
    expected = [torch.dot(a, b) / a.norm() / b.norm() for a, b in zip(patch, whole, strict=True)]
    close(maps["with adapter"][:, 2, 1], torch.stack(expected))


def test_the_page_shows_where_it_looks(charts: None, domains: Path, tmp_path: Path) -> None:
    method = untrained("mta-clip", domains, tmp_path)
    embedder = Embedder(method, torch.device("cpu"))
    found = looks(embedder, embedder.rank(load_dataset(domains / "one").protocols["test"]), 3)
    assert len({look.path for look in found}) == 3 and all(len(look.maps) == 10 for look in found)
    drawn = page._draw(tmp_path, tmp_path, Evaluation({}, {}, {}), found)
    assert drawn == {"Where it looks in some images of the gallery": "looks.png"}
    with Image.open(tmp_path / "looks.png") as picture:
        assert picture.width > 400


@torch.no_grad()
def test_a_clip_of_few_tokens_will_do(domains: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", longest=32)
    write_market(tmp_path / "one")
    method = untrained("mta-clip", tmp_path, tmp_path / "run", "--data.max-tokens 32")
    assert method.prompts is not None and len(method.prompts) == 30
    assert method.encode_prompts(torch.tensor([0, 1])).shape == (2, 24)


@pytest.fixture(scope="module")
def exported(clip_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's export, with graphs."""
    folder = tmp_path_factory.mktemp("exports") / "export"
    export_run(clip_run, folder, onnx=True, presets=PRESETS)
    return folder


def test_an_export_embeds_as_the_run_does_without_what_training_needs(
    clip_run: Path, exported: Path, domains: Path
) -> None:
    weights = load_file(exported / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"image_encoder", "text_encoder"}
    paths = sorted((domains / "one" / "query").iterdir())
    mine, theirs = (bdam_reid.load(folder, device="cpu") for folder in (clip_run, exported))
    assert torch.equal(mine.embed_images(paths), theirs.embed_images(paths))
    assert torch.equal(mine.embed_texts(["a man in red"]), theirs.embed_texts(["a man in red"]))
    assert mine.parts == {"person": slice(0, 40)}
    hits = mine.search(mine.embed_images(paths), "the man", k=2)
    assert len(hits) == 2 and hits[0].score >= hits[1].score


def test_a_picture_finds_the_person_of_both_domains(clip_run: Path, domains: Path) -> None:
    """As often as the run's own evaluation says."""
    retriever = bdam_reid.load(clip_run, device="cpu")
    protocols = json.loads((clip_run / "metrics.json").read_text())["protocols"]
    for domain in ("one", "two"):
        shown, gallery = (sorted((domains / domain / name).iterdir()) for name in ("query", "bounding_box_test"))
        scores = retriever.embed_images(shown) @ retriever.embed_images(gallery).T
        right = []
        for query, of in zip(shown, scores, strict=True):
            # Of the same person by the same camera an image is not counted.
            kept = [at for at, path in enumerate(gallery) if path.name[:7] != query.name[:7]]
            best = max(kept, key=lambda at: float(of[at]))
            right.append(gallery[best].name[:4] == query.name[:4])
            assert retriever.search(retriever.embed_images(gallery), pictures=[query])[0].score == pytest.approx(
                float(of.max()), abs=1e-5
            )
        rate = 100 * sum(right) / len(right)
        assert rate == pytest.approx(protocols[f"{domain}_test"]["results"]["same"]["r1"]) and rate > 60


def test_its_graphs_embed_in_onnxruntime_as_the_run_does(clip_run: Path, exported: Path, domains: Path) -> None:
    retriever = bdam_reid.load(clip_run, device="cpu")
    paths = sorted((domains / "two" / "query").iterdir())
    images = torch.stack([load_image(path, (32, 16)) for path in paths])
    pixels = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
    session = onnxruntime.InferenceSession(exported / "image_encoder.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (embeddings,) = session.run(None, {given.name: pixels})
    close(torch.from_numpy(embeddings), retriever.embed_images(paths))
    assert {"text_encoder.onnx", "splitter.py"} <= {path.name for path in exported.iterdir()}


def test_a_run_without_its_persons_says_so(clip_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clip_run, tmp_path / "copy")
    (copy / "persons.json").unlink()
    with pytest.raises(ConfigError, match="must hold the training persons of a run"):
        open_best(copy, PRESETS, "cpu")
