"""Person re-identification: methods that find a person by a sentence or a picture, one house for all of them.

    import bdam_reid
    retriever = bdam_reid.load("runs/demo")
    gallery = retriever.embed_images(paths)
    retriever.search(gallery, "a tall woman in a red coat", k=5)

Nothing heavy is imported before `load` is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bdam_reid.config import Presets
    from bdam_reid.search.retriever import Retriever

__all__ = ["load"]


def load(run: Path | str, *, device: str = "auto", presets: Presets | None = None) -> Retriever:
    """Open a run folder, or an export, to search with its best checkpoint; needs neither the data set nor a network. Or
    a published CLIP or SigLIP, as it is.

    Args:
        run: folder that training or `python -m bdam_reid.export` wrote; or one in the form of the Hugging Face hub, or
            a name there.
        device: as torch names it; "auto" is the GPU where there is one.
        presets: where the run's preset is looked up; those of this package by default.
    Raises: CheckpointError, ConfigError if the folder is no run, or damaged, or of something that this version does not
        know.
    """
    from bdam_reid.methods import PRESETS
    from bdam_reid.search.opening import open_model

    return open_model(str(run), device, PRESETS if presets is None else presets)
