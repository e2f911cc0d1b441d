"""Data sets: what is on disk, and how it becomes batches.

The names below are imported when first used, so that drawing the synthetic set does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdam_reid.data.batches import Batch, IdentitySampler, TrainingSet, training_batches
    from bdam_reid.data.evaluation import EvaluationSet
    from bdam_reid.data.images import ImageError, load_image
    from bdam_reid.data.records import (
        ClothingChange,
        Dataset,
        DatasetError,
        Query,
        Record,
        Report,
        load_attributes,
        load_dataset,
    )
    from bdam_reid.data.text import Tokenize, load_tokenizer, train_wordpiece

__all__ = [
    "Batch",
    "ClothingChange",
    "Dataset",
    "DatasetError",
    "EvaluationSet",
    "IdentitySampler",
    "ImageError",
    "Query",
    "Record",
    "Report",
    "Tokenize",
    "TrainingSet",
    "load_attributes",
    "load_dataset",
    "load_image",
    "load_tokenizer",
    "train_wordpiece",
    "training_batches",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("records", "images", "text", "batches", "evaluation"):
            home = import_module(f"{__name__}.{module}")
            if hasattr(home, name):
                return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
