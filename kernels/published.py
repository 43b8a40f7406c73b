"""The published LaCT memory, transcribed from its equations: what every benchmark compares against.

LaCT, "Test-Time Training Done Right", arXiv 2505.23884, section 3, as its novel-view model runs it:
all three matrices are written, Muon with five Newton-Schulz steps, a learning rate per token and
matrix, weights rescaled to the norms they entered with. Plain torch, one statement an equation.

    q, k, v = silu(x W_qkv);   q = q / (||q|| + 1e-5),  k likewise
    f_W(x)  = (silu(x W0) * (x W2)) W1;     inner loss  -<f_W(k), v>
    update:  W <- rownorm(W + NS5(sum_i rate_i * -grad_i))
    apply:   o = f_W(q)

It shares nothing with the project's own kernels on purpose (Newton-Schulz included): a baseline
must not become faster or slower with what is compared against it.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_A, _B, _C = 3.4445, -4.7750, 2.0315
_NEWTON_SCHULZ_EPSILON = 1e-7
_NORM_EPSILON = 1e-5


class PublishedWeights(NamedTuple):
    """w0 gate [N, D, F], w1 down [N, F, D], w2 up [N, D, F]; the paper's W1, W2, W3."""

    w0: Tensor
    w1: Tensor
    w2: Tensor


def published_prologue(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [N, L, D] from the raw projection [N, L, 3D]."""
    query, key, value = functional.silu(qkv).chunk(3, dim=-1)
    query = query / (query.norm(dim=-1, keepdim=True) + _NORM_EPSILON)
    key = key / (key.norm(dim=-1, keepdim=True) + _NORM_EPSILON)
    return query, key, value


def published_update(
    weights: PublishedWeights,
    key: Tensor,
    value: Tensor,
    rates: Tensor,
    newton_schulz_steps: int = 5,
    newton_schulz_dtype: torch.dtype | None = None,
) -> PublishedWeights:
    """The weights after one chunk. key, value [N, L, D] after the prologue; rates [N, L, 3].

    newton_schulz_dtype: bfloat16 as published on a GPU; None keeps the gradient's own.
    """
    w0, w1, w2 = weights
    rate0, rate1, rate2 = rates.to(key.dtype).split(1, dim=-1)
    gate = key @ w0
    up = key @ w2
    sigma = torch.sigmoid(gate)
    hidden = gate * sigma * up
    back = value @ w1.mT
    back_up = back * gate * sigma
    back_gate = back * up * sigma * (1 + gate * (1 - sigma))
    moves = (
        (key * rate0).mT @ back_gate,
        (hidden * rate1).mT @ value,
        (key * rate2).mT @ back_up,
    )
    moved = []
    for weight, move in zip(weights, moves, strict=True):
        norm = weight.norm(dim=-2, keepdim=True)
        new = weight + published_newton_schulz(move, newton_schulz_steps, newton_schulz_dtype)
        moved.append(new / (new.norm(dim=-2, keepdim=True) + _NORM_EPSILON) * norm)
    return PublishedWeights(*moved)


def published_apply(weights: PublishedWeights, query: Tensor) -> Tensor:
    """f_W(q) [N, L, D]; query [N, L, D] after the prologue."""
    w0, w1, w2 = weights
    return (functional.silu(query @ w0) * (query @ w2)) @ w1


def published_newton_schulz(
    matrices: Tensor, steps: int = 5, dtype: torch.dtype | None = None
) -> Tensor:
    """X0 = G / (||G||_F + 1e-7); X <- a X + (b A + c A^2) X, A = X X^T on the short side."""
    x = matrices.to(dtype or matrices.dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + _NEWTON_SCHULZ_EPSILON)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
