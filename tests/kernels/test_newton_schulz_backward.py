"""The backward that the kernels run, transcribed in torch, against autograd of the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.newton_schulz import COEFFICIENTS, reference


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def backward(matrices: Tensor, gradient: Tensor, steps: int, store: torch.dtype) -> Tensor:
    """The formulas of `chain.backward` for [N, R, C], R <= C; what is kept is rounded to store."""
    a, b, c = COEFFICIENTS

    def kept(x: Tensor) -> Tensor:
        return x.to(store).to(matrices.dtype)

    norm = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    iterates = [kept(matrices / (norm + reference.EPSILON))]
    grams, polynomials = [], []
    for _ in range(steps):
        x = iterates[-1]
        gram = kept(x @ x.mT)
        polynomial = kept(b * gram + c * gram @ gram)
        grams.append(gram)
        polynomials.append(polynomial)
        iterates.append(kept(a * x + polynomial @ x))
    size = torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)
    g = kept(gradient / size)
    for x, gram, polynomial in zip(iterates[-2::-1], grams[::-1], polynomials[::-1], strict=True):
        outer = kept(g @ x.mT + x @ g.mT)
        inner = kept(b * outer + c * (outer @ gram + gram @ outer))
        g = kept(a * g + polynomial @ g + inner @ x)
    unit = iterates[0]
    along = (g * unit).sum(dim=(1, 2), keepdim=True) * (norm + reference.EPSILON) / norm
    return size * (g - along * unit) / (norm + reference.EPSILON)


def autograd(matrices: Tensor, gradient: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    matrices = matrices.clone().requires_grad_()
    result = reference.newton_schulz(matrices, steps, dtype)
    return torch.autograd.grad(result, matrices, gradient)[0]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_formulas_are_autograd_of_the_reference(steps: int) -> None:
    matrices, gradient = random(2, 12, 20), random(2, 12, 20, seed=1)
    found = backward(matrices, gradient, steps, torch.float64)
    expected = autograd(matrices, gradient, steps, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_rounded_to_half_precision_it_is_no_worse_than_the_plain_bf16_formulation(
    scale: float,
) -> None:
    matrices, gradient = random(2, 64, 96).float(), scale * random(2, 64, 96, seed=1).float()
    exact = autograd(matrices.double(), gradient.double(), 5, torch.float64)

    def error(found: Tensor) -> float:
        return float((found - exact).norm() / exact.norm())

    plain = error(autograd(matrices, gradient, 5, torch.bfloat16))
    assert error(backward(matrices, gradient, 5, torch.bfloat16)) < 1.2 * plain
    assert error(backward(matrices, gradient, 5, torch.float16)) < 0.3 * plain
