"""Image files of every kind that cameras and phones write, and what is no image."""

from __future__ import annotations

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdam_reid.data import images
from bdam_reid.data.images import ImageError, decode_image, open_image

SIZE = (16, 8)
RED = (200, 10, 10)


def test_exif_rotation_is_followed(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste((0, 0, 250), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright: the file's left is the top.
    image.save(tmp_path / "a.png", exif=exif)
    upright = open_image(tmp_path / "a.png", SIZE)
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 38)) == RED and upright.getpixel((10, 2)) == (0, 0, 250)


def test_sixteen_bits_of_grey_keep_their_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 16).astype(np.uint16)
    Image.fromarray(np.tile(levels[:, None], (1, 8))).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", SIZE)[0, :, 0]
    assert decoded.tolist() == [int(level) >> 8 for level in levels]


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_hidden_colours_stay_hidden(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (8, 16), (*RED, 0))
    image.convert(mode).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", SIZE).eq(255).all()


def test_a_large_jpeg_is_not_decoded_whole(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 6000), RED).save(tmp_path / "a.jpg")
    image = open_image(tmp_path / "a.jpg", (96, 48))
    assert 192 <= image.height < 800 and image.width >= 96
    assert decode_image(tmp_path / "a.jpg", (96, 48)).shape == (3, 96, 48)


def test_a_small_one_is_decoded_to_the_last_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (160, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(np.asarray(open_image(tmp_path / "a.jpg", (96, 48))), np.asarray(image))


def test_other_decoders_are_not_offered(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 16), RED)
    for kind in ("EPS", "ICO", "PDF", "DDS"):
        image.save(tmp_path / "a", format=kind)
        with pytest.raises(ImageError, match="no JPEG, PNG, WebP"):
            decode_image(tmp_path / "a", SIZE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_whatever_is_damaged_is_an_image_error_or_an_image(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (32, 24, 3), dtype=np.uint8)).save(tmp_path / "whole", format=kind)
    whole = np.frombuffer((tmp_path / "whole").read_bytes(), np.uint8)
    failed = 0
    for _ in range(60):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 8)] = rng.integers(0, 256, 8)
        (tmp_path / "damaged").write_bytes(damaged[: rng.integers(1, len(whole))].tobytes())
        try:
            decode_image(tmp_path / "damaged", SIZE)
        except ImageError as error:
            assert "damaged" in str(error)
            failed += 1
    assert failed > 10


def test_large_images_are_decoded_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("P", (30, 40)).save(tmp_path / "large.png")
    at_once, most = 0, 0

    def counted(image: Image.Image) -> Image.Image:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.01)
        at_once -= 1
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(images, "_as_rgb", counted)
    monkeypatch.setattr(images, "_LARGE", 30 * 40 - 1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode_image(tmp_path / "large.png", SIZE), range(8)))
    assert most == 1


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = b"P6 60000 60000 255\n"
    (tmp_path / "bomb.ppm").write_bytes(header + b"\0" * 100)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"bomb\.ppm"):
        decode_image(tmp_path / "bomb.ppm", SIZE)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
