"""The language model of mamba_ssm that is made of Mamba-1 layers: its classes, their arguments and parameter names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdam_kernels.compat.generation import GenerationMixin
from bdam_kernels.compat.hub import load_config_hf, load_state_dict_hf
from bdam_kernels.compat.norms import RMSNorm
from bdam_kernels.compat.vision import Mamba

Factory = Callable[..., nn.Module]
"""Makes a module of a width."""


@dataclass
class MambaConfig:
    """A model's config.json; the fields of attention must be empty."""

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


class GatedMLP(nn.Module):
    """fc2(y activation(gate)) with (y, gate) = fc1(x).

    Args:
        in_features: width of x.
        hidden_features: of y and of the gate, 8/3 in_features if None; rounded up to a multiple of multiple_of.
        out_features: width of what comes out, in_features if None.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        multiple_of: int = 128,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        hidden = int(8 * in_features / 3) if hidden_features is None else hidden_features
        hidden = -(-hidden // multiple_of) * multiple_of
        self.activation = activation
        self.fc1 = nn.Linear(in_features, 2 * hidden, bias=bias, **factory)
        self.fc2 = nn.Linear(hidden, in_features if out_features is None else out_features, bias=bias, **factory)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(y * self.activation(gate))


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
    *,
    d_intermediate: int = 0,
    attn_layer_idx: Sequence[int] | None = None,
    attn_cfg: dict[str, Any] | None = None,
) -> Block:
    """A `Block` around a `Mamba`, by mamba_ssm 1's order of arguments; those that mamba_ssm 2 added have names only.

    Args:
        ssm_cfg: further arguments of the layer.
        d_intermediate: width of a `GatedMLP` after the layer, or 0 for none.
        attn_cfg: has no effect without attention.
    Raises: ValueError if ssm_cfg asks for another layer than Mamba1, or attn_layer_idx for attention here; TypeError
        for an ssm_cfg that is no dict, as it is where mamba_ssm 2's order is used.
    """
    if layer_idx in (attn_layer_idx or ()):
        raise ValueError(f"attn_layer_idx must be empty, as attention has no stand-in, got {attn_layer_idx}")
    if not isinstance(ssm_cfg, (dict, type(None))):
        raise TypeError(f"ssm_cfg must be a dict or None; name d_intermediate and what follows it, got {ssm_cfg!r}")
    options = dict(ssm_cfg or {})
    layer = options.pop("layer", "Mamba1")
    if layer != "Mamba1":
        raise ValueError(f"ssm_cfg must ask for layer 'Mamba1', got {layer!r}")
    factory: dict[str, Any] = {"device": device, "dtype": dtype}
    mixer = partial(Mamba, layer_idx=layer_idx, **options, **factory)
    norm: Factory = partial(RMSNorm if rms_norm else nn.LayerNorm, eps=norm_epsilon, **factory)
    norms: dict[str, Any] = {"fused_add_norm": fused_add_norm, "residual_in_fp32": residual_in_fp32}
    if d_intermediate:
        mlp = partial(GatedMLP, hidden_features=d_intermediate, out_features=d_model, **factory)
        block = Block(d_model, mixer, mlp, norm, **norms)
    else:
        block = SimpleBlock(d_model, mixer, norm, **norms)
    block.layer_idx = layer_idx  # type: ignore[assignment]
    return block


def _init_weights(
    module: nn.Module,
    n_layer: int,
    initializer_range: float = 0.02,
    rescale_prenorm_residual: bool = True,
    n_residuals_per_layer: int = 1,
) -> None:
    """GPT-2's initialisation, for `nn.Module.apply`; what is marked `_no_reinit` stays."""
    if isinstance(module, nn.Linear) and module.bias is not None and not getattr(module.bias, "_no_reinit", False):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual:
        for name, parameter in module.named_parameters():
            if name in ("out_proj.weight", "fc2.weight"):
                # Every layer adds to the residual.
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                with torch.no_grad():
                    parameter.div_(math.sqrt(n_residuals_per_layer * n_layer))


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
        *,
        d_intermediate: int = 0,
        attn_layer_idx: Sequence[int] | None = None,
        attn_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        later: dict[str, Any] = {
            "d_intermediate": d_intermediate, "attn_layer_idx": attn_layer_idx, "attn_cfg": attn_cfg
        }  # fmt: skip
        self.embedding = nn.Embedding(vocab_size, d_model, **factory)
        self.layers = nn.ModuleList(
            create_block(
                d_model, ssm_cfg, norm_epsilon, rms_norm, residual_in_fp32, fused_add_norm, i, **factory, **later
            )
            for i in range(n_layer)
        )
        self.norm_f = (RMSNorm if rms_norm else nn.LayerNorm)(d_model, eps=norm_epsilon, **factory)
        residuals = 2 if d_intermediate else 1
        self.apply(
            partial(_init_weights, n_layer=n_layer, **{"n_residuals_per_layer": residuals} | (initializer_cfg or {}))
        )

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


class MambaLMHeadModel(nn.Module, GenerationMixin):
    """mamba_ssm's language model of Mamba-1 layers, with its parameter names.

    Raises: ValueError for a config that asks for attention or another layer than Mamba1.
    """

    def __init__(
        self,
        config: MambaConfig,
        initializer_cfg: dict[str, Any] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        multiple = config.pad_vocab_size_multiple
        vocab_size = -(-config.vocab_size // multiple) * multiple
        self.backbone = MixerModel(
            config.d_model, config.n_layer, vocab_size, config.ssm_cfg, rms_norm=config.rms_norm,
            initializer_cfg=initializer_cfg, fused_add_norm=config.fused_add_norm,
            residual_in_fp32=config.residual_in_fp32, device=device, dtype=dtype, d_intermediate=config.d_intermediate,
            attn_layer_idx=config.attn_layer_idx, attn_cfg=config.attn_cfg,
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> MambaLMHeadModel:
        """From a folder or a name on the Hugging Face hub: config.json and model.safetensors or pytorch_model.bin."""
        config = MambaConfig(**load_config_hf(pretrained_model_name))
        model = cls(config, device=device, dtype=dtype, **options)
        state = load_state_dict_hf(pretrained_model_name, device)
        state.setdefault("lm_head.weight", state["backbone.embedding.weight"])
        model.load_state_dict(state)
        return model

    def save_pretrained(self, save_directory: str | Path) -> None:
        """What `from_pretrained` reads, into a folder: config.json and pytorch_model.bin."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=4))
