"""What writing texts will cost, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from bdam_reid.captions.prompts import LONGEST_SIDE, messages

if TYPE_CHECKING:
    from bdam_reid.captions.writing import Job

LOOKED_AT = 200
"""Images whose size is looked at, evenly taken out of all."""
ANSWER = 80
"""Tokens of an answer of 50 words in JSON."""
_LETTERS = 4
"""Of a token, about."""


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens, as the endpoint's price list has them."""

    input: float = 0.0
    output: float = 0.0

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass(frozen=True)
class Estimate:
    """Calls if every answer is good, most calls if none is, the images that they are about, and the tokens of the
    former."""

    calls: int
    most_calls: int
    images: int
    input_tokens: int
    output_tokens: int

    def text(self, prices: Prices | None) -> str:
        """In one line; in dollars where there are prices, in images if nothing is paid."""
        tokens = f"about {self.input_tokens:,} tokens in and {self.output_tokens:,} out"
        calls = f"{self.calls:,} calls, at most {self.most_calls:,} with all attempts"
        if prices is None:
            return f"{calls}, of {self.images:,} images: {tokens}, if an image takes as many as for GPT-4o"
        dollars = prices.of(self.input_tokens, self.output_tokens)
        most = dollars * self.most_calls / max(self.calls, 1)
        cost = f", ${dollars:,.2f}; about ${most:,.2f} with all attempts" if dollars else "; give --prices for dollars"
        return f"{calls}: {tokens}{cost}"


def estimate(jobs: Sequence[Job], attempts: int) -> Estimate:
    """The estimate of jobs, of which each may take so many attempts, those that were made before among them."""
    if not jobs:
        return Estimate(0, 0, 0, 0, 0)
    some = jobs[:: ceil(len(jobs) / LOOKED_AT)]
    tokens = sum(_tokens(job) for job in some) / len(some)
    most = sum(attempts - job.made for job in jobs)
    images = len({job.record.key for job in jobs})
    return Estimate(len(jobs), most, images, round(tokens * len(jobs)), ANSWER * len(jobs))


def _tokens(job: Job) -> int:
    said = messages(job.part, job.style, "", None)
    return len(str(said)) // _LETTERS + image_tokens(*_size(job))


def _size(job: Job) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(job.record.path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return LONGEST_SIDE, LONGEST_SIDE


def image_tokens(width: int, height: int) -> int:
    """Tokens of an image as GPT-4o counts them: 85, and 170 for each tile of 512 pixels after the shorter side was
    brought to 768 at most. Other models count in other ways, most of them fewer."""
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    scale = min(scale, 768 / min(width, height))
    return 85 + 170 * ceil(width * scale / 512) * ceil(height * scale / 512)
