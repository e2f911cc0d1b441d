"""Generation as mamba_ssm has it: of any model that takes inference_params."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass
class InferenceParams:
    """States of all layers between calls, and how many tokens they have seen."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[int, Any] = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


class GenerationOutput(NamedTuple):
    sequences: Tensor
    scores: tuple[Tensor, ...] | None = None
    """The logits of each new token, (B, V)."""


@torch.inference_mode()
def decode(
    input_ids: Tensor,
    model: Any,
    max_length: int,
    top_k: int = 1,
    top_p: float = 0.0,
    min_p: float = 0.0,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    eos_token_id: int | None = None,
    teacher_outputs: Tensor | None = None,
    vocab_size: int | None = None,
    cg: bool = False,
    enable_timing: bool = False,
    streamer: Any = None,
) -> GenerationOutput:
    """Continues (B, L) to (B, max_length), or until all rows have just ended, by calls of the model with
    inference_params and num_last_tokens=1, whose logits (B, 1, V) count.

    Args:
        top_k, top_p, min_p, temperature: as in `sample`.
        repetition_penalty: divides the positive logits of tokens that are there already, and multiplies the negative.
        teacher_outputs: (B, T), tokens to take where there are some, in the place of drawn ones.
        vocab_size: how many of the logits are of tokens.
        cg, enable_timing: have no effect.
        streamer: its put gets the prompt and every token, (B, L) and (B, 1); then its end is called.
    """
    params = InferenceParams(max_seqlen=max_length, max_batch_size=len(input_ids))
    sequences, tokens, scores = input_ids, input_ids, []
    if streamer is not None:
        streamer.put(input_ids.cpu())
    while sequences.shape[1] < max_length:
        place = sequences.shape[1]
        positions = None if params.seqlen_offset == 0 else torch.full_like(tokens, params.seqlen_offset)
        logits = model(tokens, position_ids=positions, inference_params=params, num_last_tokens=1).logits[:, -1]
        params.seqlen_offset += tokens.shape[1]
        scores.append(logits[:, :vocab_size])
        if teacher_outputs is not None and place < teacher_outputs.shape[1]:
            tokens = teacher_outputs[:, place : place + 1]
        else:
            penalised = _penalised(scores[-1], sequences, repetition_penalty)
            tokens = sample(penalised, top_k, top_p, min_p, temperature)[:, None]
        sequences = torch.cat([sequences, tokens], 1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        if eos_token_id is not None and (tokens == eos_token_id).all():
            break
    if streamer is not None:
        streamer.end()
    return GenerationOutput(sequences, tuple(scores))


def _penalised(logits: Tensor, sequences: Tensor, penalty: float) -> Tensor:
    if penalty == 1.0:
        return logits
    own = logits.gather(1, sequences)
    return logits.scatter(1, sequences, torch.where(own < 0, own * penalty, own / penalty))


def sample(logits: Tensor, top_k: int = 1, top_p: float = 0.0, min_p: float = 0.0, temperature: float = 1.0) -> Tensor:
    """A token for each row, (B, V) -> (B,).

    Args:
        top_k: draws from the most probable tokens, of which 1 is greedy, and 0 all.
        top_p: of these, from the fewest with so much probability; 0 for all of them.
        min_p: of these, from those at least so probable, compared to the most probable.
    """
    if top_k == 1:
        return logits.argmax(-1)
    count = min(top_k, logits.shape[1]) or logits.shape[1]
    logits, tokens = (logits.float() / temperature).topk(count)
    probabilities = logits.softmax(-1)
    if top_p > 0:
        # Those before which there is less than top_p: one at least.
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    probabilities = probabilities.masked_fill(probabilities < min_p * probabilities[:, :1], 0)
    return tokens.gather(1, torch.multinomial(probabilities, 1)).squeeze(1)


class GenerationMixin:
    """Gives `generate` to a model that `decode` can call."""

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, **options: Any) -> Any:
        raise NotImplementedError

    def generate(
        self,
        input_ids: Tensor,
        max_length: int,
        top_k: int = 1,
        top_p: float = 0.0,
        min_p: float = 0.0,
        temperature: float = 1.0,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        **options: Any,
    ) -> Tensor | GenerationOutput:
        """`decode` with its options: its sequences, or with return_dict_in_generate its output, which has scores if
        output_scores asks for them."""
        output = decode(input_ids, self, max_length, top_k, top_p, min_p, temperature, **options)
        if not return_dict_in_generate:
            return output.sequences
        return output if output_scores else GenerationOutput(output.sequences)
