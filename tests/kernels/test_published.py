"""The baseline is the published formulation: against its inner loss, and against ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.fast_weight import (
    FastWeights,
    fast_weight_apply,
    fast_weight_commit,
    fast_weight_direction,
    fast_weight_gradient,
    initial_norms,
    pack,
    unpack,
)
from everview.kernels.newton_schulz import newton_schulz
from everview.kernels.published import (
    PublishedWeights,
    published_apply,
    published_newton_schulz,
    published_prologue,
    published_update,
)

N, L, D, F = 2, 13, 8, 16


@pytest.fixture
def weights() -> PublishedWeights:
    torch.manual_seed(5)
    shapes = ((N, D, F), (N, F, D), (N, D, F))
    return PublishedWeights(*(torch.randn(s, dtype=torch.float64) / s[1] ** 0.5 for s in shapes))


@pytest.fixture
def qkv() -> Tensor:
    torch.manual_seed(6)
    return torch.randn(N, L, 3 * D, dtype=torch.float64)


@pytest.fixture
def rates() -> Tensor:
    torch.manual_seed(7)
    return torch.rand(N, L, 3, dtype=torch.float64)


def test_the_update_follows_the_gradient_of_the_inner_loss(
    weights: PublishedWeights, qkv: Tensor, rates: Tensor
) -> None:
    _, key, value = published_prologue(qkv)
    updated = published_update(weights, key, value, rates)
    for index, weight in enumerate(weights):
        leaf = weight.clone().requires_grad_()
        with_leaf = PublishedWeights(*(leaf if i == index else w for i, w in enumerate(weights)))
        fit = (published_apply(with_leaf, key) * value).sum(-1)
        (gradient,) = torch.autograd.grad(-(rates[..., index] * fit).sum(), leaf)
        moved = weight + newton_schulz(-gradient)
        expected = moved / (moved.norm(dim=-2, keepdim=True) + 1e-5)
        expected = expected * weight.norm(dim=-2, keepdim=True)
        torch.testing.assert_close(updated[index], expected, rtol=1e-10, atol=1e-10)


def test_update_and_apply_equal_ours_with_all_matrices_written(
    weights: PublishedWeights, qkv: Tensor, rates: Tensor
) -> None:
    query, key, value = published_prologue(qkv)
    published = published_update(weights, key, value, rates)
    start = FastWeights(*weights)
    direction = fast_weight_direction(fast_weight_gradient(start, qkv[..., D:], rates))
    step = torch.ones(N, dtype=torch.float64)
    ours = unpack(fast_weight_commit(pack(start), direction, step, initial_norms(start)))
    torch.testing.assert_close(tuple(published), tuple(ours), rtol=1e-11, atol=1e-11)
    read = published_apply(published, query)
    torch.testing.assert_close(read, fast_weight_apply(ours, qkv[..., :D]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 5, 9), (3, 9, 5)], ids=str)
def test_newton_schulz_is_the_same_iteration(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(8)
    matrices = torch.randn(shape, dtype=torch.float64)
    ours = newton_schulz(matrices)
    torch.testing.assert_close(published_newton_schulz(matrices), ours, rtol=1e-11, atol=1e-11)
