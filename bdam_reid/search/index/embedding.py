"""Embeds what is new in a folder: image files, frames of video files, and persons found in either."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from bdam_reid.data.images import NO_PHOTOGRAPH, ImageError, decode_image
from bdam_reid.data.printable import printable
from bdam_reid.data.records import Clothes
from bdam_reid.search.files import ImageFile, Refused
from bdam_reid.search.index.generation import Vectors
from bdam_reid.search.index.pending import Pending
from bdam_reid.search.query import Parts, unit_parts

BATCH = 64
"""Images that are embedded at a time."""
KEPT = 8
"""Batches that are kept at a time: what is lost when an update is killed."""

PASSING = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.ENOMEM, errno.ESTALE)
"""Errors of the system that say nothing of a file's content."""

Decoded: TypeAlias = Sequence["Future[Tensor | ImageError]"]


class Embedder(Protocol):
    """What embeds images, such as a `Retriever`."""

    weights: dict[Clothes, Mapping[str, float]]
    fingerprint: str

    @property
    def parts(self) -> Parts: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    def embed_pixels(self, pixels: Tensor) -> Tensor: ...


def embed_images(folder: Path, images: Sequence[ImageFile], embedder: Embedder, pending: Pending) -> list[Refused]:
    """Embed image files into what is pending. Returns: those that cannot be read."""
    refused: list[Refused] = []
    embedded: list[ImageFile] = []
    vectors: list[Tensor] = []

    def keep() -> None:
        if embedded:
            pending.add(list(embedded), torch.cat(vectors).half().numpy())
            embedded.clear()
            vectors.clear()

    with tqdm(total=len(images), unit="image", disable=None) as bar:
        for some, decoded in _decoded(folder, images, embedder.image_size):
            pixels = []
            for image, result in zip(some, decoded, strict=True):
                if isinstance(result, ImageError):
                    refused.append(_refused(image, result))
                else:
                    pixels.append(result)
                    embedded.append(image)
            if pixels:
                vectors.append(_embedded(pixels, embedder))
            if len(embedded) >= KEPT * BATCH:
                keep()
            bar.update(len(some))
    keep()
    return refused


def embed_by_file(
    files: Sequence[ImageFile],
    pictures: Callable[[str], Iterator[tuple[str, Image.Image]]],
    embedder: Embedder,
    pending: Pending,
) -> list[Refused]:
    """Embed what `pictures` finds in files of several pictures into what is pending: all of a file at once, so that
    what is pending of it is whole. Returns: those that cannot be read to their ends."""
    refused: list[Refused] = []
    for file in tqdm(files, unit="file", disable=None if files else True):
        try:
            pending.add(*_all_of(file, pictures(file.path), embedder))
        except ImageError as error:
            refused.append(_refused(file, error))
    return refused


def _all_of(
    file: ImageFile, pictures: Iterator[tuple[str, Image.Image]], embedder: Embedder
) -> tuple[list[ImageFile], Vectors]:
    """The pictures of a file and their embeddings."""
    images: list[ImageFile] = []
    vectors: list[Tensor] = []
    decoded = ((name, decode_image(picture, embedder.image_size)) for name, picture in pictures)
    while some := list(islice(decoded, BATCH)):
        images += (file._replace(path=name) for name, _ in some)
        vectors.append(_embedded([pixels for _, pixels in some], embedder))
    return images, torch.cat(vectors).half().numpy()


def _embedded(pixels: Sequence[Tensor], embedder: Embedder) -> Tensor:
    """Embeddings (B, E), each part at unit length: those that a model gives in bfloat16 are off by some thousandths."""
    return unit_parts(embedder.embed_pixels(torch.stack(list(pixels))), embedder.parts)


def _decoded(
    folder: Path, images: Sequence[ImageFile], size: tuple[int, int]
) -> Iterator[tuple[Sequence[ImageFile], list[Tensor | ImageError]]]:
    """Batches of images and their pixels (3, H, W) uint8, or why there are none, each decoded while the model is busy
    with the one before."""

    def decode(image: ImageFile) -> Tensor | ImageError:
        try:
            return decode_image(folder / image.path, size)
        except ImageError as error:
            return error

    with ThreadPoolExecutor() as pool:
        waiting: deque[tuple[Sequence[ImageFile], Decoded]] = deque()
        for at in range(0, len(images), BATCH):
            some = images[at : at + BATCH]
            waiting.append((some, [pool.submit(decode, image) for image in some]))
            if len(waiting) == 2:
                first, futures = waiting.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in waiting:
            yield first, [future.result() for future in futures]


def _refused(file: ImageFile, error: ImageError) -> Refused:
    """A file that cannot be read: unless its disk or the memory failed, it is not tried again until it changes."""
    cause = error.__cause__ or error
    # Without the path, which is listed beside it.
    words = getattr(cause, "strerror", None) or str(cause) or repr(cause)
    reason = NO_PHOTOGRAPH if isinstance(cause, UnidentifiedImageError) else printable(words.splitlines()[0])
    passing = isinstance(cause, MemoryError) or getattr(cause, "errno", None) in PASSING
    return Refused(printable(file.path), reason, None if passing else file)
