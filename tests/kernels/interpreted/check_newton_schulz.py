"""The Triton Newton-Schulz in the interpreter, in float32, against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.newton_schulz import chain, launch, operators, plan, reference

SHAPES = [(2, 48, 80), (1, 160, 320)]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_chain_is_the_reference(shape: tuple[int, int, int]) -> None:
    matrices = random(*shape)
    result, unit, norm = chain.forward(matrices.float(), 2, torch.float32, torch.float32, (1, 1))
    assert relative(result, reference.newton_schulz(matrices, 2)) < 3e-6
    assert relative(norm, matrices.flatten(1).norm(dim=1)) < 1e-6
    assert relative(unit, matrices / matrices.flatten(1).norm(dim=1)[:, None, None]) < 1e-6


@pytest.mark.parametrize("phases", [(3,), (2, 1), (4, 1)], ids=str)
def test_steps_on_the_gram_matrix_are_the_same_steps(phases: tuple[int, ...]) -> None:
    matrices, steps = random(2, 48, 80), sum(phases)
    result, _, _ = chain.forward(
        matrices.float(), steps, torch.float32, torch.float32, phases, together=1
    )
    assert relative(result, reference.newton_schulz(matrices, steps)) < 3e-5


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((2, 48, 80), 1e-6), ((1, 48, 80), 1e6), ((1, 176, 208), 1.0), ((1, 48, 80), 1e-12)],
)
def test_the_backward_is_autograd_of_the_reference(
    shape: tuple[int, int, int], scale: float
) -> None:
    matrices, gradient = random(*shape).requires_grad_(), scale * random(*shape).flip(0, 1)
    reference.newton_schulz(matrices, 2).backward(gradient)
    _, unit, norm = chain.forward(matrices.detach().float(), 2, torch.float32, torch.float32)
    found = chain.backward(gradient.float(), unit, norm, 2, torch.float32)
    assert relative(found, matrices.grad) < 1e-5


def test_a_transposed_view_and_a_zero_matrix_are_taken() -> None:
    matrices = random(2, 80, 48).float()
    matrices[0] = 0
    result, unit, norm = chain.forward(matrices.mT, 2, torch.float32, torch.float32)
    assert relative(result, reference.newton_schulz(matrices.mT.double(), 2)) < 3e-6
    found = chain.backward(torch.ones_like(result), unit, norm, 2, torch.float32)
    assert torch.isfinite(found).all()
    assert (result[0] == 0).all()


def test_the_operator_differentiates_and_agrees_with_its_fake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "OPERANDS", torch.float32)
    matrices = random(1, 32, 48).float().requires_grad_()
    arguments = (matrices, 1, torch.float32)
    torch.library.opcheck(
        operators.newton_schulz_operator,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    operators.newton_schulz_operator(*arguments)[0].square().sum().backward()
    expected = matrices.detach().double().requires_grad_()
    reference.newton_schulz(expected, 1).square().sum().backward()
    assert relative(matrices.grad, expected.grad) < 1e-5


@pytest.mark.parametrize("configuration", plan.configurations(), ids=str)
def test_every_tiling_gives_the_product(configuration: plan.Configuration) -> None:
    kind, tiles = configuration.kind, configuration.tiles
    x = launch.Stack(random(2, 1, 144, 272).float())
    s = launch.Stack(random(3, 1, 144, 144).float())
    s.tensor.copy_(s.tensor + s.tensor.mT)
    one, two = x.tensor
    p, q, out = s.tensor
    if kind in ("gram", "pair"):
        expected = one @ two.mT + two @ one.mT if kind == "pair" else one @ one.mT
        launch.symmetric_product(kind, x[0], x[kind == "pair"], s[2], tiles=tiles)
    elif kind in ("square", "mixed"):
        other = 1 if kind == "mixed" else 0
        product = p @ q + q @ p if other else p @ p
        expected = 0.5 * product + 2 * q + 3 * torch.eye(144)
        launch.symmetric_product(kind, s[0], s[other], s[2], 0.5, 2.0, 3.0, s[1], tiles=tiles)
    else:
        target = launch.stack_like(x[0].tensor, 1, 272)
        more = (s[1], x[1]) if kind == "fold" else None
        expected = p @ one + (q @ two if more else 0)
        launch.general_product(kind, s[0], x[0], target[0], more, tiles)
        out = target.tensor[0]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-3)


def test_two_batch_axes_of_any_strides_are_one_batch() -> None:
    matrices = random(2, 48, 3, 80).transpose(1, 2)
    result, unit, _ = chain.forward(matrices.float(), 2, torch.float32, torch.float32)
    assert unit.shape == (6, 48, 80)
    assert relative(result.view(matrices.shape), reference.newton_schulz(matrices, 2)) < 3e-6
