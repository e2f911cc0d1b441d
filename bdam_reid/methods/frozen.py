"""What of a model a stage trains, and what stays as it is, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from torch import nn


def frozen_report(module: nn.Module) -> str:
    """Which parameters of a module have gradients and which have none, by the largest parts that are one or the other,
    and how many there are: "trains 1,234 parameters: tower.adapter; frozen 5,678: text_encoder, ..."."""
    halves = []
    for trained, words in ((True, "trains"), (False, "frozen")):
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad is trained)
        parts = ", ".join(_joined(name for name, is_trained in _parts(module) if is_trained is trained))
        halves.append(f"{words} {parameters:,} parameters" + (f": {parts}" if parts else ""))
    return "; ".join(halves)


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The largest parts all of whose parameters are trained, or none, by name."""
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter.requires_grad
    for name, child in module.named_children():
        states = {parameter.requires_grad for parameter in child.parameters()}
        if len(states) == 1:
            yield prefix + name, states.pop()
        else:
            yield from _parts(child, f"{prefix}{name}.")


def _joined(names: Iterable[str]) -> Iterator[str]:
    """Names, those of entries of one list that follow each other as one: layers.0-9."""
    split = [(*name.rpartition(".")[::2], name) for name in names]
    for (parent, numbered), entries in groupby(split, key=lambda entry: (entry[0], entry[1].isdecimal())):
        found = list(entries)
        if numbered and len(found) > 1:
            yield f"{parent}.{found[0][1]}-{found[-1][1]}"
        else:
            yield from (name for _, _, name in found)
