"""Update and read on a GPU, forward and backward, as operators that a compiler doesn't look into.

Nothing of a token's hidden layer is kept between forward and backward, nor for more than one block
of tokens at a time: it is recomputed, which costs 10 of the backward's 46 L D F operations.

    read's backward, o = (g * u) W1, given do: the gradient kernel with do for v and rates 1;
        dq = gate W0^T + up W2^T;  dW0 = q^T gate,  dW2 = q^T up,  dW1^T = do^T down
    gradient's backward, given P0, P2, P1^T: second_order_kernel, then sums of the same kind
        with w1 alone written: the gradient kernel again, with P1^T for W1^T

Operands are rounded to the tokens' type, sums and master weights are float32. Weights come in
packed form: w1 transposed, [., D, F] each, with a batch that may be smaller than N (shared).

Shapes: N = batch x heads, L tokens, D head width, F hidden width, M matrices.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from everview.kernels.fast_weight.reference import MATRICES, FastWeights, written
from everview.kernels.fast_weight.token_work import (
    Operands,
    TokenSums,
    activated,
    activated_backward,
    check_shapes,
    gradient_features,
    hidden,
    products,
    second_order_features,
    token_blocks,
)


def _reduced(sums: Tensor, weights: int) -> Tensor:
    """Sums [N | 1, D, F] added up over the batch elements that share their weights."""
    if sums.shape[0] == weights:
        return sums
    return sums.unflatten(0, (-1, weights)).sum(0)


class _WeightSums:
    """dW0 | dW2 = k^T (gate | up) and, of three matrices, dW1^T = v^T down, over all tokens.

    Where all share their weights, the tokens of every batch element are one sequence.
    """

    def __init__(self, packed: Tensor, weights: Operands) -> None:
        """Without `down` among the weights there are no sums for W1."""
        self.joint = _joint(weights.keyed, weights.down)
        self.n = 1 if self.joint else packed.shape[0]
        width, self.features = weights.keyed.shape[1], weights.keyed.shape[2] // 2
        self.keyed = TokenSums.of(self.n, width, 2 * self.features, packed)
        self.valued = None
        if weights.down is not None:
            self.valued = TokenSums.of(self.n, width, self.features, packed)

    def add(self, keys: Tensor, values: Tensor, features: Tensor) -> None:
        """features: gate, up, down side by side [N, L, 3 F]."""
        every = (keys, values, features)
        if self.joint:
            keys, values, features = (x.reshape(1, -1, x.shape[-1]) for x in every)
        self.keyed.add(keys, features[..., : 2 * self.features])
        if self.valued is not None:
            self.valued.add(values, features[..., 2 * self.features :])

    def totals(self) -> tuple[Tensor, ...]:
        """[N, D, 2 F] and, of three matrices, [N, D, F]."""
        return tuple(sums.total for sums in (self.keyed, self.valued) if sums is not None)


def _joint(*weights: Tensor | None) -> bool:
    """Whether each is shared by all batch elements."""
    return all(w is None or w.shape[0] == 1 for w in weights)


# --- read ----------------------------------------------------------------------------------------


@torch.library.custom_op("everview::fast_weight_apply", mutates_args=())
def apply_operator(packed_q: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor) -> Tensor:
    """f(q) [N, L, D]; see reference.fast_weight_apply."""
    check_shapes(packed_q, packed_q.shape[-1], (w0, w2, w1t))
    low = Operands.of(packed_q, w0, w2, w1t)
    assert low.down is not None
    out = packed_q.new_empty(packed_q.shape)
    for span in token_blocks(packed_q.shape[1]):
        (query,) = activated(packed_q[:, span], 1)
        products(hidden(query, low), low.down.mT, out[:, span])
    return out


@apply_operator.register_fake
def _(packed_q: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor) -> Tensor:
    return packed_q.new_empty(packed_q.shape)


@torch.library.custom_op("everview::fast_weight_apply_backward", mutates_args=())
def apply_backward_operator(
    by_out: Tensor, packed_q: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the queries (their type), by W0 | W2 [N, D, 2 F] and by W1^T [N, D, F]
    (float32), with 1 for N where all weights are shared by all N."""
    by_q = torch.empty_like(packed_q, memory_format=torch.contiguous_format)
    low = Operands.of(packed_q, w0, w2, w1t)
    features = w0.shape[-1]
    sums = _WeightSums(packed_q, low)
    for span in token_blocks(packed_q.shape[1]):
        (query,) = activated(packed_q[:, span], 1)
        given = by_out[:, span].contiguous()
        three = gradient_features(query, given, low, None).wide
        sums.add(query, given, three)
        by_query = query.new_empty(1, *query.shape)
        products(three[..., : 2 * features], low.keyed.mT, by_query[0])
        activated_backward(packed_q[:, span], by_query, by_q[:, span])
    return by_q, *sums.totals()  # type: ignore[return-value]


@apply_backward_operator.register_fake
def _(
    by_out: Tensor, packed_q: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = 1 if _joint(w0, w2, w1t) else packed_q.shape[0]
    return packed_q.new_empty(packed_q.shape), *_fake_sums(packed_q, n, w0, 2, 1)  # type: ignore[return-value]


def _fake_sums(like: Tensor, n: int, w0: Tensor, *matrices: int) -> tuple[Tensor, ...]:
    width, features = w0.shape[1:]
    return tuple(like.new_empty((n, width, m * features), dtype=torch.float32) for m in matrices)


def _apply_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _apply_backward(ctx, by_out):  # type: ignore[no-untyped-def]
    packed_q, *weights = ctx.saved_tensors
    by_q, keyed, valued = apply_backward_operator(by_out.contiguous(), packed_q, *weights)
    parts = zip((*keyed.chunk(2, dim=-1), valued), weights, strict=True)
    return by_q, *(_reduced(part, w.shape[0]).to(w.dtype) for part, w in parts)


apply_operator.register_autograd(_apply_backward, setup_context=_apply_setup)


# --- gradient ------------------------------------------------------------------------------------


@torch.library.custom_op("everview::fast_weight_gradient", mutates_args=())
def gradient_operator(
    packed_kv: Tensor, rates: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor | None
) -> Tensor:
    """Sums [N, 3, D, F], or without W1^T the one of w1 alone [N, 1, D, F]; stored as [N, D, M, F],
    so that the library's products write them side by side."""
    check_shapes(packed_kv, packed_kv.shape[-1] // 2, (w0, w2, w1t), rates)
    n, length, width = packed_kv.shape
    low = Operands.of(packed_kv, w0, w2, w1t)
    features = w0.shape[-1]
    total = packed_kv.new_empty(
        (n, width // 2, (1 if w1t is None else 3) * features), dtype=torch.float32
    )
    valued = TokenSums(total[..., -features:])
    keyed = None if w1t is None else TokenSums(total[..., : 2 * features])
    for span in token_blocks(length):
        key, value = activated(packed_kv[:, span], 2)
        if keyed is None:
            valued.add(value, hidden(key, low, rates[:, span]))
        else:
            three = gradient_features(key, value, low, rates[:, span]).wide
            keyed.add(key, three[..., : 2 * features])
            valued.add(value, three[..., 2 * features :])
    return total.unflatten(-1, (-1, features)).transpose(1, 2)


@gradient_operator.register_fake
def _(packed_kv: Tensor, rates: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor | None) -> Tensor:
    (n, _, _), (width, features) = packed_kv.shape, w0.shape[1:]
    shape = (n, width, 1 if w1t is None else 3, features)
    return packed_kv.new_empty(shape, dtype=torch.float32).transpose(1, 2)


@torch.library.custom_op("everview::fast_weight_gradient_backward", mutates_args=())
def gradient_backward_operator(
    by_sums: Tensor, packed_kv: Tensor, rates: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All three written: gradients by keys and values, by rates, by W0 | W2 [N, D, 2 F] and by
    W1^T [N, D, F]."""
    n, length, width = packed_kv.shape
    width //= 2
    features = w0.shape[-1]
    low = Operands.of(packed_kv, w0, w2, w1t)
    given = Operands.of(packed_kv, *by_sums.unbind(1))
    by_kv = torch.empty_like(packed_kv, memory_format=torch.contiguous_format)
    by_rates = torch.empty_like(rates, memory_format=torch.contiguous_format)
    keyed_sums = TokenSums.of(n, width, 2 * features, packed_kv)
    valued_sums = TokenSums.of(n, width, features, packed_kv)
    for span in token_blocks(length):
        key, value = activated(packed_kv[:, span], 2)
        keyed, valued = second_order_features(
            key, value, low, given, rates[:, span], by_rates[:, span]
        )
        keyed_sums.add(key, keyed[..., : 2 * features])
        valued_sums.add(value, valued[..., :features])
        by_both = key.new_empty(2, *key.shape)
        products(keyed[..., : 2 * features], low.keyed.mT, by_both[0])
        products(keyed[..., 2 * features :], given.keyed.mT, by_both[0], add=True)
        products(valued[..., :features], low.down.mT, by_both[1])
        products(valued[..., features:], given.down.mT, by_both[1], add=True)
        activated_backward(packed_kv[:, span], by_both, by_kv[:, span])
    return by_kv, by_rates, keyed_sums.total, valued_sums.total


@gradient_backward_operator.register_fake
def _(
    by_sums: Tensor, packed_kv: Tensor, rates: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = _fake_sums(packed_kv, packed_kv.shape[0], w0, 2, 1)
    return packed_kv.new_empty(packed_kv.shape), rates.new_empty(rates.shape), *sums  # type: ignore[return-value]


@torch.library.custom_op("everview::fast_weight_down_backward", mutates_args=())
def down_backward_operator(
    by_sums: Tensor, packed_kv: Tensor, rates: Tensor, w0: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """w1 alone written: gradients by keys and values, by rates, by W0 | W2 [N | 1, D, 2 F]."""
    length, features = packed_kv.shape[1], w0.shape[-1]
    low = Operands.of(packed_kv, w0, w2, by_sums[:, 0].to(w0.dtype))
    by_kv = torch.empty_like(packed_kv, memory_format=torch.contiguous_format)
    by_rates = rates.new_zeros(rates.shape)
    sums = _WeightSums(packed_kv, Operands(low.keyed, None))
    for span in token_blocks(length):
        key, value = activated(packed_kv[:, span], 2)
        three = gradient_features(key, value, low, rates[:, span], (1, 1, 1), rate_sums=True)
        by_rates[:, span, 1] = three.rate_sums
        sums.add(key, value, three.wide)
        two, down = three.wide.split([2 * features, features], dim=-1)
        by_both = key.new_empty(2, *key.shape)
        products(two, low.keyed.mT, by_both[0])
        products(down, low.down.mT, by_both[1])
        activated_backward(packed_kv[:, span], by_both, by_kv[:, span])
    return by_kv, by_rates, *sums.totals()  # type: ignore[return-value]


@down_backward_operator.register_fake
def _(
    by_sums: Tensor, packed_kv: Tensor, rates: Tensor, w0: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = 1 if _joint(w0, w2) else packed_kv.shape[0]
    sums = _fake_sums(packed_kv, n, w0, 2)
    return packed_kv.new_empty(packed_kv.shape), rates.new_empty(rates.shape), *sums  # type: ignore[return-value]


def _gradient_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _gradient_backward(ctx, by_sums):  # type: ignore[no-untyped-def]
    packed_kv, rates, w0, w2, w1t = ctx.saved_tensors
    by_w1 = None
    if w1t is None:
        by_kv, by_rates, keyed = down_backward_operator(by_sums, packed_kv, rates, w0, w2)
    else:
        found = gradient_backward_operator(by_sums, packed_kv, rates, w0, w2, w1t)
        by_kv, by_rates, keyed, valued = found
        by_w1 = _reduced(valued, w1t.shape[0]).to(w1t.dtype)
    by_w0, by_w2 = (
        _reduced(part, w.shape[0]).to(w.dtype)
        for part, w in zip(keyed.chunk(2, dim=-1), (w0, w2), strict=True)
    )
    return by_kv, by_rates, by_w0, by_w2, by_w1


gradient_operator.register_autograd(_gradient_backward, setup_context=_gradient_setup)


# --- what the dispatcher calls -------------------------------------------------------------------


def gradient(
    weights: FastWeights, packed_kv: Tensor, rates: Tensor, writes: Collection[str]
) -> Tensor:
    """reference.fast_weight_gradient on these operators."""
    names = written(writes)
    down = None if names == ("w1",) else weights.w1.mT
    sums = gradient_operator(packed_kv, rates, weights.w0, weights.w2, down)
    if down is None or names == MATRICES:
        return sums
    return torch.stack([sums[:, MATRICES.index(name)] for name in names], dim=1)


def apply(weights: FastWeights, packed_q: Tensor) -> Tensor:
    """reference.fast_weight_apply on these operators."""
    return apply_operator(packed_q, weights.w0, weights.w2, weights.w1.mT)
