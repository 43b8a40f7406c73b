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

What is written lives in one tensor, "packed": [N, M, D, F], the M written matrices in the order w0,
w2, w1 transposed. Sums, directions, momentum and elastic state share that layout, so that one
Newton-Schulz batch and one commit serve all of them. A frozen matrix may be shared by all N.

Shapes: N = batch x heads (a head varies fastest), L tokens, D head width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from everview.kernels.newton_schulz import newton_schulz

MATRICES = ("w0", "w2", "w1")
"""The matrices in packed order."""
_NORM_EPSILON = 1e-5


class FastWeights(NamedTuple):
    """w0 gate [N, D, F], w1 down [N, F, D], w2 up [N, D, F]; any strides.

    The first axis is N, or H (heads) or 1 for a frozen matrix that every batch element shares.
    None where a matrix isn't needed or isn't written.
    """

    w0: Tensor | None
    w1: Tensor | None
    w2: Tensor | None


def pack(weights: FastWeights, writes: Collection[str] = MATRICES) -> Tensor:
    """The matrices of `writes` as one tensor [N, M, D, F], w1 transposed."""
    present = {"w0": weights.w0, "w2": weights.w2, "w1": weights.w1}
    parts = [present[name] for name in MATRICES if name in writes]
    return torch.stack(
        [
            part.mT if name == "w1" else part
            for name, part in zip(written(writes), parts, strict=True)
            if part is not None
        ],
        dim=1,
    )


def unpack(packed: Tensor, writes: Collection[str] = MATRICES) -> FastWeights:
    """Views of a packed tensor [N, M, D, F] as matrices; None for what isn't in `writes`."""
    parts = dict(zip(written(writes), packed.unbind(1), strict=True))
    down = parts.get("w1")
    return FastWeights(parts.get("w0"), None if down is None else down.mT, parts.get("w2"))


def written(writes: Collection[str]) -> tuple[str, ...]:
    """The names in `writes` in packed order. Raises ValueError for others."""
    unknown = set(writes) - set(MATRICES)
    if unknown or not writes:
        raise ValueError(f"writes {sorted(writes)}: some of w0, w1, w2")
    return tuple(name for name in MATRICES if name in writes)


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
) -> Tensor:
    """Minus the gradient of the inner loss, summed over tokens (so it may be all-reduced).

    packed_kv: raw projections [N, L, 2D], keys then values; SiLU and the keys' unit norm are
    applied here. rates: learning rates [N, L, 3] for w0, w1, w2. Returns float32 (or float64)
    sums [N, M, D, F] for the matrices in `writes`. Without w0 and w2 among them, w1 may be None.
    """
    key, value = functional.silu(packed_kv).chunk(2, dim=-1)
    key = unit(key)
    rate0, rate1, rate2 = rates.to(key.dtype).split(1, dim=-1)
    gate, up = _product(key, weights.w0), _product(key, weights.w2)
    gated = functional.silu(gate)
    sums: dict[str, Tensor] = {}
    if "w1" in writes:  # rates go to the narrow side of each outer product
        sums["w1"] = _sum_outer(value * rate1, gated * up)
    if "w0" in writes or "w2" in writes:
        back = _product(value, weights.w1.mT)
    if "w0" in writes:
        sigma = torch.sigmoid(gate)
        # silu'(a) = s (1 + a (1 - s)) = g + s (1 - g), g = silu(a), s = sigmoid(a)
        slope = torch.addcmul(gated, sigma, 1 - gated)
        sums["w0"] = _sum_outer(key * rate0, back * up * slope)
    if "w2" in writes:
        sums["w2"] = _sum_outer(key * rate2, back * gated)
    return torch.stack([sums[name] for name in written(writes)], dim=1)


def _sum_outer(left_NLI: Tensor, right_NLO: Tensor) -> Tensor:
    """sum over tokens of outer products, [N, I, O], float32 or wider."""
    outer = torch.bmm(left_NLI.mT, right_NLO)
    return outer if outer.dtype == torch.float64 else outer.float()


def fast_weight_direction(
    sums: Tensor, optimiser: str = "muon", newton_schulz_steps: int = 5
) -> Tensor:
    """The direction of the write [N, M, D, F]: Newton-Schulz of each sum ("muon"), all in one
    batch and in bfloat16 on a GPU, where its products are of that type; or the sum itself
    ("sgd")."""
    if optimiser == "sgd":
        return sums
    if optimiser != "muon":
        raise ValueError(f"fast-weight optimiser {optimiser!r}: muon or sgd")
    low = torch.bfloat16 if sums.is_cuda and sums.dtype == torch.float32 else None
    return newton_schulz(sums, newton_schulz_steps, dtype=low)


def initial_norms(initial: FastWeights, writes: Collection[str] = MATRICES) -> tuple[Tensor, ...]:
    """Norms of the learned initial weight vectors, one tensor per written matrix, in packed order
    and broadcastable to [., D, F]: [., 1, F] for w0 and w2, [., D, 1] for w1."""
    norms = {
        name: weight.norm(dim=-2, keepdim=True)
        for name, weight in initial._asdict().items()
        if weight is not None
    }
    return tuple(norms[n].mT if n == "w1" else norms[n] for n in written(writes))


def renormalise(packed: Tensor, norms: Sequence[Tensor]) -> Tensor:
    """Each weight vector of [N, M, D, F] rescaled to its entry of `norms` [N | H, 1, F] or
    [N | H, D, 1]; which axis is normed follows from the shape of the norm."""
    return torch.stack(
        [_rescaled(part, norm) for part, norm in zip(packed.unbind(1), norms, strict=True)], dim=1
    )


def _rescaled(weight_NDF: Tensor, norm: Tensor) -> Tensor:
    axis = -1 if norm.shape[-1] == 1 else -2
    own = weight_NDF.norm(dim=axis, keepdim=True) + _NORM_EPSILON
    heads = norm.shape[0]
    ratio = norm.to(own.dtype) / own.unflatten(0, (-1, heads))
    return weight_NDF * ratio.flatten(0, 1)


def fast_weight_commit(
    weights: Tensor, direction: Tensor, step: Tensor, norms: Sequence[Tensor]
) -> Tensor:
    """renorm(weights + step * direction); where step is 0 the weights, bit for bit.

    weights, direction: [N, M, D, F]. step: [N] (a write gate is step 0: even a direction that
    isn't finite leaves the weights as they were). norms: as from `initial_norms`.
    """
    step = step.view(-1, 1, 1, 1).to(weights.dtype)
    moved = renormalise(weights + step * direction, norms)
    return torch.where(step == 0, weights, moved)


def fast_weight_apply(weights: FastWeights, packed_q: Tensor) -> Tensor:
    """f(q) for raw query projections packed_q [N, L, D]; SiLU and unit norm are applied here."""
    query = unit(functional.silu(packed_q))
    hidden = functional.silu(_product(query, weights.w0)) * _product(query, weights.w2)
    return _product(hidden, weights.w1)
