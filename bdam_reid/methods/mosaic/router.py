"""The oracle router: which experts read an image, by its attribute labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from bdam_reid.data.attributes import NO_YES, Labels, Schema

UNKNOWN = -1
"""State of an attribute that is not labelled."""


class Router(nn.Module):
    """m_e = 1 if the attribute of expert e is switched on and its label is the state of e, else 0. Nothing is learnt.

    An attribute of k named states has k experts; one that a person has or has not has one, for who has it.

    Args:
        schema: the attributes.
    """

    attribute: Tensor
    state: Tensor
    on: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.states = schema.states
        self.names = tuple(self.states)
        experts = [
            (number, state)
            for number, names in enumerate(self.states.values())
            for state in range(len(names))
            if (names, state) != (NO_YES, 0)
        ]
        attribute, state = torch.tensor(experts).T.contiguous()
        # Of each expert; not persistent, as the schema says it all.
        self.register_buffer("attribute", attribute, persistent=False)
        self.register_buffer("state", state, persistent=False)
        self.register_buffer("on", torch.ones(len(self.names), dtype=torch.bool), persistent=False)

    @property
    def experts(self) -> int:
        """E, how many there are."""
        return len(self.attribute)

    def switch(self, on: Collection[str]) -> None:
        """Switch these attributes on, and all others off. Raises: ValueError for one that there is not."""
        if unknown := [name for name in on if name not in self.names]:
            raise ValueError(f"attributes are {', '.join(self.names)}, got {', '.join(unknown)}")
        self.on.copy_(torch.tensor([name in on for name in self.names]))

    def read(self, labels: Sequence[Labels]) -> Tensor:
        """Labels of B images -> states of their attributes (B, A), UNKNOWN where there is no label, or another state
        than the schema has."""
        rows = [[self._state(name, of.get(name)) for name in self.names] for of in labels]
        return torch.tensor(rows).view(len(labels), len(self.names))

    def _state(self, attribute: str, label: str | None) -> int:
        names = self.states[attribute]
        return names.index(label) if label in names else UNKNOWN

    def forward(self, states: Tensor) -> Tensor:
        """States of attributes (B, A) -> which experts read the images, m, (B, E) bool."""
        return (states[:, self.attribute] == self.state) & self.on[self.attribute]


def shares(mask: Tensor, scale: float) -> Tensor:
    """Residual pooling: m (B, E) bool -> weights scale m_e / max(1, sum m), (B, E) float32."""
    return scale * mask.float() / mask.sum(dim=1, keepdim=True).clamp(min=1)
