"""Stand-ins for the functions of causal_conv1d."""

from __future__ import annotations

import torch
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.compat.rows import of_rows
from bdam_kernels.ops.arguments import check_shapes
from bdam_kernels.ops.causal_conv1d.op import causal_conv1d
from bdam_kernels.ops.steps import op as steps


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`bdam_kernels.causal_conv1d` with causal_conv1d's arguments.

    Args:
        seq_idx: of packed sequences the one that each step belongs to, (B, L). Where it is negative, out is zero.
    """
    out, final_state = causal_conv1d(
        x, weight, bias, activation, initial_state=initial_states, return_final_state=True, seq_idx=seq_idx
    )
    if seq_idx is not None:
        out = out.masked_fill((seq_idx < 0)[:, None], 0)
    if not return_final_states:
        return out
    return out, final_state if final_states_out is None else final_states_out.copy_(final_state)


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same on the reference backend, without packed sequences."""
    with dispatch.use_backend("reference"):
        return causal_conv1d_fn(
            x, weight, bias, None, initial_states, return_final_states, final_states_out, activation
        )


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Steps of the convolution, as in causal_conv1d.

    Args:
        x: (B, D), or (B, D, L) for L steps.
        conv_state: the inputs before, (S, D, K) with K >= W - 1, updated in place.
        weight, bias, activation: as in `bdam_kernels.causal_conv1d`.
        cache_seqlens: the steps before, (B,), for a conv_state that is a ring: step t is kept at t modulo K. None for
            the last inputs in order.
        conv_state_indices: the rows of conv_state that belong to the batch, (B,), each once, or -1 for an element of
            the batch that is padding, of which out is zero; None for S = B, all of them.
    Returns: the shape and dtype of x.
    Raises: ValueError for shapes that do not fit.
    """
    check_shapes({
        "cache_seqlens": (cache_seqlens, (len(x),)), "conv_state_indices": (conv_state_indices, (len(x),)),
    })  # fmt: skip
    rows, before = len(x) if conv_state_indices is None else len(conv_state), weight.shape[1] - 1
    if conv_state.dim() != 3 or conv_state.shape[:2] != (rows, x.shape[1]) or conv_state.shape[2] < before:
        raise ValueError(
            f"conv_state must be ({rows}, {x.shape[1]}, K) with K >= {before}, got {tuple(conv_state.shape)}"
        )
    if conv_state_indices is not None:
        return of_rows(
            lambda state, x, lengths: causal_conv1d_update(x, state, weight, bias, activation, lengths),
            conv_state, conv_state_indices, x, cache_seqlens,
        )  # fmt: skip
    if x.dim() == 2:
        if cache_seqlens is None:
            return steps.causal_conv1d_update(x, conv_state, weight, bias, activation)
        return _update(x.unsqueeze(2), conv_state, weight, bias, activation, cache_seqlens).squeeze(2)
    if x.shape[2] == 1 and cache_seqlens is None:
        return steps.causal_conv1d_update(x.squeeze(2), conv_state, weight, bias, activation).unsqueeze(2)
    return _update(x, conv_state, weight, bias, activation, cache_seqlens)


def _update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    cache_seqlens: Tensor | None,
) -> Tensor:
    """Any number of steps, into a ring too."""
    kept, before = conv_state.shape[2], weight.shape[1] - 1
    if cache_seqlens is None:
        state = conv_state[..., kept - before :].clone()
    else:
        state = conv_state.gather(2, _in_ring(cache_seqlens, -before, 0, conv_state))
    out = causal_conv1d(x, weight, bias, activation, initial_state=state)
    if cache_seqlens is None:
        conv_state.copy_(torch.cat([conv_state, x.to(conv_state.dtype)], -1)[..., x.shape[2] :])
    else:
        # Of more steps than the ring holds the last remain; no place is written twice.
        first = max(0, x.shape[2] - kept)
        places = _in_ring(cache_seqlens, first, x.shape[2], conv_state)
        conv_state.scatter_(2, places, x[..., first:].to(conv_state.dtype))
    return out


def _in_ring(cache_seqlens: Tensor, first: int, end: int, ring: Tensor) -> Tensor:
    """Where the steps from first to end - 1 after those before are kept, (B, D, end - first)."""
    times = cache_seqlens.long()[:, None] + torch.arange(first, end, device=ring.device)
    return times.remainder(ring.shape[2])[:, None].expand(-1, ring.shape[1], -1)


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
) -> Tensor:
    """The same on the reference backend."""
    with dispatch.use_backend("reference"):
        return causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last inputs of packed sequences, with zeros before those of a shorter one.

    Args:
        x: (T, D), the sequences one after the other.
        cu_seqlens: where they begin, and where the last one ends, (S + 1,).
        state_len: inputs to keep of each, K.
    Returns: (S, D, K).
    """
    back = torch.arange(state_len, 0, -1, device=x.device)
    steps_back = cu_seqlens[1:, None].long() - back
    is_own = steps_back >= cu_seqlens[:-1, None]
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return padded[torch.where(is_own, steps_back, len(x))].transpose(1, 2)


causal_conv1d_varlen_states_ref = causal_conv1d_varlen_states
"""The same: there is one form."""
