"""The image and video files of a folder, and which of its files are refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bdam_reid.config import ConfigError
from bdam_reid.data.images import HEIC, reads_heic
from bdam_reid.data.printable import printable
from bdam_reid.search.videos import is_video, reads_videos

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", *HEIC))
"""Of image files, in lower case."""


class ImageFile(NamedTuple):
    """An image or video file as it is told from others, and from itself before it was changed: its content is not read.
    In an index also a frame of a video, or a person found in either, with the size and change of
    that."""

    path: str
    """Within the folder, its parts divided by "/"; of a frame, its name."""
    size: int
    """In bytes."""
    changed: int
    """When its content was last changed, in nanoseconds since 1970."""


class Refused(NamedTuple):
    """A file or folder that is not searched."""

    path: str
    """Within the folder, as it may be printed."""
    reason: str
    file: ImageFile | None = None
    """What could not be read, whatever is tried, until its size or time changes; None of what may be read next time."""


@dataclass(frozen=True)
class Listing:
    """What is in a folder."""

    images: list[ImageFile] = field(default_factory=list)
    """In the order of their paths, as all of these."""
    videos: list[ImageFile] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    others: int = 0
    """Files that have no name of an image or a video."""


def list_images(folder: Path) -> Listing:
    """The image and video files in a folder and all folders in it. Symbolic links are refused: what they lead to is
    either in the folder already, or not in it.

    Raises: ConfigError if it is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a folder of images, got {folder}, which is none")
    root, found, others = folder.resolve(), Listing(), 0
    for entry in _entries(root, found.refused):
        path = Path(entry.path).relative_to(root).as_posix()
        if entry.is_symlink():
            if _leads_to_a_folder(entry) or _is_image(entry.name) or is_video(entry.name):
                found.refused.append(Refused(printable(path), _where_it_leads(Path(entry.path), root)))
            else:
                others += 1
        elif not (_is_image(entry.name) or is_video(entry.name)):
            others += 1
        elif problem := _problem(entry):
            found.refused.append(Refused(printable(path), problem))
        else:
            about = entry.stat(follow_symlinks=False)
            files = found.videos if is_video(entry.name) else found.images
            files.append(ImageFile(path, about.st_size, about.st_mtime_ns))
    return Listing(sorted(found.images), sorted(found.videos), sorted(found.refused), others)


def _entries(root: Path, refused: list[Refused]) -> Iterator[os.DirEntry[str]]:
    """All that is in a folder but folders; those that cannot be read are refused."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        yield entry
        except OSError as error:
            if folder == str(root):
                raise ConfigError(f"cannot read the folder {root}: {error.strerror}") from error
            refused.append(Refused(printable(Path(folder).relative_to(root).as_posix()), f"{error.strerror}"))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _problem(entry: os.DirEntry[str]) -> str:
    """Why a file with the name of an image or a video is not even opened; empty if it may be."""
    try:
        entry.path.encode("utf-8")
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            return "no regular file"
        if not os.access(entry.path, os.R_OK):
            return "Permission denied"
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return f"{error.strerror}"
    if entry.name.lower().endswith(HEIC) and not reads_heic():
        return "HEIC needs pillow-heif: pip install -e '.[search]'"
    if is_video(entry.name) and not reads_videos():
        return "a video needs PyAV: pip install -e '.[video]'"
    return ""


def _leads_to_a_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A loop of links.
        return True


def _where_it_leads(link: Path, root: Path) -> str:
    try:
        target = link.resolve(strict=True)
    except FileNotFoundError:
        return "a symbolic link to nothing"
    except (OSError, RuntimeError):
        return "a symbolic link that leads to itself"
    if not target.is_relative_to(root):
        return "a symbolic link out of the folder"
    if link.is_relative_to(target):
        return "a symbolic link to a folder that it is in"
    return "a symbolic link to what is in the folder already"
