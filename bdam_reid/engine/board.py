"""The curves that TensorBoard shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from bdam_reid import processes


class Board:
    """Writes scalars of a run; of several processes only the first does.

    Args:
        run: the run folder.
        step: at which it begins; what a killed process wrote of later ones is not shown.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step) if processes.is_main() else None

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def add(self, scalars: Mapping[str, float], step: int, prefix: str = "") -> None:
        """Write the scalars of a step."""
        if self._writer:
            for name, value in scalars.items():
                self._writer.add_scalar(prefix + name, value, step)

    def flush(self) -> None:
        """Have all of it on the disk."""
        if self._writer:
            self._writer.flush()
