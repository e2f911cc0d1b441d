"""Export of a trained run: `python -m bdam_reid.export RUN OUT [--onnx | --hub]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bdam_reid.config import ConfigError, Presets
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
    hub: bool = False
    """Write the two encoders of a dual encoder on a CLIP instead, in the form of the Hugging Face hub, which
    --method.image.pretrained OUT and --method.text.pretrained OUT of another run begin with."""


def main(arguments: Sequence[str] | None = None, presets: Presets = PRESETS) -> None:
    """The command line."""
    with handled_by(leave):
        options = tyro.cli(Options, prog="python -m bdam_reid.export", args=arguments)
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors
        from bdam_reid.search.clip_folder import export_clip
        from bdam_reid.search.exporter import export_run

        with user_errors("what other programs take of it"):
            if options.hub and options.onnx:
                raise ConfigError("--hub writes no graphs: give either --hub or --onnx, got both")
            if options.hub:
                print(export_clip(options.run, options.out, presets))
            else:
                print(export_run(options.run, options.out, onnx=options.onnx, presets=presets))


if __name__ == "__main__":
    main()
