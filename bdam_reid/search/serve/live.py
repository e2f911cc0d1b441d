"""An index that is searched while it is brought up to date."""

from __future__ import annotations

import os
from bisect import bisect_left
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from bdam_reid.config import Presets
from bdam_reid.search.finder import Finder, finder_of
from bdam_reid.search.index.generation import MANIFEST, GalleryError, read_manifest
from bdam_reid.search.index.reader import Index, open_index


class Served:
    """A generation of an index, and what asks it."""

    def __init__(self, index: Index, finder: Finder) -> None:
        self.index, self.finder = index, finder

    def row(self, path: str) -> int | None:
        """The image of a path within the folder; None if it is not in the index."""
        place = bisect_left(self._by_path, path, key=self.index.path)
        found = place < len(self.index) and self.index.path(self._by_path[place]) == path
        return int(self._by_path[place]) if found else None

    @cached_property
    def _by_path(self) -> NDArray[np.int64]:
        """The images in the order of their paths: 8 bytes each, where a dictionary of paths would take 100."""
        return np.array(sorted(range(len(self.index)), key=self.index.path), dtype=np.int64)


class Live:
    """The current generation of an index, opened anew after each update. Threads may share one.

    Args:
        index: its folder.
        presets: where the preset of a run is looked up.
        model: where the model lies now, if not where it was when the index was made.
        device: as torch names it; "auto" is the GPU where there is one.
    Raises: CheckpointError, ConfigError.
    """

    def __init__(self, index: Path, presets: Presets, *, model: str = "", device: str = "auto") -> None:
        self._place, self._lock = index, Lock()
        # Says what to do where there is no index.
        read_manifest(index)
        self._seen = self._written()
        opened = open_index(index)
        self._served = Served(opened, finder_of(opened, presets, model=model, device=device))

    def now(self) -> Served:
        """The generation that the manifest names.

        Raises: GalleryError if the index is gone, or damaged; ConfigError if it is another model's now.
        """
        if self._written() != self._seen:
            with self._lock:
                # Noted before it is opened: an update that comes meanwhile is opened next time.
                written = self._written()
                if written != self._seen:
                    self._served, self._seen = self._opened(), written
        return self._served

    def _opened(self) -> Served:
        index, before = open_index(self._place), self._served.finder
        return Served(index, Finder(index, before.retriever, before.reword))

    def _written(self) -> tuple[int, int]:
        """What tells a manifest from the one before: each is a file of its own, which a rename puts there."""
        try:
            about = os.stat(self._place / MANIFEST)
        except OSError as error:
            raise GalleryError(f"{self._place / MANIFEST} cannot be read: {error.strerror}") from error
        return about.st_ino, about.st_mtime_ns
