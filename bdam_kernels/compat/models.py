"""The language model of mamba_ssm that is made of Mamba-1 layers: its classes, their arguments and parameter names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bdam_kernels.compat.norms import RMSNorm
from bdam_kernels.modules import Mamba

Factory = Callable[..., nn.Module]
"""Makes a module of a width."""


@dataclass
class MambaConfig:
    """A model's config.json; the fields past tie_embeddings are of other layers than Mamba-1's, and must be empty."""

    d_model: int = 2560
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict[str, Any] = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True
    d_intermediate: int = 0
    attn_layer_idx: list[int] = field(default_factory=list)
    attn_cfg: dict[str, Any] = field(default_factory=dict)


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


class Block(nn.Module):
    """Residual layer: adds what came before, normalises, mixes; and the same with an MLP, if there is one.

    Args:
        dim: width.
        mixer_cls, mlp_cls, norm_cls: make a module of that width; nn.Identity as mlp_cls for none.
        fused_add_norm: has no effect; the sum and the norm are two operations.
        residual_in_fp32: whether the residual is kept in float32.
    """

    def __init__(
        self,
        dim: int,
        mixer_cls: Factory,
        mlp_cls: Factory,
        norm_cls: Factory = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ) -> None:
        super().__init__()
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.norm, self.mixer = norm_cls(dim), mixer_cls(dim)
        self.mlp = None if mlp_cls is nn.Identity else mlp_cls(dim)
        if self.mlp is not None:
            self.norm2 = norm_cls(dim)

    def forward(
        self, hidden_states: Tensor, residual: Tensor | None = None, inference_params: Any = None, **mixer_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, L, dim) and the sum of what earlier blocks gave -> what this one gives, and the sum without it."""
        hidden_states, residual = self._add(hidden_states, residual, self.norm)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **mixer_kwargs)
        if self.mlp is not None:
            hidden_states, residual = self._add(hidden_states, residual, self.norm2)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def _add(self, hidden_states: Tensor, residual: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        residual = hidden_states if residual is None else hidden_states + residual
        return norm(residual.to(norm.weight.dtype)), residual.float() if self.residual_in_fp32 else residual

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, **options: Any) -> Any:
        mixer: Any = self.mixer
        return mixer.allocate_inference_cache(batch_size, max_seqlen, **options)


class SimpleBlock(Block):
    """`Block` as mamba_ssm 1 has it, without an MLP."""

    def __init__(self, dim: int, mixer_cls: Factory, norm_cls: Factory = nn.LayerNorm, **options: Any) -> None:
        super().__init__(dim, mixer_cls, nn.Identity, norm_cls, **options)


def create_block(
    d_model: int,
    ssm_cfg: dict[str, Any] | None = None,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = False,
    residual_in_fp32: bool = False,
    fused_add_norm: bool = False,
    layer_idx: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Block:
    """A `Block` around a `Mamba`.

    Args:
        ssm_cfg: further arguments of the layer.
    Raises: ValueError if ssm_cfg asks for another layer than Mamba1.
    """
    options = dict(ssm_cfg or {})
    layer = options.pop("layer", "Mamba1")
    if layer != "Mamba1":
        raise ValueError(f"ssm_cfg must ask for layer 'Mamba1', got {layer!r}")
    factory: dict[str, Any] = {"device": device, "dtype": dtype}
    mixer = partial(Mamba, layer_idx=layer_idx, **options, **factory)
    norm: Factory = partial(RMSNorm if rms_norm else nn.LayerNorm, eps=norm_epsilon, **factory)
    block = SimpleBlock(d_model, mixer, norm_cls=norm, fused_add_norm=fused_add_norm, residual_in_fp32=residual_in_fp32)
    block.layer_idx = layer_idx  # type: ignore[assignment]
    return block


def _init_weights(
    module: nn.Module, n_layer: int, initializer_range: float = 0.02, rescale_prenorm_residual: bool = True
) -> None:
    """GPT-2's initialisation, for `nn.Module.apply`; what is marked `_no_reinit` stays."""
    if isinstance(module, nn.Linear) and module.bias is not None and not getattr(module.bias, "_no_reinit", False):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual and isinstance(module, Mamba):
        # Every layer adds to the residual.
        nn.init.kaiming_uniform_(module.out_proj.weight, a=math.sqrt(5))
        with torch.no_grad():
            module.out_proj.weight /= math.sqrt(n_layer)


class MixerModel(nn.Module):
    """Embedding, blocks and a last norm."""

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        vocab_size: int,
        ssm_cfg: dict[str, Any] | None = None,
        norm_epsilon: float = 1e-5,
        rms_norm: bool = False,
        initializer_cfg: dict[str, Any] | None = None,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(vocab_size, d_model, **factory)
        self.layers = nn.ModuleList(
            create_block(d_model, ssm_cfg, norm_epsilon, rms_norm, residual_in_fp32, fused_add_norm, i, **factory)
            for i in range(n_layer)
        )
        self.norm_f = (RMSNorm if rms_norm else nn.LayerNorm)(d_model, eps=norm_epsilon, **factory)
        self.apply(partial(_init_weights, n_layer=n_layer, **(initializer_cfg or {})))

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, **options: Any) -> dict[int, Any]:
        layers: Any = self.layers
        return {i: layer.allocate_inference_cache(batch_size, max_seqlen, **options) for i, layer in enumerate(layers)}

    def forward(self, input_ids: Tensor, inference_params: Any = None, **mixer_kwargs: Any) -> Tensor:
        """(B, L) -> (B, L, d_model)."""
        hidden_states, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, inference_params, **mixer_kwargs)
        total = hidden_states if residual is None else hidden_states + residual
        return self.norm_f(total.to(self.norm_f.weight.dtype))


class CausalLMOutput(NamedTuple):
    logits: Tensor


class GenerationOutput(NamedTuple):
    sequences: Tensor


class MambaLMHeadModel(nn.Module):
    """mamba_ssm's language model of Mamba-1 layers, with its parameter names.

    Raises: ValueError for a config that asks for attention, MLPs or another layer than Mamba1.
    """

    def __init__(
        self,
        config: MambaConfig,
        initializer_cfg: dict[str, Any] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if config.d_intermediate or config.attn_layer_idx:
            raise ValueError("config must ask for Mamba-1 layers alone, got d_intermediate or attn_layer_idx")
        self.config = config
        multiple = config.pad_vocab_size_multiple
        vocab_size = -(-config.vocab_size // multiple) * multiple
        self.backbone = MixerModel(
            config.d_model, config.n_layer, vocab_size, config.ssm_cfg, rms_norm=config.rms_norm,
            initializer_cfg=initializer_cfg, fused_add_norm=config.fused_add_norm,
            residual_in_fp32=config.residual_in_fp32, device=device, dtype=dtype,
        )  # fmt: skip
        self.lm_head = nn.Linear(config.d_model, vocab_size, bias=False, device=device, dtype=dtype)
        self.tie_weights()

    def tie_weights(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, **options: Any) -> dict[int, Any]:
        return self.backbone.allocate_inference_cache(batch_size, max_seqlen, **options)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        inference_params: Any = None,
        num_last_tokens: int = 0,
        **mixer_kwargs: Any,
    ) -> CausalLMOutput:
        """(B, L) -> logits (B, L, V), or of the last tokens alone. position_ids do not matter."""
        hidden_states = self.backbone(input_ids, inference_params, **mixer_kwargs)
        return CausalLMOutput(self.lm_head(hidden_states[:, -num_last_tokens:]))

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        max_length: int,
        top_k: int = 1,
        top_p: float = 0.0,
        temperature: float = 1.0,
        eos_token_id: int | None = None,
        return_dict_in_generate: bool = False,
        cg: bool = False,
    ) -> Tensor | GenerationOutput:
        """Continues (B, L) to (B, max_length), or until all rows have just ended.

        Args:
            top_k: draws from the most probable tokens, of which 1 is greedy, and 0 all.
            top_p: of these, from the fewest with so much probability; 0 for all of them.
            cg: has no effect.
        """
        params = InferenceParams(max_seqlen=max_length, max_batch_size=len(input_ids))
        sequences, tokens = input_ids, input_ids
        while sequences.shape[1] < max_length:
            logits = self(tokens, inference_params=params, num_last_tokens=1).logits[:, -1]
            params.seqlen_offset += tokens.shape[1]
            tokens = _draw(logits, top_k, top_p, temperature)
            sequences = torch.cat([sequences, tokens], 1)
            if eos_token_id is not None and (tokens == eos_token_id).all():
                break
        return GenerationOutput(sequences) if return_dict_in_generate else sequences

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> MambaLMHeadModel:
        """From a folder or a name on the Hugging Face hub: config.json and model.safetensors or pytorch_model.bin."""
        from safetensors.torch import load_file
        from transformers.utils import cached_file

        found: Any = partial(cached_file, pretrained_model_name)
        config = MambaConfig(**json.loads(Path(found("config.json")).read_text()))
        weights = found("model.safetensors", _raise_exceptions_for_missing_entries=False)
        if weights is None:
            state = torch.load(found("pytorch_model.bin"), map_location=device, weights_only=True)
        else:
            state = load_file(weights)
        model = cls(config, device=device, dtype=dtype)
        state.setdefault("lm_head.weight", state["backbone.embedding.weight"])
        model.load_state_dict(state)
        return model


def _draw(logits: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
    """A token for each row, (B, V) -> (B, 1)."""
    if top_k == 1:
        return logits.argmax(-1, keepdim=True)
    count = min(top_k, logits.shape[1]) or logits.shape[1]
    logits, tokens = (logits.float() / temperature).topk(count)
    probabilities = logits.softmax(-1)
    if top_p > 0:
        # Those before which there is less than top_p: one at least.
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    return tokens.gather(1, torch.multinomial(probabilities, 1))
