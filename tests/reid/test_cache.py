"""Features that are kept on disk: used if nothing has changed, and never otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import entries, write_set
from image_search import Brightness
from PIL import Image
from tiny_run import tiny
from torch import Tensor, nn

from bdam_reid.config import ConfigError
from bdam_reid.data.images import load_image
from bdam_reid.data.records import Record
from bdam_reid.evaluate import Options, evaluate_run
from bdam_reid.evaluation import cache as module
from bdam_reid.evaluation.cache import FeatureCache
from bdam_reid.evaluation.ranking import Embedder


class Counting(Brightness):
    """Counts the images that it embeds, and has a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0
        self.factor = nn.Parameter(torch.ones(1))

    def embed_images(self, images: Tensor) -> Tensor:
        self.embedded += len(images)
        return self.factor * super().embed_images(images)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("L", (4, 8), 60 * number).save(path)
    return [Record(path, path.name, number, "test") for number, path in enumerate(paths)]


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    cache = FeatureCache(tmp_path / "cache", tiny(tmp_path, tmp_path))
    return Embedder(Counting(), torch.device("cpu"), batch_size=3, cache=cache)


def again(embedder: Embedder) -> Embedder:
    """As another process has it, which knows nothing yet."""
    assert embedder.cache
    method = Counting()
    method.load_state_dict(embedder.method.state_dict())
    return replace(embedder, method=method, cache=FeatureCache(embedder.cache._folder, embedder.cache._config))


def embedded(embedder: Embedder, records: Sequence[Record]) -> int:
    """How many images were embedded for a gallery, which is right."""
    assert isinstance(embedder.method, Counting)
    before = embedder.method.embedded
    readable, embeddings = embedder.gallery(records)
    expected = torch.stack([load_image(record.path, (8, 4)).mean() for record in readable])[:, None]
    assert torch.equal(embeddings, embedder.method.factor.detach() * expected)
    return embedder.method.embedded - before


def test_what_has_not_changed_is_not_embedded_again(embedder: Embedder, records: list[Record]) -> None:
    assert (embedded(embedder, records), embedded(embedder, records)) == (4, 0)
    assert embedded(again(embedder), records) == 0
    assert [path.suffix for path in embedder.cache._folder.iterdir()] == [".safetensors"]  # type: ignore[union-attr]


def test_what_has_changed_is_embedded_again(embedder: Embedder, records: list[Record]) -> None:
    embedded(embedder, records)
    assert embedded(embedder, records[:3]) == 3 and embedded(embedder, records[::-1]) == 4
    Image.new("L", (4, 8), 99).save(records[2].path)
    assert embedded(again(embedder), records) == 4
    before = records[1].path.stat()
    os.utime(records[1].path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert embedded(again(embedder), records) == 4
    assert embedded(replace(embedder, batch_size=4), records) == 4
    described = [replace(record, captions=("A man.",)) for record in records]
    assert embedded(again(embedder), described) == 4
    changed = again(embedder)
    with torch.no_grad():
        changed.method.factor += 1  # type: ignore[operator]
    assert embedded(changed, records) == 4
    assert embedder.cache
    config = embedder.cache._config
    data = replace(config.data, image_width=config.data.image_width + 8)
    cache = FeatureCache(embedder.cache._folder, replace(config, data=data))
    assert embedded(replace(again(embedder), cache=cache), records) == 4
    assert embedded(again(embedder), records) == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "json", "other"])
def test_a_damaged_file_is_not_used(embedder: Embedder, records: list[Record], damage: str) -> None:
    embedded(embedder, records)
    (path,) = embedder.cache._folder.iterdir()  # type: ignore[union-attr]
    whole = path.read_bytes()
    flipped = whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]
    damaged = {
        "cut": whole[:-3],
        "flipped": flipped,
        "empty": b"",
        "json": b"{}",
        "other": whole.replace(b"sha", b"shb"),
    }
    path.write_bytes(damaged[damage])
    assert embedded(again(embedder), records) == 4
    assert embedded(again(embedder), records) == 0


def test_a_full_disk_costs_the_cache_only(
    embedder: Embedder, records: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    assert embedded(embedder, records) == 4
    assert list((tmp_path / "cache").iterdir()) == []


def test_images_that_cannot_be_read_are_remembered(embedder: Embedder, records: list[Record]) -> None:
    records[1].path.write_bytes(b"no image")
    lenient = replace(embedder, allow_missing=True)
    assert (embedded(lenient, records), embedded(lenient, records)) == (3, 0)
    assert [record.key for record in lenient.gallery(records)[0]] == ["0.png", "2.png", "3.png"]


def test_evaluation_keeps_and_finds_the_same(finished: Path, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", entries())
    options = Options(finished, root, output=tmp_path / "out", cache=tmp_path / "cache")
    first = evaluate_run(options).metrics
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()) == ["analysis", "embeddings"]
    second = evaluate_run(options).metrics
    assert second == first and list(second["gates"]) == list(first["gates"])
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("embeddings of 4 images: those in") == log.count("analysis of 4 images: those in") == 1
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--cache must be a folder, got the file"):
        evaluate_run(replace(options, cache=tmp_path / "file"))
