"""Export of a trained run: `python -m bdam_reid.export RUN OUT [--onnx]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bdam_reid.config import Presets
from bdam_reid.engine.signals import handled_by, leave
from bdam_reid.methods import PRESETS


@dataclass(frozen=True)
class Options:
    """Write the best checkpoint of a run (the last if it had no validation) into one folder, with all that it needs to
    embed images and sentences: `bdam_reid.load(OUT)` opens it wherever it is copied."""

    run: tyro.conf.Positional[Path]
    """Folder that training wrote."""
    out: tyro.conf.Positional[Path]
    """A new folder."""
    onnx: bool = False
    """Write the encoders as ONNX graphs too, and compare them in onnxruntime with the run's; needs the extra `onnx`."""


def main(arguments: Sequence[str] | None = None, presets: Presets = PRESETS) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Options, prog="python -m bdam_reid.export", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors
        from bdam_reid.search.exporter import export_run

        with user_errors("what other programs take of it"):
            print(export_run(options.run, options.out, onnx=options.onnx, presets=presets))


if __name__ == "__main__":
    main()
