"""The blocks of a model, and what can be done with each: keep less of it, or compile it.

A block is what a model repeats: an entry of a ModuleList, or of a Sequential of several modules of one class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks within a module, without those that normalise batches: what is computed twice would count
    twice in their statistics."""
    for child in module.children():
        entries = list(child.children())
        alike = len({type(entry) for entry in entries}) == 1 < len(entries)
        if isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and alike):
            yield from (entry for entry in entries if not has_batch_norm(entry))
        else:
            yield from blocks(child)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether what a module computes of an image depends on the others of the batch."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def recompute(module: nn.Module) -> None:
    """Let each block keep nothing of a training step but its inputs, and compute the rest again for its gradients."""
    for block in blocks(module):
        _recompute(block)


def _recompute(block: nn.Module) -> None:
    forward = block.forward

    def computed_twice(*inputs: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    block.forward = computed_twice


def compile_each(module: nn.Module) -> None:
    """Compile each block by itself: blocks of one class share what is compiled, and nothing between them breaks it."""
    # Gradients of single losses go through the same graph several times.
    torch._functorch.config.donated_buffer = False
    for block in blocks(module):
        block.compile()
