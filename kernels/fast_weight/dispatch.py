"""Who computes update and read: Triton for bfloat16 tokens on a GPU, the reference for the rest.

Shapes: N = batch x heads, L tokens, D head width, F hidden width, M written matrices.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from everview.kernels.fast_weight import reference
from everview.kernels.fast_weight.reference import MATRICES, FastWeights


def _by_triton(tokens: Tensor) -> bool:
    return tokens.is_cuda and tokens.dtype == torch.bfloat16


def fast_weight_gradient(
    weights: FastWeights,
    packed_kv: Tensor,
    rates: Tensor,
    writes: Collection[str] = MATRICES,
) -> Tensor:
    """Minus the gradient of the inner loss, summed over tokens: [N, M, D, F], float32 or wider.

    packed_kv: raw projections [N, L, 2D], keys then values; rates [N, L, 3] for w0, w1, w2. See
    `reference.fast_weight_gradient`. On a GPU in bfloat16 D and F are multiples of 16, else
    ValueError.
    """
    if not _by_triton(packed_kv):
        return reference.fast_weight_gradient(weights, packed_kv, rates, writes)
    from everview.kernels.fast_weight import operators

    return operators.gradient(weights, packed_kv, rates.float(), writes)


def fast_weight_apply(weights: FastWeights, packed_q: Tensor) -> Tensor:
    """f(q) [N, L, D] for raw query projections packed_q [N, L, D]; see
    `reference.fast_weight_apply`. On a GPU in bfloat16 D and F are multiples of 16."""
    if not _by_triton(packed_q):
        return reference.fast_weight_apply(weights, packed_q)
    from everview.kernels.fast_weight import operators

    return operators.apply(weights, packed_q)
