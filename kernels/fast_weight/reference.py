"""SwiGLU fast weights, in plain torch: the definition that every faster path is checked against.

    f(x) = (silu(x W0) * (x W2)) W1                                  (row vectors)
    loss = -<f(k), v>,  so its gradient reaches f as -v and no third product is needed

    gradient:  h = silu(a) * u,  a = k W0,  u = k W2,  dh = v W1^T
               du = dh * silu(a),   da = dh * u * silu'(a)
               D1 = (h * r1)^T v,   D0 = (k * r0)^T da,   D2 = (k * r2)^T du
    commit:    W <- renorm(W + step * direction(D))
    apply:     o = f(q)

direction is Newton-Schulz (Muon) or the sum itself (SGD). renorm restores the norm that each
weight vector, along the input axis, had in the learned initial weights. LaCT, arXiv 2505.23884,
section 3; the D are minus the gradient, hence added.

A frozen matrix may be shared by all N; what isn't written is absent (None) from a delta.

Shapes: N = batch x heads (a head varies fastest), L tokens, D head width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from everview.kernels.newton_schulz import newton_schulz

MATRICES = ("w0", "w1", "w2")
_NORM_EPSILON = 1e-5


class FastWeights(NamedTuple):
    """w0 gate [N, D, F], w1 down [N, F, D], w2 up [N, D, F].

    The first axis is N, or H (heads) or 1 for a frozen matrix that every batch element shares.
    In a delta, norms and other companions an entry is None where the matrix isn't written.
    """

    w0: Tensor | None
    w1: Tensor | None
    w2: Tensor | None


def unit(x: Tensor) -> Tensor:
    """x / (||x|| + 1e-5) over the last axis, the norm summed in float32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide / (norm + _NORM_EPSILON)).to(x.dtype)


def _product(x_NLI: Tensor, weight: Tensor) -> Tensor:
    """x @ weight [N | H | 1, I, O]; a shared weight is one large product, not N small ones."""
    n, length, width = x_NLI.shape
    shared = weight.shape[0]
    if shared == 1:
        return x_NLI @ weight[0].to(x_NLI.dtype)
    if shared == n:
        return torch.bmm(x_NLI, weight.to(x_NLI.dtype))
    heads = x_NLI.view(n // shared, shared, length, width) @ weight.to(x_NLI.dtype)
    return heads.reshape(n, length, -1)


def fast_weight_gradient(
    weights: FastWeights,
    packed_kv: Tensor,
    rates: Tensor,
    writes: Collection[str] = MATRICES,
) -> FastWeights:
    """Minus the gradient of the inner loss, summed over tokens (so it may be all-reduced).

    packed_kv: raw projections [N, L, 2D], keys then values; SiLU and the keys' unit norm are
    applied here. rates: learning rates [N, L, 3] for w0, w1, w2. Returns float32 (or float64)
    sums for the matrices in `writes`, None for the others.
    """
    key, value = functional.silu(packed_kv).chunk(2, dim=-1)
    key = unit(key)
    rate0, rate1, rate2 = rates.to(key.dtype).split(1, dim=-1)
    gate, up = _product(key, weights.w0), _product(key, weights.w2)
    gated = functional.silu(gate)
    # rates go to the narrow side of each outer product
    delta1 = _sum_outer(gated * up, value * rate1) if "w1" in writes else None
    if "w0" not in writes and "w2" not in writes:
        return FastWeights(None, delta1, None)
    back = _product(value, weights.w1.mT)
    delta0 = delta2 = None
    if "w0" in writes:
        sigma = torch.sigmoid(gate)
        # silu'(a) = s (1 + a (1 - s)) = g + s (1 - g), g = silu(a), s = sigmoid(a)
        slope = torch.addcmul(gated, sigma, 1 - gated)
        delta0 = _sum_outer(key * rate0, back * up * slope)
    if "w2" in writes:
        delta2 = _sum_outer(key * rate2, back * gated)
    return FastWeights(delta0, delta1, delta2)


def _sum_outer(left_NLI: Tensor, right_NLO: Tensor) -> Tensor:
    """sum over tokens of outer products, [N, I, O], float32 or wider."""
    outer = torch.bmm(left_NLI.mT, right_NLO)
    return outer if outer.dtype == torch.float64 else outer.float()


def fast_weight_direction(
    delta: FastWeights, optimiser: str = "muon", newton_schulz_steps: int = 5
) -> FastWeights:
    """The direction of the write: Newton-Schulz of each sum ("muon") or the sum itself ("sgd").

    Matrices of one shape go through Newton-Schulz in one batch (w1 is transposed to join).
    """
    if optimiser == "sgd":
        return delta
    if optimiser != "muon":
        raise ValueError(f"fast-weight optimiser {optimiser!r}: muon or sgd")
    present = [name for name in MATRICES if getattr(delta, name) is not None]
    stacked = torch.cat([_as_up(name, getattr(delta, name)) for name in present])
    parts = newton_schulz(stacked, newton_schulz_steps).chunk(len(present))
    return delta._replace(
        **{name: _as_up(name, part) for name, part in zip(present, parts, strict=True)}
    )


def _as_up(name: str, matrix: Tensor) -> Tensor:
    """w1 transposed to the shape of w0 and w2 (its own inverse), the others as they are."""
    return matrix.mT if name == "w1" else matrix


def initial_norms(weights: FastWeights) -> FastWeights:
    """Norms along the input axis, [., 1, out], of the learned initial weights."""
    return FastWeights(*(w.norm(dim=-2, keepdim=True) if w is not None else None for w in weights))


def renormalise(weight: Tensor, norm: Tensor) -> Tensor:
    """Each vector along the input axis rescaled to `norm` [., 1, out]."""
    return weight * (norm / (weight.norm(dim=-2, keepdim=True) + _NORM_EPSILON))


def fast_weight_commit(weight: Tensor, direction: Tensor, step: Tensor, norm: Tensor) -> Tensor:
    """renorm(weight + step * direction) for one matrix; where step is 0 the weight, bit for bit.

    weight, direction: [N, I, O]. step: [N] (a write gate is step 0: even a direction that isn't
    finite leaves the weight as it was). norm: [N | 1, 1, O].
    """
    step = step.view(-1, 1, 1)
    moved = renormalise(weight + step * direction, norm)
    return torch.where(step == 0, weight, moved)


def fast_weight_apply(weights: FastWeights, packed_q: Tensor) -> Tensor:
    """f(q) for raw query projections packed_q [N, L, D]; SiLU and unit norm are applied here."""
    query = unit(functional.silu(packed_q))
    hidden = functional.silu(_product(query, weights.w0)) * _product(query, weights.w2)
    return _product(hidden, weights.w1)
