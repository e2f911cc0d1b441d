"""What batches of all methods are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch

from bdam_reid.processes import Share

T = TypeVar("T", bound="Tensors")


@dataclass(frozen=True)
class Tensors:
    """A dataclass of tensors that are moved together."""

    def to(self: T, device: torch.device | str) -> T:
        """The same batch on a device."""
        return type(self)(*(getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)))

    def parts(self: T, number: int) -> list[T]:
        """So many equal parts of the batch. Raises: ValueError if it cannot be divided."""
        shares = [Share(part, number) for part in range(number)]
        return [type(self)(*(share.of(getattr(self, entry.name)) for entry in fields(self))) for share in shares]
