"""Videos as sources of frames, which PyAV decodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from bdam_reid.data.images import ImageError

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Names of video files, in lower case, end with one of these."""
# And no playlists, which name other files.
_OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi", "protocol_whitelist": "file"}
_ROUNDED = 0.001
"""Seconds to which some containers round the times of frames, and names do."""
_PIXELS = 178_956_970
"""Of a frame at most, as of an image."""


class Frame(NamedTuple):
    """A frame of a video."""

    seconds: float
    """From the video's beginning, to the millisecond."""
    image: Image.Image
    """RGB, upright."""


def reads_videos() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def is_video(name: str) -> bool:
    """Whether a file has the name of a video."""
    return name.lower().endswith(VIDEOS)


def frames(video: Path, per_second: float) -> Iterator[Frame]:
    """The first frame of each 1 / per_second seconds of a video; of those in which none begins there is none.

    Raises: ImageError, before or between frames, if it is damaged, has no frames, or they have no times.
    """
    last = -1
    with _opened(video) as stream:
        for seconds, frame in _timed(stream):
            slot = int((seconds + _ROUNDED) * per_second)
            if slot > last:
                last = slot
                yield Frame(round(seconds, 3), _upright(frame))
        if last < 0:
            raise ImageError("it has no frames")


def frame_at(video: Path, seconds: float) -> Image.Image:
    """The frame of a time that `frames` gave. Raises: ImageError if there is none, or the video is damaged."""
    with _opened(video) as stream:
        stream.container.seek(int(seconds / stream.time_base) + (stream.start_time or 0), stream=stream)
        for at, frame in _timed(stream):
            if round(at, 3) >= seconds:
                return _upright(frame)
        raise ImageError(f"it has no frame at {seconds} s")


@contextmanager
def _opened(video: Path) -> Iterator[Any]:
    """The first video stream of a file."""
    try:
        import av

        with av.open(str(video), options=_OPTIONS) as container:
            if not container.streams.video:
                raise ImageError("it has no frames")
            stream: Any = container.streams.video[0]
            if stream.width * stream.height > _PIXELS:
                raise ImageError(f"frames must be of {_PIXELS:,} pixels at most, got {stream.width} x {stream.height}")
            stream.thread_type = "AUTO"
            yield stream
    except Exception as error:
        # As of images, damage makes decoders raise anything.
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise ImageError(f"cannot read the video {video}: {reason}") from error


def _timed(stream: Any) -> Iterator[tuple[float, Any]]:
    """Seconds from the stream's beginning, and the frame."""
    for frame in stream.container.decode(stream):
        if frame.pts is None:
            raise ImageError("its frames have no times")
        yield float((frame.pts - (stream.start_time or 0)) * stream.time_base), frame


def _upright(frame: Any) -> Image.Image:
    """As a telephone that was turned says."""
    return frame.to_image().rotate(frame.rotation, expand=True)
