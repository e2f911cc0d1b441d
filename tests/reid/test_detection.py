"""Persons in pictures of whole scenes: found, indexed by their boxes, and shown."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_gallery import Colours, reasons_of, update, vector_of

from bdam_reid.config import ConfigError
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError
from bdam_reid.search import detection
from bdam_reid.search.detection import check_detector, persons
from bdam_reid.search.index.reader import open_index
from bdam_reid.search.names import parse_name
from bdam_reid.search.pictures import open_picture
from bdam_reid.search.serve.live import Served
from bdam_reid.search.serve.photographs import jpeg_of
from bdam_reid.search.table import Table

PLACES = [(60, 100), (400, 130)]
"""Left and top of the persons in a scene."""
SIZE = (100, 200)


def detects() -> bool:
    try:
        check_detector()
    except ConfigError:
        return False
    return True


needs_opencv = pytest.mark.skipif(
    not detects(), reason="needs OpenCV below 5, which has its HOG detector: pip install -e '.[detect]'"
)


def scene(people: Path, *places: tuple[int, int], scale: int = 1) -> Image.Image:
    """A grey wall with drawn persons before it."""
    picture = Image.new("RGB", (640, 480), (150, 150, 150))
    records = load_dataset(people).protocols["test"].gallery
    for record, place in zip(records, places, strict=False):
        picture.paste(Image.open(record.path).resize(SIZE), place)
    return picture.resize((640 * scale, 480 * scale))


@needs_opencv
@pytest.mark.parametrize("scale", [1, 3])
def test_persons_are_found_where_they_are(people: Path, scale: int) -> None:
    boxes = sorted(persons(scene(people, *PLACES, scale=scale)))
    assert len(boxes) == len(PLACES)
    for box, (left, top) in zip(boxes, PLACES, strict=True):
        right, bottom = left + SIZE[0], top + SIZE[1]
        shared = np.array([max(box.left, scale * left), max(box.top, scale * top)])
        shared = np.array([min(box.right, scale * right), min(box.bottom, scale * bottom)]) - shared
        area = (box.right - box.left) * (box.bottom - box.top)
        assert shared.min() > 0 and shared.prod() > 0.8 * area and area > 0.4 * scale**2 * SIZE[0] * SIZE[1]


@needs_opencv
def test_each_person_of_a_scene_is_found_by_a_box(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, place = tmp_path / "folder", tmp_path / "index"
    folder.mkdir()
    scene(people, *PLACES).save(folder / "street.png")
    scene(people).save(folder / "empty.png")
    table, embedder = Table(("camera",), {"street.png": ("3",)}), Colours()
    report = update(place, folder, table, embedder, detect=True)
    assert (report.images, report.unlisted, report.absent) == (2, 0, 0)
    assert reasons_of(report.refused) == {"empty.png": "no person was found in it"}
    index = open_index(place)
    assert {parse_name(index.path(row)).file for row in range(2)} == {"street.png"}
    assert index.about(1) == {"camera": "3"}
    for row in range(2):
        name, picture = index.path(row), open_picture(folder, index.path(row), (4, 4))
        np.testing.assert_allclose(index.vectors(np.array([row]))[0], vector_of(picture), rtol=5e-4)
        assert Image.open(BytesIO(jpeg_of(Served(index, None), name, 2048))).size == picture.size  # type: ignore[arg-type]
    # Nobody is looked for again, in what had nobody neither.
    with monkeypatch.context() as context:
        context.setattr("bdam_reid.search.pictures.persons", None)
        assert not update(place, folder, table, embedder, detect=True).changed
    report = update(place, folder, table, embedder)
    assert (report.images, report.embedded, report.refused) == (2, 2, [])
    assert sorted(open_index(place).path(row) for row in range(2)) == ["empty.png", "street.png"]


def test_a_part_of_a_picture_that_is_smaller_now_is_not_shown(tmp_path: Path) -> None:
    Image.new("RGB", (40, 60), "red").save(tmp_path / "street.png")
    assert open_picture(tmp_path, "street.png#30,0,40,60", (4, 4)).size == (10, 60)
    for box in ("30,0,41,60", "0,0,40,61"):
        with pytest.raises(ImageError, match=r"a photograph of the index cannot be read any more: 'street\.png#"):
            open_picture(tmp_path, f"street.png#{box}", (4, 4))


def test_without_the_detector_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer:
        """OpenCV 5 has none."""

    monkeypatch.setattr(detection, "import_module", lambda name: Newer)
    with pytest.raises(
        ConfigError, match=r"--detect needs OpenCV of a version below 5, .*pip install -e '\.\[detect\]'"
    ):
        check_detector()
