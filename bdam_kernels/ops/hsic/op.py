"""HSIC between two feature matrices: the public function."""

from __future__ import annotations

import math
from numbers import Real
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from bdam_kernels import dispatch
from bdam_kernels.ops.arguments import cast
from bdam_kernels.ops.hsic import distributed, gaussian, linear


def hsic(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    sigma: float | tuple[float, float] | None = None,
    estimator: Literal["biased", "unbiased"] = "biased",
    normalize: bool = False,
    process_group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor:
    """Hilbert-Schmidt independence criterion between two feature matrices, differentiable any number of times.

    tr(K H L H) / (N-1)^2 with Gram matrices K of x and L of y and H = I - 1/N.  Source: Gretton et al. 2005; both
    drafts of the paper, Eq. 2.  Linear kernels take O(N D min(N, D)) operations and O(min(N, D)^2) memory beside the
    features, Gaussian ones O(N^2 D) operations and O(N D) memory (second derivatives O(N^2)). Works under torch.func
    (grad, vmap) too; what a group computes with one all-reduce does not. torch.export gets plain operations of torch,
    right at any N, and of O(N^2) memory with Gaussian kernels.

    Args:
        x, y: features of the same N samples, (N, Dx) and (N, Dy), any strides; float16, bfloat16, float32 or float64.
            Half types are computed with in float32, and autocast has no say inside.
        kernel: "linear", K = x x^T, or "rbf", K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)).
        sigma: width of the Gaussian kernels, or a pair for x and y. None takes the median distance between two rows
            of each (the mean of the two middle ones), as a constant; of N > 1024 rows, of 1024 evenly spaced ones.
        estimator: "biased" as above, or "unbiased" of Song et al. 2012, Eq. 5, which may be negative.
        normalize: divides by sqrt(HSIC(x, x) HSIC(y, y)), which gives centred kernel alignment. It is 0, with zero
            gradient, if all rows of x or of y are equal, and else NaN where one of the two is not positive, as it is
            of unbiased Gaussian kernels if no two rows are within 11 sigma of each other. So it is of linear kernels in
            float32 for features above some 1e8, whose fourth powers it does not hold.
        process_group: makes the loss that of the rows of all ranks, which may differ in number but not be 0. Every
            rank gets the same value, and the gradient of this one loss by its own rows. DistributedDataParallel
            averages gradients over ranks: multiply the loss by the number of ranks to make up for that. Biased
            linear HSIC takes one all-reduce of Dx Dy + Dx + Dy + 1 float64 numbers in forward, none in backward,
            and can be differentiated once. Everything else gathers the features of all ranks; its second
            derivatives take the other ranks' features as constants.
        backend: see `bdam_kernels.backends`; None takes the best kernel that there is for these inputs, else closed
            forms. On a GPU a kernel takes up to 512 rows if linear, no float64; the rest is faster on cuBLAS.
            The biased linear form of a process group has no kernel: it takes closed forms.
    Returns: scalar, float32 (float64 if x or y is).
    Raises: ValueError for shapes that do not fit, fewer than 2 (unbiased: 4) rows or an unknown option; TypeError for
        dtypes that are not floating point; BackendUnavailable if a forced backend cannot run.
    """
    _check(x, y, kernel, sigma, estimator)
    unbiased = estimator == "unbiased"
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    chosen = _choose(x, y, kernel, backend)
    if process_group is not None:
        if chosen != "reference" and kernel == "linear" and not unbiased and not normalize:
            _check_rows(x.shape[0] * dist.get_world_size(process_group), unbiased)
            return distributed.GlobalFeatureForm.apply(x.to(dtype), y.to(dtype), process_group)
        x, y = (distributed.gather_rows(t, process_group) for t in (x, y))
        chosen = _choose(x, y, kernel, backend)
    _check_rows(x.shape[0], unbiased)
    if chosen == "cuda" and not (x.numel() and y.numel()):
        chosen = "closed"
    if chosen != "cuda":
        x, y = cast(x, dtype), cast(y, dtype)
    if kernel == "rbf":
        values = gaussian.gaussian_hsic(x, y, sigma, unbiased, normalize, chosen)
    else:
        values = linear.linear_hsic(x, y, unbiased, normalize, chosen)
    return cast(_alignment(x, y, *values) if normalize else values[0], dtype)


def _choose(x: Tensor, y: Tensor, kernel: str, backend: str | None) -> str:
    """Name of the backend, "closed" for closed forms on torch alone: what a call takes that names none.

    So do exported graphs, which then have derivatives, and are for any N.
    """
    if torch.compiler.is_exporting() and dispatch.asked(backend) is None:
        return "closed"
    if kernel == "linear":
        # Elsewhere an exporter is not to fix N.
        rows = x.shape[0] if dispatch.serves("cuda", x.device) else 0
        chosen = dispatch.choose(backend, x.device, linear.kernels, x.dtype, y.dtype, rows)
    else:
        chosen = dispatch.choose(backend, x.device, gaussian.kernels)
    if chosen == "reference" and dispatch.asked(backend) is None and not dispatch.forward_mode():
        return "closed"
    return chosen


def _alignment(x: Tensor, y: Tensor, of_both: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """Centred kernel alignment from HSIC of x and y, and of each with itself: NaN where rows differ, but not HSIC, and
    where HSIC is more than the dtype holds."""
    constant = (x == x[:1]).all() | (y == y[:1]).all()
    norm = torch.where(constant, 1.0, of_x).sqrt() * torch.where(constant, 1.0, of_y).sqrt()
    # What is added is 0, and NaN of an infinite norm, by which any number would become 0.
    return torch.where(constant, 0.0, torch.add(of_both / norm, norm.detach(), alpha=0))


def _check(x: Tensor, y: Tensor, kernel: str, sigma: object, estimator: str) -> None:
    for name, t in (("x", x), ("y", y)):
        if t.dim() != 2:
            raise ValueError(f"{name} must be (N, D), got {tuple(t.shape)}")
        if not t.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {t.dtype}")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x and y must have one row for each sample, got {x.shape[0]} and {y.shape[0]} rows")
    if x.device != y.device:
        raise ValueError(f"y must be on {x.device} like x, got {y.device}")
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel must be 'linear' or 'rbf', got {kernel!r}")
    if estimator not in ("biased", "unbiased"):
        raise ValueError(f"estimator must be 'biased' or 'unbiased', got {estimator!r}")
    if sigma is None:
        return
    if kernel != "rbf":
        raise ValueError(f"sigma is the width of kernel 'rbf' and must be None for kernel {kernel!r}, got {sigma!r}")
    pair = sigma if isinstance(sigma, (tuple, list)) else (sigma, sigma)
    if len(pair) != 2 or not all(isinstance(s, Real) and 0 < float(s) < math.inf for s in pair):
        raise ValueError(f"sigma must be a positive number, a pair of them for x and y, or None, got {sigma!r}")


def _check_rows(n: int, unbiased: bool) -> None:
    least, name = (4, "unbiased") if unbiased else (2, "biased")
    if n < least:
        raise ValueError(f"the {name} estimator needs at least {least} rows, got {n}")
