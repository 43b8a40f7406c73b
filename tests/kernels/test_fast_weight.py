"""The fast-weight reference against its definition: the inner loss, and nothing else.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from everview.kernels.fast_weight import (
    FastWeights,
    fast_weight_apply,
    fast_weight_commit,
    fast_weight_direction,
    fast_weight_gradient,
    initial_norms,
    pack,
    renormalise,
    unpack,
    written,
)

D, F = 6, 10
WRITES = [
    subset for size in (1, 2, 3) for subset in itertools.combinations(("w0", "w1", "w2"), size)
]


def random_weights(
    n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> FastWeights:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype) / shape[-2] ** 0.5

    return FastWeights(draw(n, D, F), draw(n, F, D), draw(n, D, F))


def random_tokens(
    n: int, length: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    packed_kv = torch.randn(n, length, 2 * D, generator=generator, dtype=dtype)
    rates = torch.rand(n, length, 3, generator=generator, dtype=dtype)
    packed_q = torch.randn(n, length, D, generator=generator, dtype=dtype)
    return packed_kv, rates, packed_q


def by_definition(weights: FastWeights, x: Tensor) -> Tensor:
    """f(x) = (silu(x W0) * (x W2)) W1, token by token."""
    return torch.stack(
        [
            torch.stack([(functional.silu(t @ w0) * (t @ w2)) @ w1 for t in tokens])
            for tokens, w0, w1, w2 in zip(x, *weights, strict=True)
        ]
    )


def keys_and_values(packed_kv: Tensor) -> tuple[Tensor, Tensor]:
    key, value = functional.silu(packed_kv).chunk(2, dim=-1)
    return key / (key.norm(dim=-1, keepdim=True) + 1e-5), value


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("length", [1, 7, 33])
@pytest.mark.parametrize("matrix", ["w0", "w1", "w2"])
def test_the_gradient_is_minus_autograds_of_the_rated_inner_loss(
    generator: torch.Generator, matrix: str, length: int
) -> None:
    weights = random_weights(3, generator)
    packed_kv, rates, _ = random_tokens(3, length, generator)
    key, value = keys_and_values(packed_kv)
    leaf = getattr(weights, matrix).clone().requires_grad_()
    rate = rates[..., ["w0", "w1", "w2"].index(matrix)]
    loss = -(rate * (by_definition(weights._replace(**{matrix: leaf}), key) * value).sum(-1)).sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    found = getattr(unpack(fast_weight_gradient(weights, packed_kv, rates)), matrix)
    torch.testing.assert_close(found, -expected, rtol=1e-12, atol=1e-12)


def test_the_read_is_the_network_on_unit_queries(generator: torch.Generator) -> None:
    weights = random_weights(2, generator)
    *_, packed_q = random_tokens(2, 5, generator)
    query = functional.silu(packed_q)
    query = query / (query.norm(dim=-1, keepdim=True) + 1e-5)
    found = fast_weight_apply(weights, packed_q)
    torch.testing.assert_close(found, by_definition(weights, query), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("writes", WRITES, ids="+".join)
def test_what_is_not_written_is_absent_and_the_rest_unchanged(
    generator: torch.Generator, writes: tuple[str, ...]
) -> None:
    weights = random_weights(2, generator)
    packed_kv, rates, _ = random_tokens(2, 9, generator)
    every = unpack(fast_weight_gradient(weights, packed_kv, rates))
    some = fast_weight_gradient(weights, packed_kv, rates, writes)
    if writes == ("w1",):  # its gradient doesn't need the matrix itself
        some = fast_weight_gradient(weights._replace(w1=None), packed_kv, rates, writes)
    assert some.shape == (2, len(writes), D, F)
    assert fast_weight_direction(some).shape == some.shape
    for name, part in unpack(some, writes)._asdict().items():
        assert (part is None) == (name not in writes)
        assert part is None or torch.equal(part, getattr(every, name))


@pytest.mark.parametrize("writes", WRITES, ids="+".join)
def test_unpacking_returns_what_was_packed(
    generator: torch.Generator, writes: tuple[str, ...]
) -> None:
    weights = random_weights(2, generator)
    back = unpack(pack(weights, writes), writes)
    for name in ("w0", "w1", "w2"):
        part = getattr(back, name)
        assert torch.equal(part, getattr(weights, name)) if name in writes else part is None
    with pytest.raises(ValueError, match="some of w0, w1, w2"):
        written(("w3",))


def test_sums_over_chunks_of_tokens_add_up(generator: torch.Generator) -> None:
    weights = random_weights(2, generator)
    packed_kv, rates, _ = random_tokens(2, 29, generator)
    whole = fast_weight_gradient(weights, packed_kv, rates)
    cuts = [slice(0, 1), slice(1, 12), slice(12, 29)]
    parts = [fast_weight_gradient(weights, packed_kv[:, c], rates[:, c]) for c in cuts]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-12, atol=1e-12)


def test_strided_tokens_give_what_contiguous_ones_give(generator: torch.Generator) -> None:
    weights = random_weights(2, generator)
    packed_kv, rates, packed_q = random_tokens(2, 26, generator)
    for strided in (slice(None, None, 2), slice(1, 24, 3)):
        delta = fast_weight_gradient(weights, packed_kv[:, strided], rates[:, strided])
        same = fast_weight_gradient(
            weights, packed_kv[:, strided].contiguous(), rates[:, strided].contiguous()
        )
        torch.testing.assert_close(delta, same, rtol=1e-12, atol=1e-12)
        read = fast_weight_apply(weights, packed_q[:, strided])
        same_read = fast_weight_apply(weights, packed_q[:, strided].contiguous())
        torch.testing.assert_close(read, same_read, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_matrix_shared_by_the_batch_gives_what_its_copies_give(
    generator: torch.Generator, heads: int
) -> None:
    batch = 2
    weights = random_weights(heads, generator)
    copies = FastWeights(*(w.repeat(batch, 1, 1) for w in weights))
    packed_kv, rates, packed_q = random_tokens(batch * heads, 8, generator)
    read, expected = fast_weight_apply(weights, packed_q), fast_weight_apply(copies, packed_q)
    torch.testing.assert_close(read, expected, rtol=1e-12, atol=1e-12)
    delta = fast_weight_gradient(weights, packed_kv, rates)
    own = fast_weight_gradient(copies, packed_kv, rates)
    torch.testing.assert_close(delta, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_step_zero_keeps_the_weight_bit_for_bit_whatever_the_direction(
    generator: torch.Generator, broken: float
) -> None:
    start = random_weights(3, generator, torch.float32)
    weights, norms = pack(start), initial_norms(start)
    direction = torch.randn(weights.shape, generator=generator)
    direction[0] = broken
    moved = fast_weight_commit(weights, direction, torch.tensor([0.0, 1.0, 0.5]), norms)
    assert torch.equal(moved[0], weights[0])
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved[1], weights[1])


def test_a_commit_restores_the_norms_it_is_given(generator: torch.Generator) -> None:
    start = random_weights(2, generator)
    norms, weights = initial_norms(start), pack(start)
    for _ in range(50):
        direction = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
        weights = fast_weight_commit(weights, direction, torch.ones(2), norms)
    after = unpack(weights)
    for now, before in zip(after, start, strict=True):
        torch.testing.assert_close(now.norm(dim=-2), before.norm(dim=-2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_have_norms_of_their_own(generator: torch.Generator, heads: int) -> None:
    """A head varies fastest in the batch, and `norms` has one entry a head."""
    start = random_weights(heads, generator)
    weights = pack(random_weights(2 * heads, generator))
    moved = renormalise(weights, initial_norms(start))
    for name, part in unpack(moved)._asdict().items():
        expected = getattr(start, name).norm(dim=-2).repeat(2, 1)
        torch.testing.assert_close(part.norm(dim=-2), expected, rtol=1e-4, atol=0)


def test_sgd_moves_along_the_sum_itself(generator: torch.Generator) -> None:
    delta = pack(random_weights(2, generator))
    assert fast_weight_direction(delta, "sgd") is delta
    with pytest.raises(ValueError, match="muon or sgd"):
        fast_weight_direction(delta, "adam")


def test_update_and_read_pass_gradcheck(generator: torch.Generator) -> None:
    """The outer gradient, through the inner one, Newton-Schulz, renormalisation and read."""
    weights = random_weights(1, generator)
    packed_kv, rates, packed_q = random_tokens(1, 4, generator)
    step = torch.tensor([0.7], dtype=torch.float64)

    def write_then_read(*tensors: Tensor) -> Tensor:
        w0, w1, w2, packed_kv, rates, packed_q, step = tensors
        start = FastWeights(w0, w1, w2)
        direction = fast_weight_direction(fast_weight_gradient(start, packed_kv, rates))
        moved = fast_weight_commit(pack(start), direction, step, initial_norms(start))
        return fast_weight_apply(unpack(moved), packed_q)

    inputs = [t.clone().requires_grad_() for t in (*weights, packed_kv, rates, packed_q, step)]
    assert torch.autograd.gradcheck(write_then_read, inputs, fast_mode=True)
