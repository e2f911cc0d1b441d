"""Dependence of two variables given a third."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from bdam_kernels.ops.hsic.gram import Sigma, check_variables, doubly_centred, gram, result_dtype, widths


def conditional_hsic(x: Tensor, y: Tensor, z: Tensor, *, sigma: Sigma = None, regularisation: float = 1e-3) -> Tensor:
    """Squared Hilbert-Schmidt norm of the normalised conditional cross-covariance operator of x and y given z;
    differentiable any number of times.

    tr(Ry Rx - 2 Ry Rx Rz + Ry Rz Rx Rz) with R = G (G + N regularisation)^-1 of the doubly centred Gram matrices G of
    (x, z), (y, z) and z. With Gaussian kernels, which these are, its limit is 0 exactly if x and y are independent
    given z, and depends on the distributions alone, not on the widths. Of N samples it is not 0 then, so compare values
    of equal N, widths and regularisation.  Source: Fukumizu et al. 2008, "Kernel measures of conditional dependence",
    Section 3.

    Args:
        x, y, z: features of the same N samples, (N, Dx), (N, Dy) and (N, Dz); floating point. A pair's kernel is the
            product of both. Computed in float64, in O(N^3) operations and O(N^2) memory.
        sigma: width of the Gaussian kernels, or one for each of x, y and z. None takes the median distances, as
            constants.
        regularisation: added to eigenvalues of covariance operators, which are at most 1; for the limit it has to go
            to 0 as N grows, slower than N^(-1/3).
    Returns: scalar >= 0, float32 (float64 if x, y or z is).
    Raises: ValueError for shapes that do not fit, fewer than 2 rows, features that are not finite, or a width or
        regularisation that is not positive; TypeError for dtypes that are not floating point.
    """
    variables = (x, y, z)
    check_variables({"x": x, "y": y, "z": z}, "rbf", sigma)
    if not isinstance(regularisation, Real) or not 0 < regularisation < math.inf:
        raise ValueError(f"regularisation must be a positive number, got {regularisation!r}")
    of_x, of_y, of_z = (gram(t.double(), "rbf", w) for t, w in zip(variables, widths(variables, sigma), strict=True))
    x_rest, y_rest, z_rest = (_residual(K, regularisation) for K in (of_x * of_z, of_y * of_z, of_z))
    identity = torch.eye(x.shape[0], dtype=torch.float64, device=x.device)
    # The trace is that of Ry (I - Rz) Rx (I - Rz).
    value = ((identity - y_rest) * (z_rest @ (identity - x_rest) @ z_rest)).sum()
    return value.to(result_dtype(variables))


def _residual(K: Tensor, regularisation: float) -> Tensor:
    """I - R = (I + G / (N regularisation))^-1, positive definite."""
    identity = torch.eye(K.shape[0], dtype=K.dtype, device=K.device)
    try:
        factor = torch.linalg.cholesky(identity + doubly_centred(K) / (K.shape[0] * regularisation))
    except torch.linalg.LinAlgError:
        raise ValueError(
            "x, y and z must be finite, and regularisation above the rounding of float64, got values that are not, or "
            f"{regularisation}"
        ) from None
    return torch.cholesky_inverse(factor)
