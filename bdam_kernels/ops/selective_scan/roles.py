"""What a scan takes and gives, by role: how the public function, the GPU's plan and Triton's launches hand it on."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """As `bdam_kernels.selective_scan` names and shapes them; or their gradients, absent where they are."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None

    def with_groups(self) -> Inputs:
        """B and C as a GPU's kernels and the reference take them, (D, N) or (B, G, N, L)."""
        return self._replace(B=with_groups(self.B), C=with_groups(self.C))


class Outputs(NamedTuple):
    """Result of a forward pass."""

    out: Tensor
    """(B, D, L)"""
    last_state: Tensor
    """(B, D, N)"""
    checkpoints: Tensor | None
    """States before the chunks 1, 2, ..., (B, K, D, N), from which a GPU's backward starts; K may be 0. None on the
    CPU."""


class Outer(NamedTuple):
    """What backward is given besides the inputs."""

    checkpoints: Tensor | None
    grad_out: Tensor
    grad_last_state: Tensor | None


class Options(NamedTuple):
    delta_softplus: bool
    reverse: bool


class Packed(NamedTuple):
    """Where sequences that are packed into one row begin, but for each row's first."""

    resets: Tensor | None
    """(B, L), bool, contiguous; None for one sequence a row."""


class Segments(NamedTuple):
    """What a first pass over S segments of time leaves; None without one."""

    ends: Tensor | None
    """States, or on the way back adjoints, at the segments' ends if walked from zero, (B, S, D, N)."""
    step_sums: Tensor | None
    """Sums of step sizes, (B, S, D)."""


class Drive(NamedTuple):
    """The inputs that move states."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    delta_bias: Tensor | None


class AdjointDrive(NamedTuple):
    """What moves adjoints."""

    delta: Tensor
    A: Tensor
    C: Tensor
    z: Tensor | None
    delta_bias: Tensor | None
    grad_out: Tensor


class OwnGradients(NamedTuple):
    """Gradients of which every block writes its own part."""

    u: Tensor
    delta: Tensor
    z: Tensor | None
    initial_state: Tensor | None


class SharedGradients(NamedTuple):
    """Gradients to which several blocks add, or what these blocks leave of each: (B, S, ...) by segment of time, and
    of a B or C that varies over time (B, G * window, N, L)."""

    A: Tensor | None
    B: Tensor | None
    C: Tensor | None
    D: Tensor | None
    delta_bias: Tensor | None


class Window(NamedTuple):
    """What one launch of backward has: blocks of channels from `first_block` on, and so many segments of time."""

    first_block: int
    segments: int


def with_groups(matrix: Tensor) -> Tensor:
    return matrix.unsqueeze(1) if matrix.dim() == 3 else matrix


def varies(matrix: Tensor) -> bool:
    """Whether a B or C of `Inputs.with_groups` varies over time."""
    return matrix.dim() == 4
