"""Folders of photographs: what is found in them, what is refused and why, and what a table says of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_gallery import reasons_of, write_photos

from bdam_reid.config import ConfigError
from bdam_reid.data import images
from bdam_reid.data.images import ImageError, decode_image
from bdam_reid.search import files
from bdam_reid.search.files import list_images
from bdam_reid.search.table import read_table


def refused(folder: Path) -> dict[str, str]:
    return reasons_of(list_images(folder).refused)


def test_images_are_found_in_all_folders_in_order(tmp_path: Path) -> None:
    write_photos(tmp_path, "b.png", "A/c.JPG", "A/deep/er/d.webp", "é 😀.jpeg")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    found = list_images(tmp_path)
    assert [image.path for image in found.images] == ["A/c.JPG", "A/deep/er/d.webp", "b.png", "é 😀.jpeg"]
    assert (found.refused, found.others) == ([], 1)
    about = (tmp_path / "b.png").stat()
    assert found.images[2][1:] == (about.st_size, about.st_mtime_ns)


def test_links_are_not_followed_and_it_is_said_where_they_lead(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "gallery", "in/a.png")
    outside = write_photos(tmp_path / "outside", "secret.png")
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "out").symlink_to(outside)
    (folder / "up.jpg").symlink_to("../outside/secret.png")
    (folder / "in" / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "again.png").symlink_to("in/a.png")
    (folder / "notes.txt").symlink_to(outside / "secret.png")
    found = list_images(folder)
    assert [image.path for image in found.images] == ["in/a.png"] and found.others == 1
    assert reasons_of(found.refused) == {
        "out.png": "a symbolic link out of the folder",
        "out": "a symbolic link out of the folder",
        "up.jpg": "a symbolic link out of the folder",
        "in/loop": "a symbolic link to a folder that it is in",
        "self.png": "a symbolic link that leads to itself",
        "gone.png": "a symbolic link to nothing",
        "again.png": "a symbolic link to what is in the folder already",
    }
    (tmp_path / "link").symlink_to(folder)
    assert list_images(tmp_path / "link").images == found.images


def test_what_only_has_the_name_of_an_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    assert refused(tmp_path) == {"pipe.png": "no regular file", "\\udcff.png": "its name is not UTF-8"}
    for other in ("pipe.png", "none"):
        with pytest.raises(ConfigError, match="expected a folder of images"):
            list_images(tmp_path / other)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    assert refused(tmp_path) == {"closed": "Permission denied"}


def test_heic_without_its_reader_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.HEIC").touch()
    monkeypatch.setattr(files, "reads_heic", lambda: False)
    assert refused(tmp_path) == {"a.HEIC": "HEIC needs pillow-heif: pip install -e '.[search]'"}


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 128), (200, 10, 10))).save(tmp_path / "a.heic")
    assert [image.path for image in list_images(tmp_path).images] == ["a.heic"]
    pixels = decode_image(tmp_path / "a.heic", (8, 4)).float().mean(dim=(1, 2))
    assert (pixels - pixels.new_tensor([200, 10, 10])).abs().max() < 8
    whole = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"a\.heic"):
        decode_image(tmp_path / "a.heic", (8, 4))


def test_without_its_reader_heic_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_formats", lambda: images._FORMATS)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ImageError, match=r"a\.heic"):
        decode_image(tmp_path / "a.heic", (8, 4))


def test_colours_of_print_are_those_of_a_screen(tmp_path: Path) -> None:
    Image.new("RGB", (8, 16), (200, 10, 10)).convert("CMYK").save(tmp_path / "a.jpg")
    pixels = decode_image(tmp_path / "a.jpg", (16, 8)).numpy().mean(axis=(1, 2))
    assert np.abs(pixels - [200, 10, 10]).max() < 8


def test_a_table_is_read(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        '\ufeffcamera, path,time\n3,./a.png,2026-11-27T08:30:00Z\n\n"4, left",b/c.png,\n3,a.png,2026-11-27T08:30:00Z\n'
    )
    read = read_table(table)
    assert read.names == ("camera", "time")
    assert read.rows == {"a.png": ("3", "2026-11-27T08:30:00Z"), "b/c.png": ("4, left", "")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name its columns, each once, path among them, got ''"),
        ("file,camera\n", "got 'file, camera'"),
        ("path,a,a\n", "each once"),
        ("path,a=b\na.png,1\n", "names of columns must be of .* got 'a=b' in the first line of"),
        ("path,ca\0m\na.png,1\n", "names of columns must be of .* as filters name them"),
        (f"path,{'c' * 70_000}\na.png,1\n", "at most 100, .* got 'ccc"),
        ("path,camera\na.png,1,2\n", "line 2 of .*table.csv must have 2 fields, got 3"),
        ("path,camera\na.png,1\na.png,2\n", "line 3 of .*table.csv says of 'a.png' something else"),
        ("path,time\na.png,yesterday\n", "line 2 of .*: a time must be as .*, got 'yesterday'"),
        ("path,time\na.png,1764230400000\n", "line 2 of .*: a time must be of the years .*, not thousandths"),
        ("path,time\na.png,9999-12-31T23:59:59\n", "a time must be of the years 1 to 9998, got '9999-12-31T23:59:59'"),
        ('path\n"a.png', "cannot read the table"),
        (b"path\n\xff\n", "cannot read the table"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, text: str | bytes, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_table(table)
