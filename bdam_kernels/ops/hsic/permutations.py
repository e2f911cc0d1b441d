"""Inner products of Gram matrices under permutations of one of them: drawn, computed and counted.

No Gram matrix is built again. A permuted product looks up N^2 elements; on the CPU a kernel does so in float32 with
whole vectors, elsewhere torch gathers them in float64. Rounding moves a product by a millionth of its deviation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.ops.hsic.gaussian import kernels

_GATHERED = 2**22
"""Elements of Gram matrices that torch gathers at once."""
_CACHED = 2**17
"""Features that are gathered at once: they fit in L2."""


def identity_and_draws(count: int, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """(1 + count, N): the identity, and permutations drawn where the generator is, on the CPU without one."""
    where = "cpu" if generator is None else generator.device
    draws = [torch.randperm(n, generator=generator, device=where) for _ in range(count)]
    return torch.stack([torch.arange(n, device=where), *draws]).to(device)


def permuted_products(K: Tensor, L: Tensor, permutations: Tensor) -> Tensor:
    """Sums over i and j of K_ij L_p(i)p(j) for each permutation p, (B,), of symmetric (N, N) in float64."""
    # Of unit size float32 can hold them.
    K_size, L_size = (t.abs().max().clamp_min(torch.finfo(t.dtype).tiny) for t in (K, L))
    K, L = K / K_size, L / L_size
    if dispatch.choose(None, K.device, kernels) == "cpu":
        products = _by_the_kernel(K.float(), L.float(), permutations)
    else:
        blocks = permutations.split(max(_GATHERED // K.numel(), 1))
        products = torch.cat([L[p[:, :, None], p[:, None]].flatten(1) @ K.flatten() for p in blocks])
    return products * K_size * L_size


def _by_the_kernel(K: Tensor, L: Tensor, permutations: Tensor) -> Tensor:
    """With both matrices filled up to whole vectors with zeros, which permutations leave where they are."""
    lanes = dispatch.cpu().lanes
    (count, n), rest = permutations.shape, -len(K) % lanes
    K, L = (F.pad(t, (0, rest, 0, rest)) for t in (K, L))
    places = torch.arange(n + rest).expand(count, -1)
    permutations = torch.cat([permutations, places[:, n:]], 1)
    inverses = torch.empty_like(permutations).scatter_(1, permutations, places)
    panels = L.unflatten(1, (-1, lanes)).transpose(0, 1).contiguous()
    sums = K.new_empty(len(panels), count)
    # As bytes: kernels know no tensors of integers.
    indices = [t.int().view(torch.uint8) for t in (permutations, inverses)]
    dispatch.cpu().hsic_permuted(K, panels, *indices, sums, torch.get_num_threads())
    return sums.sum(0, dtype=torch.float64)


def permuted_norms(x: Tensor, y: Tensor, permutations: Tensor) -> Tensor:
    """|x^T y_p|^2 for each permutation p, (B,): `permuted_products` of x x^T and y y^T from features alone."""
    blocks = permutations.split(max(_CACHED // max(y.numel(), 1), 1))
    permuted = (y.index_select(0, p.flatten()).unflatten(0, p.shape) for p in blocks)
    return torch.cat([(x.mT @ y_p).square().sum((1, 2)) for y_p in permuted])


def p_value(statistics: Tensor, rounding: float) -> float:
    """(1 + number of permuted statistics that reach the first, observed one) / (1 + permutations).

    What differs from the observed one by rounding is equal to it: data of few values have such ties. Under
    independence p <= a in at most a share a of all cases.  Source: Phipson & Smyth 2010.

    Args:
        rounding: of statistics in float64; that of float32 is taken from their size and spread.
    """
    observed, permuted = statistics[0], statistics[1:]
    tolerance = rounding + 1e-6 * observed.abs() + 1e-5 * statistics.std()
    if not tolerance.isfinite():  # a comparison with NaN would pass for evidence
        raise beyond_float64()
    return (1 + int((permuted >= observed - tolerance).sum())) / len(statistics)


def beyond_float64() -> ValueError:
    return ValueError("features must differ by numbers that float64 holds, got statistics that are not finite: rescale")
