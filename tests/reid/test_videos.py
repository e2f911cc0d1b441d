"""Videos in a gallery: which frames are taken, that they are found again, and what happens to videos that cannot be
read."""

from __future__ import annotations

import os
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV: pip install -e '.[video]'")

import av
from PIL import Image
from tiny_gallery import Colours, reasons_of, update, vector_of, write_photos

from bdam_reid.data.images import ImageError
from bdam_reid.search import pictures
from bdam_reid.search.columns import where_of
from bdam_reid.search.files import list_images
from bdam_reid.search.index.reader import Index, open_index
from bdam_reid.search.names import Box, box_name, frame_name, parse_name
from bdam_reid.search.pictures import open_picture
from bdam_reid.search.serve.live import Served
from bdam_reid.search.serve.photographs import NotThere, jpeg_of
from bdam_reid.search.table import Table
from bdam_reid.search.videos import frame_at, frames

RATE = 8
"""Frames a second of the videos here; the n-th is of brightness 6 n."""


def write_video(path: Path, count: int, *, rotation: int = 0, skipped: range = range(0)) -> Path:
    """Without sound; frames in `skipped` are left out, so that the one before stays longer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            if number not in skipped:
                # The left half is dark, so that it can be seen which way up it is.
                image = Image.new("RGB", (48, 32), (6 * number,) * 3)
                image.paste((0, 0, 0), (0, 0, 16, 32))
                frame = av.VideoFrame.from_image(image)
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(image: Image.Image) -> int:
    """The number of a frame, by its right half."""
    return round(float(np.asarray(image)[4:-4, 24:-4].mean()) / 6)


def held(index: Index) -> list[str]:
    return [index.path(row) for row in range(len(index))]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_the_first_frame_of_each_second_is_taken_and_found_again(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"clip{suffix}", 30)
    for per_second, every in ((1, 8), (2, 4), (8, 1), (100, 1), (0.5, 16)):
        taken = list(frames(video, per_second))
        assert [brightness(frame.image) for frame in taken] == [*range(0, 30, every)]
        assert [frame.seconds for frame in taken] == [number / RATE for number in range(0, 30, every)]
    for frame in taken:
        np.testing.assert_array_equal(np.asarray(frame_at(video, frame.seconds)), np.asarray(frame.image))
    with pytest.raises(ImageError, match=r"it has no frame at 9\.0 s"):
        frame_at(video, 9.0)


def test_a_second_without_a_new_frame_has_none(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mkv", 40, skipped=range(9, 30))
    assert [frame.seconds for frame in frames(video, 1)] == [0.0, 1.0, 3.75, 4.0]


def test_a_video_of_a_telephone_is_upright(tmp_path: Path) -> None:
    plain = next(frames(write_video(tmp_path / "plain.mp4", 9), 1)).image
    turned = next(frames(write_video(tmp_path / "turned.mp4", 9, rotation=90), 1)).image
    assert plain.size == (48, 32) and turned.size == (32, 48)


def test_names() -> None:
    assert frame_name("a#1/clip.MP4", 12.0) == "a#1/clip.MP4#12.0"
    assert parse_name("a#1/clip.MP4#12.0") == ("a#1/clip.MP4", 12.0, None)
    for photograph in ("clip.mp4#12.0.jpg", "a & b #3.jpg", "clip.jpg#1.0", "clip.mp4", "clip.mp4#", "clip.mp4#1.x"):
        assert parse_name(photograph) == (photograph, None, None)
    box = Box(1, 2, 30, 400)
    assert box_name("b.jpg", box) == "b.jpg#1,2,30,400" and parse_name("b.jpg#1,2,30,400") == ("b.jpg", None, box)
    assert parse_name("clip.mp4#12.0#1,2,30,400") == ("clip.mp4", 12.0, box)


def test_videos_are_indexed_beside_photographs_and_not_again(tmp_path: Path) -> None:
    folder, place = write_photos(tmp_path / "folder", "b.png"), tmp_path / "index"
    write_video(folder / "a" / "clip.mp4", 20)
    report = update(place, folder)
    assert (report.images, report.embedded, report.refused, report.others) == (4, 4, [], 0)
    index = open_index(place)
    names = ["b.png", *(f"a/clip.mp4#{second}.0" for second in range(3))]
    assert held(index) == names
    expected = [vector_of(open_picture(folder, name, (4, 4))) for name in names]
    np.testing.assert_allclose(index.vectors(np.arange(4)), np.stack(expected), rtol=5e-4)

    embedder = Colours()
    assert not update(place, folder, embedder=embedder).changed and embedder.seen == 0
    write_video(folder / "new.mkv", 10)
    assert update(place, folder, embedder=embedder).embedded == embedder.seen == 2
    os.utime(folder / "a" / "clip.mp4")
    report = update(place, folder, embedder=embedder)
    assert (report.images, report.embedded, report.removed, embedder.seen) == (6, 3, 0, 5)
    (folder / "a" / "clip.mp4").unlink()
    report = update(place, folder, embedder=embedder)
    assert (report.images, report.embedded, report.removed, embedder.seen) == (3, 0, 3, 5)
    assert update(place, folder, embedder=embedder, frames_per_second=2).images == 1 + 3 and embedder.seen == 8
    assert not update(place, folder, embedder=embedder, frames_per_second=2).changed


def test_a_table_says_when_a_video_begins(tmp_path: Path) -> None:
    folder, place = tmp_path / "folder", tmp_path / "index"
    write_video(folder / "clip.mp4", 20)
    rows = {"clip.mp4": ("2", "2026-11-27T08:59:59Z"), "clip.mp4#2.0": ("9", ""), "gone.mp4": ("1", "")}
    report = update(place, folder, Table(("camera", "time"), rows))
    assert (report.unlisted, report.absent) == (0, 1)
    index = open_index(place)
    assert [index.about(row) for row in range(3)] == [
        {"camera": "2", "time": "2026-11-27T08:59:59.000+00:00"},
        {"camera": "2", "time": "2026-11-27T09:00:00.000+00:00"},
        {"camera": "9"},
    ]
    (hits,) = index.search(np.ones((1, 12), np.float32), where=where_of(["time>=2026-11-27T09:00"]))
    assert [hit.row for hit in hits] == [1]


def test_what_is_no_whole_video_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, place = write_photos(tmp_path / "folder", "b.png"), tmp_path / "index"
    whole = write_video(tmp_path / "clip.mp4", 20).read_bytes()
    # A list that names another file is not followed.
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{tmp_path / 'clip.mp4'}\n#EXT-X-ENDLIST\n".encode()
    bad = {"cut": whole[:800], "empty": b"", "holes": whole[:300] + bytes(900) + whole[1200:], "list": playlist}
    for name, content in bad.items():
        (folder / f"{name}.mp4").write_bytes(content)
    (folder / "link.mp4").symlink_to(tmp_path / "clip.mp4")
    report = update(place, folder)
    assert report.images == 1
    reasons = reasons_of(report.refused)
    assert sorted(reasons) == sorted(["link.mp4", *(f"{name}.mp4" for name in bad)])
    assert "Invalid data" in reasons["holes.mp4"] and str(tmp_path) not in " ".join(reasons.values())
    with monkeypatch.context() as context:
        context.setattr(pictures, "frames", None)
        again = update(place, folder)
        assert again.refused == report.refused and not again.changed
    (folder / "cut.mp4").write_bytes(whole)
    assert update(place, folder).images == 1 + 3
    monkeypatch.setattr("bdam_reid.search.files.reads_videos", lambda: False)
    (folder / "whole.mp4").write_bytes(whole)
    listing = list_images(folder)
    assert not listing.videos
    assert reasons_of(listing.refused)["whole.mp4"] == "a video needs PyAV: pip install -e '.[video]'"


def test_a_frame_is_shown_as_a_photograph_is(tmp_path: Path) -> None:
    folder, place = tmp_path / "folder", tmp_path / "index"
    write_video(folder / "clip.mp4", 20)
    update(place, folder)
    served = Served(open_index(place), None)  # type: ignore[arg-type]
    image = Image.open(BytesIO(jpeg_of(served, "clip.mp4#1.0", 24)))
    assert image.size == (24, 16) and brightness(image.resize((48, 32))) == pytest.approx(8, abs=1)
    for name in ("clip.mp4", "clip.mp4#0.5", "clip.mp4#9.0", "../folder/clip.mp4#1.0"):
        with pytest.raises(NotThere, match="a photograph must be one of the index"):
            jpeg_of(served, name, 24)
    (folder / "clip.mp4").write_bytes(b"no more")
    with pytest.raises(ImageError, match=r"a photograph of the index cannot be read any more: 'clip\.mp4#2\.0'"):
        jpeg_of(served, "clip.mp4#2.0", 24)
