"""The public Newton-Schulz: which implementation takes a batch of matrices."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from everview.kernels.newton_schulz import reference
from everview.kernels.newton_schulz.operators import newton_schulz_operator

log = logging.getLogger("everview.kernels")

SIDES = 16
"""The kernels take matrices whose sides are multiples of this."""


def newton_schulz(
    matrices: Tensor,
    steps: int = 5,
    compute_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Orthogonalise each of `matrices` [N, R, C], any strides; see `reference.newton_schulz`.

    steps: iterations, at least 1. compute_dtype: bfloat16 on a GPU unless given, the input's own
    on a CPU. dtype: the result's, the input's own unless given. Raises ValueError for other shapes.

    bfloat16 on an NVIDIA GPU with tensor memory access (sm_90 and later) runs in Triton, which
    stores the normalised iterates in float16, at an eighth of bfloat16's error, and makes them
    anew in the backward instead of keeping them. Matrices with a side that isn't a
    multiple of 16, and everything else, take the reference; on such a GPU that is logged.
    """
    if not _has_kernels(matrices, steps, compute_dtype):
        return reference.newton_schulz(matrices, steps, compute_dtype, dtype)
    rows, columns = matrices.shape[1:]
    if rows % SIDES or columns % SIDES:
        if not torch.compiler.is_compiling():
            _announce(rows, columns)
        return reference.newton_schulz(matrices, steps, compute_dtype, dtype)
    tall = rows > columns
    dtype = dtype or matrices.dtype
    result, _, _ = newton_schulz_operator(matrices.mT if tall else matrices, steps, dtype)
    return result.mT if tall else result


def _has_kernels(matrices: Tensor, steps: int, compute_dtype: torch.dtype | None) -> bool:
    return (
        matrices.is_cuda
        and compute_dtype in (None, torch.bfloat16)
        and matrices.ndim == 3  # the reference says what is wrong with others
        and matrices.numel() > 0
        and steps >= 1
        and matrices.dtype in (torch.float32, torch.bfloat16)
        and _accelerated(matrices.device)
    )


@cache
def _accelerated(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


@cache
def _announce(rows: int, columns: int) -> None:
    log.info(
        "newton_schulz: %s for %d x %d, whose sides aren't multiples of %d",
        "torch reference",
        rows,
        columns,
        SIDES,
    )
