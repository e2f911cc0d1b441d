"""Exports: a folder that embeds as its run does, wherever it is copied, and its graphs without torch."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from PIL import ExifTags, Image
from safetensors import safe_open
from tiny_run import tiny, tiny_demo

import bdam_reid
from bdam_reid.config import Config, ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.tokens import train_wordpiece
from bdam_reid.encoders import hub
from bdam_reid.encoders.hub import PACKAGES
from bdam_reid.engine.checkpoint import CheckpointError, load_weights, save_checkpoint, write_json
from bdam_reid.engine.exported import portable
from bdam_reid.engine.run import open_best
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.export import main
from bdam_reid.methods import PRESETS
from bdam_reid.search import exporter, towers
from bdam_reid.train import train

(WORDS,) = PACKAGES
SENTENCES = (
    "A tall young man with short black hair is wearing a red shirt and blue jeans.",
    "A red shirt.",
    "A man with a beard.",
    "Somebody walks by.",
    "the",
    "An old woman, carrying a handbag over her shoulder, " + "with long grey hair, " * 9,
)
"""Among them one without an identity, one without clothes, one without either, one of a word that is left out, one that
is cut."""


def export(run: Path, out: Path, *options: str) -> Path:
    main([str(run), str(out), *options])
    return out


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """The message with which an export ends."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, command)))
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def pictures(people: Path) -> list[Path]:
    return sorted((people / "imgs").rglob("*.jpg"))[:9]


def untrained(config: Config) -> Path:
    """A run as it is before training."""
    run = Path(config.output)
    config.method.prepare(config.data, load_dataset(config.data.root), run)
    method = config.method.build(config.data, run, fresh=True)
    weights = {"same": {"identity": 1.0, "clothing": 0.3}, "other": {"identity": 1.0, "clothing": 0.0}}
    save_checkpoint(run, "best", method.state_dict(), {"epoch": 1, "metrics": {}, "weights": weights, "reranks": []})
    write_json(run / "config.json", asdict(config))
    return run


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo's own architecture, convolutions and attention, with published words where they are installed."""
    options = ["--engine.mixed-precision", "no"]
    if hub.find_spec(PACKAGES[WORDS]):
        options += ["--method.text.words", WORDS]
    return untrained(tiny_demo(people, tmp_path_factory.mktemp("demo") / "run", *options))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With graphs. Tests that change it take a copy."""
    return export(run, tmp_path_factory.mktemp("exports") / "demo", "--onnx")


@pytest.fixture(scope="module")
def plain(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the conference draft's model, with GradNorm and a fusion, without graphs. Tests that change it take a copy."""
    return export(finished, tmp_path_factory.mktemp("exports") / "plain")


@pytest.mark.parametrize("which", ["demo", "conference draft"])
def test_a_copy_embeds_as_the_run_to_the_bit(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = (request.getfixturevalue(n) for n in (("run", "exported") if which == "demo" else ("finished", "plain")))
    monkeypatch.setattr(hub, "_reachable", lambda: pytest.fail("it must not look for a network"))
    monkeypatch.setattr(hub, "installed", lambda name: pytest.fail("it must not look for packages"))
    expected, found = bdam_reid.load(run), bdam_reid.load(shutil.copytree(out, tmp_path / "copy"))
    assert torch.equal(expected.embed_images(pictures), found.embed_images(pictures))
    assert torch.equal(expected.embed_texts(SENTENCES), found.embed_texts(SENTENCES))
    assert (expected.parts, expected.weights) == (found.parts, found.weights)


def test_published_encoders_are_not_needed_again(people: Path, tmp_path: Path, pictures: list[Path]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    published = tmp_path / "published"
    vit = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    transformers.ViTModel(vit).save_pretrained(published / "vit")
    bert = transformers.BertConfig(**sizes, vocab_size=200, max_position_embeddings=24)
    transformers.BertModel(bert).save_pretrained(published / "bert")
    train_wordpiece(["a man in a red shirt"], 200, tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "tokenizer", published / "bert", dirs_exist_ok=True)
    options = ["--method.image.pretrained", str(published / "vit"), "--method.text.pretrained", str(published / "bert")]
    run = untrained(tiny(people, tmp_path / "run", *options))
    expected = bdam_reid.load(run)
    out = export(run, tmp_path / "out")
    shutil.rmtree(published)
    shutil.rmtree(run)
    found = bdam_reid.load(out)
    assert torch.equal(expected.embed_images(pictures), found.embed_images(pictures))
    assert torch.equal(expected.embed_texts(SENTENCES), found.embed_texts(SENTENCES))
    assert str(tmp_path) not in (out / "config.json").read_text()


def test_names_on_a_hub_stay_and_folders_lose_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/bert").mkdir(parents=True)
    for given, kept in (
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("/home/me/vit", "vit"),
        ("~/vit", "vit"),
        ("../vit", "vit"),
        ("models/bert", "bert"),
        ("a/b/vit", "vit"),
        ("", ""),
    ):
        config = portable(tiny(Path("data/people"), Path("runs/x"), "--method.image.pretrained", given))
        assert config["method"]["image"]["pretrained"] == kept
        assert (config["output"], config["data"]["root"]) == ("x", "people")


def test_only_what_embeds_is_in_it(finished: Path, plain: Path) -> None:
    with safe_open(plain / "model.safetensors", "pt") as weights:
        kept = set(weights.keys())
    dropped = {name.partition(".")[0] for name in load_weights(finished / "best").keys() - kept}
    assert dropped == {"gradnorm", "fusion"}
    assert sorted(path.name for path in plain.iterdir()) == [
        "README.md", "SHA256SUMS", "config.json", "export.json", "model.safetensors", "tokenizer"
    ]  # fmt: skip
    assert subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=plain).returncode == 0


def test_nothing_in_it_tells_where_it_was_trained(exported: Path, people: Path, tmp_path: Path) -> None:
    places = [str(tmp_path.parent), str(people.parent), sys.prefix, str(Path(bdam_reid.__file__).parents[1])]
    for path in exported.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert [place for place in places if place.encode() in content] == [], path


def test_it_is_described(plain: Path, finished: Path) -> None:
    told = json.loads((plain / "export.json").read_text())
    best = json.loads((finished / "best" / "state.json").read_text())
    assert told["best"] == {name: best[name] for name in ("epoch", "metrics", "weights", "reranks")}
    assert (told["format"], told["preset"], told["image"]["height"], told["image"]["width"]) == (1, "demo-icme", 32, 16)
    assert told["parts"] == {"identity": [0, 16], "clothing": [16, 32]}
    assert told["text"]["max_tokens"] == 24 and told["text"]["left_out"] == []
    card = (plain / "README.md").read_text()
    assert 'people = bdam_reid.load("plain")' in card and "synthetic" in card and "onnx" not in card
    measured = json.loads((finished / "metrics.json").read_text())["protocols"]["test"]["results"]["same"]
    assert re.search(rf"for same\b.* clothes.* {measured['r1']:.2f} +{measured['r5']:.2f} .*16 +8\n", card)


def test_a_run_that_was_not_evaluated_is_exported_and_says_so(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.json"))
    card = (export(run, tmp_path / "new" / "out") / "README.md").read_text()
    assert "It has not been evaluated on a test split." in card and "synthetic" not in card


def test_an_export_ranks_and_is_analysed_as_its_run(finished: Path, plain: Path, people: Path) -> None:
    protocol, found = load_dataset(people).protocols["test"], []
    for folder in (finished, plain):
        opened = open_best(folder, PRESETS, "cpu")
        embedder = Embedder(opened.method, opened.device, opened.precision)
        weights = opened.method.chosen_weights(opened.best)["same"]
        found.append((embedder.rank(protocol).metrics(weights), embedder.analyse(protocol.gallery)))
    (expected, gates), (metrics, kept) = found
    assert metrics == expected
    assert gates.keys() - kept.keys() == {"fusion"}  # which has no part in ranking
    assert torch.equal(gates["gate"]["identity"], kept["gate"]["identity"])


def test_the_graphs_have_plain_operations_and_open_sizes(exported: Path) -> None:
    shapes = {}
    for name in ("image_encoder", "text_encoder"):
        graph = onnx.load(exported / f"{name}.onnx")
        assert {(used.domain, used.version) for used in graph.opset_import if used.domain in ("", "bdam")} == {("", 20)}
        assert {node.domain for node in graph.graph.node} == {""}
        for value in (*graph.graph.input, *graph.graph.output):
            shape = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            shapes[name, value.name] = shape
    assert shapes == {
        ("image_encoder", "pixels"): ["batch", 3, 48, 24],
        ("image_encoder", "embeddings"): ["batch", 32],
        ("text_encoder", "identity_ids"): ["batch", "identity_length"],
        ("text_encoder", "identity_mask"): ["batch", "identity_length"],
        ("text_encoder", "clothing_ids"): ["batch", "clothing_length"],
        ("text_encoder", "clothing_mask"): ["batch", "clothing_length"],
        ("text_encoder", "embeddings"): ["batch", 32],
    }


def test_the_program_of_the_card_embeds_without_torch_as_the_run_does(
    run: Path, exported: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """In the folder, where this package is not; one picture is large and lies on its side."""
    folder, turned = shutil.copytree(exported, tmp_path / "copy"), tmp_path / "turned.jpg"
    with Image.open(pictures[0]) as picture:
        exif = picture.getexif()
        exif[ExifTags.Base.Orientation] = 6
        picture.resize((1201, 700)).save(turned, exif=exif)
    pictures = [*pictures, turned]
    _, program = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (folder / "program.py").write_text(f"""{program}
import sys
paths, sentences, out = json.loads(sys.argv[1])
gallery = embed_images(paths)
found = [scores(gallery, sentences[0], clothes) for clothes in ("same", "other")]
np.savez(out, images=gallery, texts=embed_texts(sentences), scores=found)
assert not {{"torch", "transformers", "bdam_reid"}} & set(sys.modules)
""")
    given = json.dumps([list(map(str, pictures)), SENTENCES, str(tmp_path / "found.npz")])
    subprocess.run([sys.executable, "program.py", given], cwd=folder, check=True)
    found, retriever = np.load(tmp_path / "found.npz"), bdam_reid.load(run)
    gallery = retriever.embed_images(pictures)
    np.testing.assert_allclose(found["images"], gallery, atol=towers.BOUND)
    np.testing.assert_allclose(found["texts"], retriever.embed_texts(SENTENCES), atol=towers.BOUND)
    for clothes, scores in zip(("same", "other"), found["scores"], strict=True):
        hits = retriever.search(gallery, SENTENCES[0], len(gallery), clothes=clothes)
        np.testing.assert_allclose([scores[hit.image] for hit in hits], [hit.score for hit in hits], atol=1e-3)


def test_a_transformer_has_a_graph(finished: Path, tmp_path: Path) -> None:
    """Of patches; what comes after it is in the demo's graph too."""
    encoder = open_best(finished, PRESETS, "cpu").method.get_submodule("image_encoder").eval()
    images: list[tuple[torch.Tensor, ...]] = [(torch.randn(batch, 3, 32, 16),) for batch in (2, 1, 9)]
    tower = towers.Tower("image_encoder", encoder, {"images": {0: torch.export.Dim("batch")}}, images)
    towers.write_graph(tower, tmp_path / "image_encoder.onnx")
    assert towers.check_graph(tower, tmp_path / "image_encoder.onnx") <= towers.BOUND


def test_a_graph_of_other_embeddings_is_refused(run: Path, exported: Path) -> None:
    method = open_best(run, PRESETS, "cpu").method.eval()
    tower, path = towers._image_tower(method, torch.Generator().manual_seed(1)), exported / "image_encoder.onnx"
    assert towers.check_graph(tower, path) <= towers.BOUND
    with torch.no_grad():
        method.get_parameter("identity_projection.weight")[0] += 0.01
    with pytest.raises(CheckpointError, match=r"image_encoder gives other embeddings in onnxruntime: they differ by "):
        towers.check_graph(tower, path)


def test_graphs_that_fail_their_check_leave_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(towers, "write_graph", lambda tower, path: path.write_bytes(b"no graph"))
    assert "onnxruntime cannot run" in refused(capsys, finished, tmp_path / "out", "--onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(towers, "find_spec", lambda name: None if name == "onnxscript" else object())
    said = refused(capsys, tmp_path / "nowhere", tmp_path / "out", "--onnx")
    assert said == "error: --onnx needs onnxscript: pip install -e '.[onnx]'\n"


def test_the_same_export_again_is_checked_and_stays(
    finished: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    (out / "README.md").write_text("my own words")
    main([str(finished), str(out)])
    assert "is an export of" in capsys.readouterr().out
    assert (out / "README.md").read_text() == "my own words"
    assert "without --onnx: delete it, or give" in refused(capsys, finished, out, "--onnx")
    (out / "export.json").write_text((out / "export.json").read_text().replace('"epoch": ', '"epoch": 1'))
    assert "damaged export: export.json is not what was written" in refused(capsys, finished, out)


def test_what_is_in_use_is_left_alone(
    finished: Path, run: Path, plain: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    for out in (tmp_path / "notes", tmp_path / "notes" / "a.txt", finished, finished / "best"):
        before = sorted(out.parent.rglob("*"))
        assert f"expected a new folder for the export, got {out}, which is in use" in refused(capsys, finished, out)
        assert sorted(out.parent.rglob("*")) == before
    assert "an export of another run or checkpoint, they differ in preset, " in refused(capsys, run, plain)
    assert f"{plain} is an export: copy that folder" in refused(capsys, plain, tmp_path / "out")
    assert f"{people} is no run: it has no config.json" in refused(capsys, people, tmp_path / "out")
    with pytest.raises(ConfigError, match="an export: it is not trained on"):
        train(tiny(people, plain))


@pytest.mark.parametrize("name", ["export.json", "config.json", "model.safetensors", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_torn_copy_is_named(plain: Path, tmp_path: Path, name: str, damage: str) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    content = (out / name).read_bytes()
    (out / name).unlink()
    if damage == "cut":
        (out / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"out is a damaged export: {name} .*Copy it again, or delete it"):
        bdam_reid.load(out)


@pytest.mark.parametrize("content", [None, "", "half a line", "0000  \n"])
def test_a_torn_list_of_digests_is_named(plain: Path, tmp_path: Path, content: str | None) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    (out / "SHA256SUMS").unlink()
    if content is not None:
        (out / "SHA256SUMS").write_text(content)
    with pytest.raises(CheckpointError, match="is a damaged export"):
        bdam_reid.load(out)


def test_an_export_of_a_later_version_is_named(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    told = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps(told | {"format": 2}))
    exporter.seal(out)
    with pytest.raises(CheckpointError, match="must be of format 1, got 2: install the version of this package"):
        bdam_reid.load(out)


def test_metrics_of_another_form_are_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "metrics.json").write_text('{"r1": 50}')
    assert "metrics.json is not what this version writes" in refused(capsys, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow over 16 KiB: writing more fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_message_and_leaves_nothing(
    finished: Path, tmp_path: Path, small_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, finished, tmp_path / "out")
    assert "cannot write the export to" in said and "Nothing was kept: make room" in said
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_export_and_the_next_one_says_what_it_left(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(exporter, "seal", lambda folder: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        main([str(finished), str(out)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert not out.exists()
    export(finished, out)
    assert f"{left} is left of an export that was killed" in capfd.readouterr().out
    assert bdam_reid.load(out).embed_texts(["a man"]).shape == (1, 32)


def test_a_signal_leaves_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "seal", lambda folder: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        main([str(finished), str(tmp_path / "out")])
    assert stop.value.code == 128 + signal.SIGTERM and "interrupted by SIGTERM" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_wait_for_torch() -> None:
    program = """
import sys
from bdam_reid.export import main
try:
    main(["--help"])
finally:
    print("torch" in sys.modules)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "--onnx" in printed and printed.endswith("False\n")
