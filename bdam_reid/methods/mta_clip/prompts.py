"""Hierarchical context prompts (HCP): sentences of which some words are learnt, and what CLIP's text tower reads in
them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

BEFORE, AFTER = "A photo of a", "person."
"""Around the learnt words, as in CLIP-ReID."""
STD = 0.02
"""Of the tokens that training begins with, as in CLIP-ReID."""


class Prompts(nn.Module):
    """[start] A photo of a, P_S, P_D, X, person . [end]: shared words, those of the domain, those of the person.

    Unlike in the description of MTA-CLIP they are not padded to the tower's full length: it reads from left to right,
    and no token depends on those after it.
    Source: the description of MTA-CLIP; the words around are those of CLIP-ReID (Li, Sun and Li, AAAI 2023).

    Args:
        before: embeddings of the word pieces before the learnt ones, that which starts a text included, (A, W).
        after: of those behind them, that which ends a text included, (Z, W).
        domains: the domain of each of N persons.
        shared, of_domain, of_person: how many learnt words there are of each kind.
    """

    before: Tensor
    after: Tensor
    domain_of: Tensor

    def __init__(
        self,
        before: Tensor,
        after: Tensor,
        domains: Sequence[int],
        shared: int,
        of_domain: int,
        of_person: int,
    ) -> None:
        super().__init__()
        width = before.shape[1]
        # Persistent, so that the words of a run are those it began with.
        self.register_buffer("before", before.detach().clone())
        self.register_buffer("after", after.detach().clone())
        self.register_buffer("domain_of", torch.tensor(domains), persistent=False)
        self.shared = nn.Parameter(STD * torch.randn(shared, width))
        self.domain = nn.Parameter(STD * torch.randn(max(domains) + 1, of_domain, width))
        self.person = nn.Parameter(STD * torch.randn(len(domains), of_person, width))

    def __len__(self) -> int:
        """Tokens of a prompt."""
        return sum(len(part) for part in (self.before, self.shared, self.domain[0], self.person[0], self.after))

    def forward(self, persons: Tensor) -> Tensor:
        """Class indices (B,) -> embeddings of the tokens of their prompts, (B, L, W)."""
        before, shared, after = (x.expand(len(persons), -1, -1) for x in (self.before, self.shared, self.after))
        return torch.cat((before, shared, self.domain[self.domain_of[persons]], self.person[persons], after), dim=1)

    def overlap(self, domain: int | Tensor) -> Tensor:
        """|P_S P_D^T|^2 of a domain, the sum of the squares of all inner products: 0 where its words and the shared
        ones have no direction in common."""
        return (self.shared @ self.domain[domain].T).square().sum()


def read_embeddings(tower: CLIPTextModelWithProjection, embeddings: Tensor) -> Tensor:
    """What CLIP's text tower reads in texts that are given by the embeddings of their tokens.

    Args:
        tower: with scaled dot product attention.
        embeddings: of the tokens, without positions, (B, L, W); the last one ends the text.
    Returns: (B, E), in the space of images.
    """
    model, length = tower.text_model, embeddings.shape[1]
    # True where a token is read by another: by itself and those after it.
    mask = torch.ones(length, length, dtype=torch.bool, device=embeddings.device).tril()
    hidden = model.encoder(
        inputs_embeds=model.embeddings(inputs_embeds=embeddings), attention_mask=mask[None, None]
    ).last_hidden_state
    return tower.text_projection(model.final_layer_norm(hidden[:, -1]))
