"""The selective scan of ggml, on which llama.cpp runs Mamba on a CPU, as a contender: forward only, float32."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def ggml_selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Callable[..., Tensor]:
    """A function that computes the scan of these inputs, on copies of them in ggml's own layout, and ignores its own.

    The graph is llama.cpp's of a Mamba layer from the step's bias to the gate. Channels are neighbours in memory there.

    Returns: function of anything; gives out, (B, D, L), a view of (B, L, D).
    Raises: ImportError without the package ggml-python.
    """
    import ggml

    batch, channels, length = u.shape
    states = A.shape[1]
    overhead = 64 * ggml.ggml_tensor_overhead() + ggml.ggml_graph_overhead()
    context = ggml.ggml_init(ggml.ggml_init_params(mem_size=overhead, mem_buffer=None, no_alloc=True))
    values: list[tuple[Any, np.ndarray[Any, Any]]] = []

    def tensor(value: Tensor, *sizes: int) -> Any:
        """sizes: the last dimension first."""
        kind = ggml.GGML_TYPE_F32 if value.is_floating_point() else ggml.GGML_TYPE_I32
        made = ggml.ggml_new_tensor(context, kind, len(sizes), (ctypes.c_int64 * len(sizes))(*sizes))
        values.append((made, value.detach().contiguous().numpy()))
        return made

    def over_time(value: Tensor) -> Tensor:
        return value.transpose(1, 2)

    # A head of one channel each is Mamba-1. Its softplus is part of the scan.
    shape = (1, channels, length, batch)
    x = tensor(over_time(u), *shape)
    flat = (channels, length, batch)
    step = ggml.ggml_add(context, tensor(over_time(delta), *flat), tensor(delta_bias, channels))
    both = ggml.ggml_ssm_scan(
        context,
        tensor(torch.zeros(batch, channels, states), states, 1, channels, batch),
        x,
        step,
        tensor(A, states, channels),
        tensor(over_time(B), states, 1, length, batch),
        tensor(over_time(C), states, 1, length, batch),
        tensor(torch.arange(batch, dtype=torch.int32), batch),
    )
    # The states after the last step follow.
    y = ggml.ggml_view_3d(context, both, *flat, 4 * channels, 4 * channels * length, 0)
    y = ggml.ggml_add(context, y, ggml.ggml_mul(context, ggml.ggml_reshape_3d(context, x, *flat), tensor(D, channels)))
    out = ggml.ggml_mul(context, y, ggml.ggml_silu(context, tensor(over_time(z), *flat)))
    graph = ggml.ggml_new_graph(context)
    ggml.ggml_build_forward_expand(graph, out)

    backend = ggml.ggml_backend_cpu_init()
    ggml.ggml_backend_cpu_set_n_threads(backend, torch.get_num_threads())
    buffer = ggml.ggml_backend_alloc_ctx_tensors(context, backend)
    assert buffer is not None
    for made, value in values:
        ggml.ggml_backend_tensor_set(made, value.ctypes.data, 0, value.nbytes)
    found = torch.empty(batch, length, channels)

    def compute(*_: Tensor) -> Tensor:
        if ggml.ggml_backend_graph_compute(backend, graph) != ggml.GGML_STATUS_SUCCESS:
            raise RuntimeError("ggml could not compute its graph")
        ggml.ggml_backend_tensor_get(out, found.data_ptr(), 0, found.nbytes)
        return found.transpose(1, 2)

    return compute
