"""The Mamba layer with the options that Vision Mamba's copy of mamba_ssm has, and code derived from it passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bdam_kernels import modules
from bdam_kernels.compat.mamba_ssm import mamba_inner_fn_no_out_proj


class Mamba(modules.Mamba):
    """`bdam_kernels.Mamba`, which may read a sequence in both directions between its projections.

    Source: Zhu et al. 2024, "Vision Mamba", Algorithm 1; parameter names as there.

    Args:
        bimamba_type: "v2" for both directions, each with its own convolution, projections, A and D; "none" or None for
            one.
        if_devide_out, if_divide_out: whether the mean of both directions is taken, not their sum.
        init_layer_scale: begin of factors of the output's channels, gamma, that are learnt; None for no factors.
        args, kwargs: of `bdam_kernels.Mamba`.
    Raises: ValueError for another bimamba_type.
    """

    def __init__(
        self,
        *args: Any,
        bimamba_type: str | None = "none",
        if_devide_out: bool = False,
        if_divide_out: bool = False,
        init_layer_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if bimamba_type not in (None, "none", "v2"):
            raise ValueError(f"bimamba_type must be 'none' or 'v2', got {bimamba_type!r}")
        self.bimamba_type, self.if_devide_out = bimamba_type, if_devide_out or if_divide_out
        self.init_layer_scale = init_layer_scale
        weight = self.out_proj.weight
        if init_layer_scale is not None:
            self.gamma = nn.Parameter(torch.full((self.d_model,), init_layer_scale, device=weight.device))
        if bimamba_type == "v2":
            self._add_direction({"device": weight.device, "dtype": weight.dtype})

    def _add_direction(self, factory: dict[str, Any]) -> None:
        self.A_b_log = nn.Parameter(self.A_log.detach().clone())
        self.conv1d_b = nn.Conv1d(
            self.d_inner, self.d_inner, self.d_conv, groups=self.d_inner, padding=self.d_conv - 1,
            bias=self.conv1d.bias is not None, **factory,
        )  # fmt: skip
        self.x_proj_b = nn.Linear(self.d_inner, self.x_proj.out_features, bias=False, **factory)
        self.dt_proj_b = nn.Linear(self.dt_rank, self.d_inner, **factory)
        self.D_b = nn.Parameter(self.D.detach().clone())
        self.A_b_log._no_weight_decay = self.D_b._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, hidden_states: Tensor, inference_params: Any = None, *, seq_idx: Tensor | None = None) -> Tensor:
        """As `bdam_kernels.Mamba`; in both directions without inference_params and seq_idx, which raise ValueError."""
        if self.bimamba_type != "v2":
            out = super().forward(hidden_states, inference_params, seq_idx=seq_idx)
        elif inference_params is not None or seq_idx is not None:
            raise ValueError("a layer of both directions takes neither inference_params nor seq_idx, got one")
        else:
            out = self._both_directions(hidden_states)
        return out if self.init_layer_scale is None else out * self.gamma

    def _both_directions(self, hidden_states: Tensor) -> Tensor:
        xz = self.in_proj(hidden_states).transpose(1, 2)
        forth = self._direction(xz, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        back = self._direction(xz.flip(2), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        both = forth + back.flip(2)
        return self.out_proj((both / 2 if self.if_devide_out else both).transpose(1, 2))

    def _direction(self, xz: Tensor, conv: Any, x_proj: Any, dt_proj: Any, A_log: Tensor, D: Tensor) -> Tensor:
        A = -torch.exp(A_log.float())
        return mamba_inner_fn_no_out_proj(
            xz, conv.weight, conv.bias, x_proj.weight, dt_proj.weight, A, D=D.float(), delta_bias=dt_proj.bias.float()
        )
