"""The public Newton-Schulz: which implementation takes a batch of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from everview.kernels.backend import by_triton
from everview.kernels.newton_schulz import reference
from everview.kernels.newton_schulz.operators import newton_schulz_operator

SIDES = 16
"""The kernels take matrices whose sides are multiples of this."""


def newton_schulz(
    matrices: Tensor,
    steps: int = 5,
    compute_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Orthogonalise each of `matrices` [..., R, C], any strides; see `reference.newton_schulz`.

    steps: iterations, at least 1. compute_dtype: bfloat16 on a GPU unless given, the input's own
    on a CPU. dtype: the result's, the input's own unless given. Raises ValueError for other shapes.

    bfloat16 on an NVIDIA GPU with tensor memory access (sm_90 and later) runs in Triton, which
    stores the normalised iterates in float16, at an eighth of bfloat16's error, and makes them
    anew in the backward instead of keeping them. Another compute_dtype is what the caller asked
    for and takes the reference. Matrices of other types than float32 and bfloat16, or with a side
    that isn't a multiple of 16, take it too, which is logged (`everview.kernels.backend`).
    """
    if not _by_triton(matrices, steps, compute_dtype):
        return reference.newton_schulz(matrices, steps, compute_dtype, dtype)
    tall = matrices.shape[-2] > matrices.shape[-1]
    dtype = dtype or matrices.dtype
    result, _, _ = newton_schulz_operator(matrices.mT if tall else matrices, steps, dtype)
    return result.mT if tall else result


def _by_triton(matrices: Tensor, steps: int, compute_dtype: torch.dtype | None) -> bool:
    if not matrices.is_cuda or compute_dtype not in (None, torch.bfloat16):
        return False
    if matrices.ndim not in (3, 4) or steps < 1 or matrices.numel() == 0:
        return False  # the reference says what is wrong, if anything
    return by_triton("newton_schulz", matrices.device, _refused(matrices))


def _refused(matrices: Tensor) -> str:
    """What of these matrices the kernels don't take, in words; empty if nothing."""
    if matrices.dtype not in (torch.float32, torch.bfloat16):
        return f"{matrices.dtype} matrices, not float32 or bfloat16"
    rows, columns = matrices.shape[-2:]
    if rows % SIDES or columns % SIDES:
        return f"matrices of {rows} x {columns}, sides not multiples of {SIDES}"
    return ""
