"""What pictures of a gallery are called: a photograph by its path; a frame of a video as clip.mp4#12.0, by its time; a
person who was found in either as street.jpg#40,10,104,138, by a box."""

from __future__ import annotations

import re
from typing import NamedTuple

from bdam_reid.search.videos import VIDEOS

_FRAME = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEOS))}))#(\d+\.\d+)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"(.+)#(\d+),(\d+),(\d+),(\d+)", re.DOTALL)


class Box(NamedTuple):
    """A part of a picture, in pixels of the picture when it is upright."""

    left: int
    top: int
    right: int
    """The first column behind it."""
    bottom: int


class Name(NamedTuple):
    """What the name of a picture says."""

    file: str
    """Within the gallery's folder."""
    seconds: float | None
    """Of a frame; None of a photograph."""
    box: Box | None
    """Of a person; None of a whole picture."""


def frame_name(video: str, seconds: float) -> str:
    """The name of a frame."""
    return f"{video}#{seconds}"


def box_name(picture: str, box: Box) -> str:
    """The name of a part of a photograph or frame."""
    return f"{picture}#{','.join(map(str, box))}"


def parse_name(name: str) -> Name:
    """The file that a picture is of, its time if it is a frame, and its box if it is a part."""
    if "#" not in name:
        return Name(name, None, None)
    part = _BOX.fullmatch(name)
    whole = part[1] if part else name
    box = Box(*map(int, part.groups()[1:])) if part else None
    frame = _FRAME.fullmatch(whole)
    return Name(frame[1], float(frame[2]), box) if frame else Name(whole, None, box)


def whole_of(name: str) -> str:
    """The name of the photograph or frame that a picture is, or is a part of."""
    part = _BOX.fullmatch(name)
    return part[1] if part else name
