"""Newton-Schulz iteration towards the orthogonal factor of a matrix (Muon's step).

    X0 = G / (||G||_F + 1e-7);   X <- a X + (b A + c A^2) X   with A = X X^T

The coefficients trade exactness for speed: after five steps the singular values lie in about
0.7 to 1.2, not at 1 (Jordan et al., Muon, 2024; LaCT, arXiv 2505.23884, section 3).

Shapes: N matrices, R rows, C columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


def newton_schulz(
    matrices: Tensor,
    steps: int = 5,
    compute_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Orthogonalise each of `matrices` [..., R, C]; the result has the input's shape.

    steps: iterations, at least 1. compute_dtype: bfloat16 on a GPU unless given, the input's own
    on a CPU. dtype: the result's, the input's own unless given. The Gram
    matrix is formed on the short side, so the cost is steps * (4 R^2 C + 2 R^3) operations a
    matrix with R <= C. Raises ValueError for other shapes.

    In bfloat16 the result isn't reproducible elementwise across shapes or batch sizes; compare
    fits, not entries.
    """
    if matrices.ndim < 3:
        raise ValueError(f"expected [N, R, C], got {tuple(matrices.shape)}")
    if matrices.ndim > 3:
        flat = newton_schulz(matrices.flatten(0, -3), steps, compute_dtype, dtype)
        return flat.view(matrices.shape)
    if steps < 1:
        raise ValueError(
            f"{steps} Newton-Schulz steps: at least 1 (plain SGD is another optimiser)"
        )
    if compute_dtype is None:
        compute_dtype = torch.bfloat16 if matrices.is_cuda else matrices.dtype
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    # autocast would pull a float32 or float64 iteration down to bfloat16
    with torch.autocast(matrices.device.type, enabled=False):
        norm = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True, dtype=_wide(matrices))
        x = (matrices / (norm + EPSILON)).to(compute_dtype)
        x = x.mT if tall else x
        for _ in range(steps):
            gram = torch.bmm(x, x.mT)
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, polynomial, x, beta=a)
        return (x.mT if tall else x).to(dtype or matrices.dtype)


def _wide(tensor: Tensor) -> torch.dtype:
    """The dtype for a norm: float64 stays, everything else is summed in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
