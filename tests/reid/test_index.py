"""An index of a folder: what is embedded and kept, what is found in it, and that it outlives its killed writers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from image_files import photo
from tiny_gallery import Colours, reasons_of, update, vector_of, write_photos
from tiny_run import forkserver

from bdam_reid.config import ConfigError
from bdam_reid.data.images import ImageError
from bdam_reid.data.records import QueryError
from bdam_reid.engine.lock import locked
from bdam_reid.search.columns import Where, where_of
from bdam_reid.search.index import embedding
from bdam_reid.search.index.generation import GalleryError
from bdam_reid.search.index.reader import Hit, Index, open_index
from bdam_reid.search.index.update import update_index
from bdam_reid.search.table import Table

EPSILON = float(np.finfo(np.float32).eps)
NAMES = [f"{number % 3}/{number}.png" for number in range(12)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "folder", *NAMES)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "index"


def check(index: Index, folder: Path, names: list[str]) -> None:
    """It holds these images, each with the embedding of its file."""
    held = [index.path(row) for row in range(len(index))]
    assert sorted(held) == sorted(names)
    expected = np.stack([vector_of(folder / path).numpy() for path in held]) if held else np.empty((0, 12))
    np.testing.assert_allclose(index.vectors(np.arange(len(held))), expected, rtol=5e-4)


def paths(index: Index, hits: list[Hit]) -> list[str]:
    return [index.path(hit.row) for hit in hits]


def test_only_what_is_new_or_changed_is_embedded_and_what_is_gone_leaves(folder: Path, place: Path) -> None:
    report = update(place, folder)
    assert (report.images, report.embedded, report.removed, report.changed) == (12, 12, 0, True)
    check(open_index(place), folder, NAMES)
    (folder / NAMES[0]).unlink()
    (folder / NAMES[1]).write_bytes((folder / NAMES[2]).read_bytes())
    write_photos(folder, "new/one.png")
    embedder = Colours()
    report = update(place, folder, embedder=embedder)
    assert (report.images, report.embedded, report.removed, embedder.seen) == (12, 2, 1, 2)
    check(open_index(place), folder, [*NAMES[1:], "new/one.png"])
    report = update(place, folder, embedder=embedder)
    assert (report.images, report.embedded, report.changed, embedder.seen) == (12, 0, False, 2)
    shutil.rmtree(folder)
    folder.mkdir()
    gone = r"expected photographs in .*folder, of which .* has 12, got none: is its disk"
    with pytest.raises(ConfigError, match=gone):
        update(place, folder)
    assert len(open_index(place)) == 12
    (folder / "damaged.png").touch()
    assert update(place, folder).removed == 12
    check(open_index(place), folder, [])
    assert open_index(place).search(np.ones((2, 12), np.float32)) == [[], []]
    assert sorted(path.name for path in place.iterdir()) == ["generation-00000003", "lock", "manifest.json"]


def test_a_file_that_was_touched_in_place_is_embedded_again(folder: Path, place: Path) -> None:
    update(place, folder)
    os.utime(folder / NAMES[5])
    assert update(place, folder).embedded == 1


def test_what_cannot_be_read_is_refused_and_the_rest_is_indexed(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (folder / NAMES[0]).read_bytes()
    (folder / "cut.png").write_bytes(whole[:200])
    (folder / "empty.jpg").touch()
    (folder / "bomb.ppm").write_bytes(b"P6 60000 60000 255\n" + bytes(100))
    (folder / "link.png").symlink_to(NAMES[0])
    report = update(place, folder)
    assert report.images == 12
    reasons = reasons_of(report.refused)
    assert sorted(reasons) == ["bomb.ppm", "cut.png", "empty.jpg", "link.png"]
    assert "decompression bomb" in reasons["bomb.ppm"] and "truncated" in reasons["cut.png"]
    assert reasons["empty.jpg"] == "it is no JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or damaged"
    assert open_index(place).refused == list(report.refused)
    # Not read again, until they change.
    with monkeypatch.context() as context:
        context.setattr(embedding, "decode_image", None)
        again = update(place, folder)
        assert again.refused == report.refused and not again.changed
    (folder / "cut.png").write_bytes(whole)
    assert update(place, folder).images == 13


def test_what_a_failing_disk_held_is_tried_again(folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, size: object) -> None:
        raise ImageError("cannot read it") from OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as context:
        context.setattr(embedding, "decode_image", fails)
        report = update(place, folder)
    assert report.images == 0 and {entry.reason for entry in report.refused} == {"Input/output error"}
    assert update(place, folder).images == 12


def test_an_index_of_before_files_that_cannot_be_read_were_known(folder: Path, place: Path) -> None:
    (folder / "empty.jpg").touch()
    update(place, folder)
    about = place / "generation-00000001" / "about.json"
    held = json.loads(about.read_text())
    about.write_text(json.dumps(held | {"refused": [entry[:2] for entry in held["refused"]]}))
    assert [entry.file for entry in open_index(place).refused] == [None]
    assert [entry.path for entry in update(place, folder).refused] == ["empty.jpg"]


def test_the_nearest_are_found_as_by_hand(folder: Path, place: Path) -> None:
    update(place, folder)
    index = open_index(place)
    queries = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32)
    truth = queries @ index.vectors(np.arange(12)).T
    for k in (1, 5, 12, 100):
        for hits, scores in zip(index.search(queries, k), truth, strict=True):
            assert [hit.row for hit in hits] == np.argsort(-scores, kind="stable")[:k].tolist()
            sums = np.sort(scores)[::-1][:k]  # of 12 terms, which may cancel
            np.testing.assert_allclose([hit.score for hit in hits], sums, atol=16 * EPSILON * np.abs(scores).max())
    assert index.search(np.empty((0, 12), np.float32)) == []


def test_a_gallery_of_one_image_and_equal_images(place: Path, tmp_path: Path) -> None:
    update(place, write_photos(tmp_path / "one", "a.png"))
    index = open_index(place)
    query = vector_of(tmp_path / "one" / "a.png").numpy()[None]
    assert paths(index, index.search(query, 10)[0]) == ["a.png"]
    for number in range(3):
        shutil.copy(tmp_path / "one" / "a.png", tmp_path / "one" / f"b{number}.png")
    update(place, tmp_path / "one")
    assert [hit.row for hit in open_index(place).search(query, 3)[0]] == [0, 1, 2]


TABLE = Table(
    ("camera", "person", "time"),
    {
        name: (
            f"{number % 4}",
            f"p{number // 2}" if number < 10 else "",
            f"2026-11-27T08:{number:02}:00Z" if number else "",
        )
        for number, name in enumerate(NAMES[:11])
    }
    | {"absent.png": ("9", "p9", "")},
)


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["camera=3"], {3, 7}),
        (["camera=3", "camera=0"], {0, 3, 4, 7, 8}),
        (["camera=3", "person=p1"], {3}),
        (["camera=5"], set()),
        (["time>=2026-11-27T08:09"], {9, 10}),
        (["time<2026-11-27T09:03:00+01:00", "camera=1"], {1}),
        (["time>=1795766640", "time<2026-11-27T08:06Z"], {4, 5}),
    ],
)
def test_filters_leave_what_fulfils_them(folder: Path, place: Path, conditions: list[str], left: set[int]) -> None:
    update(place, folder, TABLE)
    index = open_index(place)
    query = np.ones((1, 12), np.float32)
    everything = paths(index, index.search(query, 12)[0])
    where = where_of(conditions)
    expected = [path for path in everything if path in {NAMES[number] for number in left}]
    for k in (1, 12):
        assert paths(index, index.search(query, k, where=where)[0]) == expected[:k]


def test_the_best_image_of_each_person_is_given(folder: Path, place: Path) -> None:
    report = update(place, folder, TABLE)
    assert (report.unlisted, report.absent) == (1, 1)
    index = open_index(place)
    query = np.ones((1, 12), np.float32)
    seen, expected = set(), []
    for path in paths(index, index.search(query, 12)[0]):
        person = NAMES.index(path) // 2 if NAMES.index(path) < 10 else path
        if person not in seen:
            seen.add(person)
            expected.append(path)
    assert len(expected) == 7
    for k in (1, 3, 7, 20):
        assert paths(index, index.search(query, k, one_per="person")[0]) == expected[:k]
    assert index.about(0).keys() == {"camera", "person"} and open_index(place).columns["person"][0] == "p0"
    only = index.search(query, 9, where=Where({"person": ("p1",)}), one_per="person")
    assert len(only[0]) == 1


def test_another_table_replaces_what_was_known(folder: Path, place: Path) -> None:
    update(place, folder, TABLE)
    embedder = Colours()
    assert update(place, folder, Table(("shop",), {NAMES[0]: ("north",)}), embedder).changed
    assert embedder.seen == 0 and list(open_index(place).columns) == ["shop"]


def test_what_cannot_be_asked_is_said(folder: Path, place: Path) -> None:
    update(place, folder, TABLE)
    index, query = open_index(place), np.ones((1, 12), np.float32)
    with pytest.raises(ValueError, match=r"queries must be \(queries, 12\), got \(1, 5\)"):
        index.search(query[:, :5])
    with pytest.raises(ValueError, match="queries must be finite"):
        index.search(query * np.nan)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search(query, 0)
    with pytest.raises(QueryError, match="must be one of camera, person, time, got 'hat'"):
        index.search(query, where=where_of(["hat=red"]))
    with pytest.raises(QueryError, match="must be one of camera, person, time, got 'hat'"):
        index.search(query, one_per="hat")
    with pytest.raises(QueryError, match="must be one of camera, person, time, got 'hat'"):
        index.search(query, where=where_of(["camera=none"]), one_per="hat")
    for condition in ("camera", "time=3", "camera>=3", "=3", "camera="):
        with pytest.raises(QueryError, match=r"a filter must be column=value, .* got "):
            where_of([condition])
    with pytest.raises(QueryError, match=r"a time must be as .* got 'noon'"):
        where_of(["time>=noon"])
    update(place, folder)
    with pytest.raises(QueryError, match="must be none, as the index was made without a table, got 'camera'"):
        open_index(place).search(query, where=where_of(["camera=3"]))


def test_an_index_is_of_one_model_and_one_folder(folder: Path, place: Path, tmp_path: Path) -> None:
    update(place, folder)
    other = Colours()
    other.fingerprint = "others"
    with pytest.raises(ConfigError, match="was made with other weights than those of nowhere"):
        update(place, folder, embedder=other)
    with pytest.raises(ConfigError, match=r"is an index of .*folder, got .*elsewhere"):
        update(place, write_photos(tmp_path / "elsewhere", "a.png"))
    with pytest.raises(ConfigError, match="--output must be a new folder or that of an index, got"):
        update(folder, folder)
    with pytest.raises(ConfigError, match="got the file"):
        update(folder / NAMES[0], folder)
    with locked(place), pytest.raises(ConfigError, match=r"another process, pid \d+, writes in"):
        update(place, folder)
    check(open_index(place), folder, NAMES)


def test_where_a_model_was_moved_to_is_noted(folder: Path, place: Path) -> None:
    update(place, folder)
    embedder = Colours()
    assert update_index(place, folder, embedder, "elsewhere", Table()).changed and embedder.seen == 0
    assert open_index(place).manifest.model == "elsewhere"
    check(open_index(place), folder, NAMES)
    assert not update_index(place, folder, embedder, "elsewhere", Table()).changed


@pytest.mark.parametrize("name", ["vectors.npy", "rows.npz", "about.json"])
def test_a_damaged_index_is_said(folder: Path, place: Path, name: str) -> None:
    update(place, folder)
    file = place / "generation-00000001" / name
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", None):
        file.write_bytes(damage) if damage is not None else file.unlink()
        with pytest.raises(GalleryError, match=r"is damaged .*: delete it, and make it again"):
            open_index(place)


def test_what_is_no_index_is_said(place: Path, folder: Path) -> None:
    with pytest.raises(GalleryError, match=r"is no index: .*python -m bdam_reid.search index RUN FOLDER --output"):
        open_index(place)
    update(place, folder)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(GalleryError, match="must be of format 1, got 99"):
        open_index(place)


def test_an_open_index_outlives_an_update(folder: Path, place: Path) -> None:
    update(place, folder)
    before = open_index(place)
    expected = before.vectors(np.arange(12))
    (folder / NAMES[0]).unlink()
    update(place, folder)
    assert len(before) == 12 and np.array_equal(before.vectors(np.arange(12)), expected)


def test_what_was_embedded_before_a_kill_is_not_embedded_again(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "BATCH", 2)
    monkeypatch.setattr(embedding, "KEPT", 1)

    class Dies(Colours):
        def embed_pixels(self, pixels: object) -> object:  # type: ignore[override]
            if self.seen == 8:
                raise KeyboardInterrupt
            return super().embed_pixels(pixels)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        update(place, folder, embedder=Dies())
    (folder / NAMES[0]).unlink()
    (place / "pending" / "00000002.npz").write_bytes(b"PK damaged")
    embedder = Colours()
    assert update(place, folder, embedder=embedder).images == 11
    assert embedder.seen == 12 - 8 + 2
    check(open_index(place), folder, NAMES[1:])


def _update_slowly(place: Path, folder: Path) -> None:
    embedding.BATCH, embedding.KEPT = 2, 1
    update(place, folder)


def test_killed_at_any_moment_it_leaves_the_last_good_index(folder: Path, place: Path) -> None:
    """Fifty times; between kills, the folder changes. What is found is always that of one moment."""
    rng, start = Random(0), forkserver()
    update(place, folder)
    names, before = list(NAMES), list(NAMES)
    generation, replaced, longest = 1, 0, 0.1
    for turn in range(50):
        gone = names.pop(rng.randrange(len(names)))
        (folder / gone).unlink()
        names += [f"{turn}/new-{number}.png" for number in range(1 + turn % 2)]
        for name in names[-2:]:
            if not (folder / name).exists():
                photo(folder / name)
        process = start.Process(target=_update_slowly, args=(place, folder))
        began = time.perf_counter()
        process.start()
        process.join(rng.uniform(0, longest))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        else:
            longest = 0.8 * (time.perf_counter() - began)
        process.join()
        index = open_index(place)
        held = sorted(index.path(row) for row in range(len(index)))
        if index.manifest.generation != generation:
            generation, replaced, before = index.manifest.generation, replaced + 1, list(names)
        assert held == sorted(before)
        longest *= 1.1
    assert 0 < replaced < 50
    update(place, folder)
    check(open_index(place), folder, names)
    assert len(list(place.iterdir())) == 3
