"""Who computes update and read: Triton for bfloat16 tokens on a GPU, the reference for the rest.

Shapes: N = batch x heads, L tokens, D head width, F hidden width, M written matrices.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from everview.kernels.backend import by_triton
from everview.kernels.fast_weight import reference
from everview.kernels.fast_weight.reference import MATRICES, FastWeights

_MULTIPLE = 16
"""Widths that tensor memory access takes: rows of 32 bytes."""


def fast_weight_gradient(
    weights: FastWeights,
    packed_kv: Tensor,
    rates: Tensor,
    writes: Collection[str] = MATRICES,
) -> Tensor:
    """Minus the gradient of the inner loss, summed over tokens: [N, M, D, F], float32 or wider.

    packed_kv: raw projections [N, L, 2D], keys then values; rates [N, L, 3] for w0, w1, w2. See
    `reference.fast_weight_gradient`. On a GPU Triton takes bfloat16 tokens with D and F multiples
    of 16; others go to the reference, which is logged (`everview.kernels.backend`). Triton's sums
    are a view of [N, D, M, F]: make them contiguous before a collective.
    """
    if not _by_triton("fast_weight_gradient", weights, packed_kv):
        return reference.fast_weight_gradient(weights, packed_kv, rates, writes)
    from everview.kernels.fast_weight import operators

    return operators.gradient(_alike(weights), _rows(packed_kv), _rows(rates.float()), writes)


def fast_weight_apply(weights: FastWeights, packed_q: Tensor) -> Tensor:
    """f(q) [N, L, D] for raw query projections packed_q [N, L, D]; see
    `reference.fast_weight_apply`. Triton takes what it takes in `fast_weight_gradient`."""
    if not _by_triton("fast_weight_apply", weights, packed_q):
        return reference.fast_weight_apply(weights, packed_q)
    from everview.kernels.fast_weight import operators

    return operators.apply(_alike(weights), _rows(packed_q))


def _by_triton(kernel: str, weights: FastWeights, tokens: Tensor) -> bool:
    if not tokens.is_cuda or tokens.numel() == 0:
        return False
    return by_triton(kernel, tokens.device, _refused(weights, tokens))


def _refused(weights: FastWeights, tokens: Tensor) -> str:
    """What of these inputs the kernels don't take, in words; empty if nothing."""
    if tokens.dtype != torch.bfloat16:
        return f"{tokens.dtype} tokens, not bfloat16"
    width, hidden = weights.w0.shape[1:]
    if width % _MULTIPLE or hidden % _MULTIPLE:
        return f"widths {width} and {hidden}, not multiples of {_MULTIPLE}"
    return ""


def _rows(x_NLC: Tensor) -> Tensor:
    """Rows without gaps, whatever lies between them: the kernels read them so."""
    return x_NLC if x_NLC.stride(-1) == 1 else x_NLC.contiguous()


def _alike(weights: FastWeights) -> FastWeights:
    """Matrices of one type, as one launch reads them."""
    if len({weight.dtype for weight in weights if weight is not None}) == 1:
        return weights
    return FastWeights(*(None if weight is None else weight.float() for weight in weights))
