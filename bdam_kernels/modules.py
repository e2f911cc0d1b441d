"""Layers around the operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdam_kernels.ops.causal_conv1d.op import causal_conv1d
from bdam_kernels.ops.cross_attention.op import bidirectional_cross_attention
from bdam_kernels.ops.cross_attention.pooled import pooled_bidirectional_cross_attention
from bdam_kernels.ops.hsic.op import hsic
from bdam_kernels.ops.selective_scan.op import selective_scan
from bdam_kernels.ops.steps.op import causal_conv1d_update, selective_state_update


class HSICLoss(nn.Module):
    """`bdam_kernels.hsic` with fixed options; forward(x (N, Dx), y (N, Dy)) -> scalar."""

    def __init__(
        self,
        kernel: Literal["linear", "rbf"] = "linear",
        sigma: float | tuple[float, float] | None = None,
        estimator: Literal["biased", "unbiased"] = "biased",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "kernel": kernel, "sigma": sigma, "estimator": estimator, "normalize": normalize
        }  # fmt: skip

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return hsic(x, y, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class BidirectionalCrossAttention(nn.Module):
    """Multi-head cross-attention of two streams, each attending to the other's tokens.

    Every stream has one packed projection to its queries, keys and values, and one output projection.

    Args:
        dim: width of both streams, a multiple of num_heads.
        dropout: probability of dropping an attention weight in training.
    Raises: ValueError if num_heads does not divide dim.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads = {num_heads}, got {dim}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv_a = nn.Linear(dim, 3 * dim, bias=bias)
        self.qkv_b = nn.Linear(dim, 3 * dim, bias=bias)
        self.out_a = nn.Linear(dim, dim, bias=bias)
        self.out_b = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        key_padding_mask_a: Tensor | None = None,
        key_padding_mask_b: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, La, dim), (B, Lb, dim), bool masks (B, La), (B, Lb) with True for padding -> the same shapes as a, b."""
        out_a, out_b = self._attend(bidirectional_cross_attention, a, b, key_padding_mask_a, key_padding_mask_b)
        return self.out_a(out_a.transpose(1, 2).flatten(2)), self.out_b(out_b.transpose(1, 2).flatten(2))

    def pooled(
        self,
        a: Tensor,
        b: Tensor,
        key_padding_mask_a: Tensor | None = None,
        key_padding_mask_b: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The means of forward's outputs over all tokens, padding too, for less: -> two (B, dim)."""
        out_a, out_b = self._attend(pooled_bidirectional_cross_attention, a, b, key_padding_mask_a, key_padding_mask_b)
        return self.out_a(out_a.flatten(1)), self.out_b(out_b.flatten(1))

    def _attend(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        a: Tensor,
        b: Tensor,
        key_padding_mask_a: Tensor | None,
        key_padding_mask_b: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        return function(
            *self._heads(self.qkv_a(a)),
            *self._heads(self.qkv_b(b)),
            key_padding_mask_a=key_padding_mask_a,
            key_padding_mask_b=key_padding_mask_b,
            dropout_p=self.dropout if self.training else 0.0,
        )

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(B, L, 3 dim) -> three views (B, H, L, d)."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class Mamba(nn.Module):
    """Selective state-space layer with mamba_ssm.Mamba's arguments, attributes, parameter names and initialisation.

    A state_dict of mamba_ssm.Mamba loads as it is. Its marks for optimisers and initialisers are there: A_log and D
    have `_no_weight_decay`, the step size's bias has `_no_reinit`.  Source: Gu and Dao 2023, "Mamba", section 3.4.

    Args:
        d_model: input and output width.
        d_state: states per channel, N.
        d_conv: taps of the causal convolution, W.
        expand: channels per input width; D = expand * d_model.
        dt_rank: rank of the step size's projection; "auto" is ceil(d_model / 16).
        dt_min, dt_max, dt_init_floor: range of the initial step sizes, drawn log-uniformly, and their lower bound.
        dt_init: "random" or "constant" initialisation of dt_proj, scaled by dt_scale / sqrt(dt_rank).
        use_fast_path: has no effect; there is one path.
        layer_idx: where `forward` finds this layer's states in inference_params.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: Literal["random", "constant"] = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        self.activation, self.act = "silu", nn.SiLU()
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias, **factory
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, bias=True, **factory)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)
        states = torch.arange(1, d_state + 1, dtype=torch.float32, device=device)
        self.A_log = nn.Parameter(torch.log(states).repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner, device=device))
        self.A_log._no_weight_decay = self.D._no_weight_decay = True  # type: ignore[attr-defined]
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]
        self._init_dt(dt_min, dt_max, dt_init, dt_scale, dt_init_floor)

    def _init_dt(self, dt_min: float, dt_max: float, dt_init: str, dt_scale: float, floor: float) -> None:
        bound = dt_scale / math.sqrt(self.dt_rank)
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        elif dt_init == "random":
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        else:
            raise ValueError(f"dt_init must be 'random' or 'constant', got {dt_init!r}")
        uniform = torch.rand(self.d_inner, device=self.D.device)
        dt = torch.exp(uniform * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)).clamp(min=floor)
        with torch.no_grad():
            # softplus(bias) is the step size at the start of training.
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, hidden_states: Tensor, inference_params: Any = None, *, seq_idx: Tensor | None = None) -> Tensor:
        """(B, L, d_model) -> (B, L, d_model).

        Args:
            inference_params: as mamba_ssm's: with seqlen_offset, and key_value_memory_dict where the states of layer
                layer_idx are kept. At offset 0 they are left as after the last step, later `step` takes one token.
            seq_idx: of packed sequences the one that each step belongs to, (B, L), as in `selective_scan`.
        Raises: ValueError for more than one token at an offset, or for inference_params without layer_idx, of another
            batch or with seq_idx.
        """
        states = None
        if inference_params is not None:
            if seq_idx is not None:
                raise ValueError("inference_params keep one sequence a row: leave seq_idx out")
            states = self._states_in(inference_params, len(hidden_states))
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, *states)[0]
        # Everything between the projections is (channels, B * L) in memory, so that each projection is one matrix
        # product and time has unit stride for the convolution and the scan.
        xz = self.in_proj.weight @ hidden_states.flatten(0, 1).T
        if self.in_proj.bias is not None:
            xz = xz + self.in_proj.bias[:, None]
        y = mamba_inner(
            xz.unflatten(1, hidden_states.shape[:2]).transpose(0, 1),
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            -torch.exp(self.A_log.float()),
            D=self.D.float(),
            dt_bias=self.dt_proj.bias.float(),
            seq_idx=seq_idx,
            states=states,
        )
        return self.out_proj(y)

    def _states_in(self, inference_params: Any, batch: int) -> tuple[Tensor, Tensor]:
        if self.layer_idx is None:
            raise ValueError("inference_params need a layer_idx, with which the layer was not made")
        kept = inference_params.key_value_memory_dict
        if self.layer_idx not in kept:
            kept[self.layer_idx] = self.allocate_inference_cache(batch)
        if len(kept[self.layer_idx][0]) != batch:
            raise ValueError(
                f"inference_params must be of a batch of {batch}, got states of {len(kept[self.layer_idx][0])}"
            )
        return kept[self.layer_idx]

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int = 0, dtype: torch.dtype | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Zero states for `step`: conv_state (B, D, W) and ssm_state (B, D, N). Nothing else matters."""
        weight = self.conv1d.weight
        conv_state = weight.new_zeros(batch_size, self.d_inner, self.d_conv, dtype=dtype)
        ssm_state = weight.new_zeros(batch_size, self.d_inner, self.d_state, dtype=dtype)
        return conv_state, ssm_state

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One time step: (B, 1, d_model) -> (B, 1, d_model); both states are updated in place and returned.

        Raises: ValueError for more than one token.
        """
        if hidden_states.shape[1] != 1:
            raise ValueError(f"step takes one token at a time, (B, 1, d_model), got {tuple(hidden_states.shape)}")
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=1)
        dt = F.linear(dt, self.dt_proj.weight)
        y = selective_state_update(
            ssm_state, x, dt, self.A_log, B, C, self.D, z, self.dt_proj.bias, dt_softplus=True, log_A=True
        )
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state


Normalise = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def mamba_inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    delta_softplus: bool = True,
    *,
    normalise: Normalise | None = None,
    seq_idx: Tensor | None = None,
    states: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """A Mamba layer between its input and its output projection.

    Args:
        xz: the scan's input and gate, (B, 2D, L); fastest where it is a view of (2D, B, L).
        conv_weight, conv_bias: (D, W), (D,).
        x_proj_weight: (R + 2N, D), to the step size's rank R, B and C; (R + 4N, D) for complex A, real and imaginary
            parts interleaved; with rows for those of B and C alone that are not given.
        dt_proj_weight, dt_bias: (D, R), (D,).
        A, D: (D, N), (D,).
        B, C: (D, N) for all times; None where they depend on the input.
        normalise: of the step sizes before their projection, B and C, (R, B L), (N, B L) and (N, B L).
        seq_idx: (B, L), as in `selective_scan`.
        states: filled with the convolution's last inputs, (B, D, W), and the scan's last state, (B, D, N).
    Returns: (B, L, D).
    """
    batch, _, length = xz.shape
    x, z = xz.chunk(2, dim=1)
    if states is not None:
        states[0].copy_(F.pad(x.detach(), (states[0].shape[2] - length, 0)))
    x = causal_conv1d(x, conv_weight, conv_bias, "silu", seq_idx=seq_idx)
    projected = x_proj_weight @ x.transpose(0, 1).flatten(1)
    rank, width = dt_proj_weight.shape[1], A.shape[1] * (2 if A.is_complex() else 1)
    dt, B_t, C_t = projected[:rank], projected[rank : rank + width], projected[-width:]
    if normalise is not None:
        dt, B_t, C_t = normalise(dt, B_t, C_t)

    def as_scan(matrix: Tensor) -> Tensor:
        return matrix.unflatten(1, (batch, length)).transpose(0, 1)

    def coefficients(matrix: Tensor) -> Tensor:
        if not A.is_complex():
            return as_scan(matrix)
        pairs = matrix.to(A.real.dtype).unflatten(0, (-1, 2)).transpose(1, 2)
        return as_scan(torch.view_as_complex(pairs.contiguous()))

    y, last_state = selective_scan(
        x, as_scan(dt_proj_weight @ dt), A, coefficients(B_t) if B is None else B,
        coefficients(C_t) if C is None else C, D, z, dt_bias, delta_softplus, return_last_state=True, seq_idx=seq_idx,
    )  # fmt: skip
    if states is not None:
        states[1].copy_(last_state.detach())
    return y.transpose(0, 1).flatten(1).T.unflatten(0, (batch, length))
