"""Newton-Schulz and its backward as chains of products.

Forward, per step, with coefficients a, b, c:
    A = X X^T;   B = a I + b A + c A A;   X' = B X

Everything made of A alone commutes, so several steps can run on R x R matrices: A' = B A B, and
their polynomials multiply up, Q' = B Q, until X' = Q X ends the phase. Rounding errors grow within
a phase; up to three steps in float16 stay below a quarter of the plain bf16 formulation's error
(five don't), measured in torch for Gaussian matrices and for singular values decaying as 1/k.

Backward, with G = dL/dX', and A and B symmetric:
    S = G X^T + X G^T               (dL/dB and its transpose)
    M = b S + c (S A + A S)         (dL/dA and its transpose)
    dL/dX = B G + M X
It is linear in G, so G is kept at norm 1 until the end: gradients of 1e-6 or 1e6 lose nothing in
half precision.

Shapes: N matrices, R rows, C columns, R <= C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from everview.kernels.backend import on_its_device
from everview.kernels.newton_schulz import plan
from everview.kernels.newton_schulz.launch import (
    Operand,
    Stack,
    general_product,
    normalise,
    stack_like,
    symmetric_product,
    through_norm,
)
from everview.kernels.newton_schulz.reference import COEFFICIENTS, EPSILON

_TINY = 1e-18  # squares under 1e-38 are zero: a norm may be too, where entries are not


@on_its_device
def forward(
    matrices: Tensor,
    steps: int,
    operands: torch.dtype,
    dtype: torch.dtype,
    phases: tuple[int, ...] | None = None,
    together: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result [N, R, C] in `dtype`, the normalised input in `operands`, and its norms [N].

    matrices: [N, R, C], or with two batch axes that make up N, of any strides.
    phases: steps that run on R x R matrices at a time. together: matrices that go through all
    of them at a time. Both are the plan's choice unless given.
    """
    *batch, rows, columns = matrices.shape
    n = math.prod(batch)
    phases = phases or plan.phases(steps, n, rows, columns)
    together = together or plan.TOGETHER.get((n, rows, columns), n)
    unit = torch.empty((n, rows, columns), dtype=operands, device=matrices.device)
    norm = normalise(matrices, unit, EPSILON)
    result = torch.empty(unit.shape, dtype=dtype, device=matrices.device)
    for some, results in zip(unit.split(together), result.split(together), strict=True):
        _iterate(some, results, phases)
    return result, unit, norm


def _iterate(unit: Tensor, result: Tensor, phases: tuple[int, ...]) -> None:
    """All phases for the normalised matrices `unit`, into `result`."""
    _, rows, columns = unit.shape
    squares = stack_like(unit, 2 if max(phases) == 1 else 5, rows)
    iterates = stack_like(unit, min(2, len(phases) - 1), columns)
    x = Stack(unit[None])[0]
    for place, length in enumerate(phases):
        last = place == len(phases) - 1
        target = Stack(result[None])[0] if last else iterates[place % 2]
        general_product("update", _phase(x, length, squares), x, target)
        x = target


def _phase(x: Operand, length: int, squares: Stack) -> Operand:
    """The polynomial Q of X X^T that takes X through `length` steps, in one of `squares`."""
    gram, polynomial = squares[0], squares[1]
    _polynomial(x, gram, polynomial)
    if length == 1:
        return polynomial
    half, factor, spare = squares[2], squares[3], squares[4]
    now = polynomial  # B of this step
    for _ in range(1, length):
        symmetric_product("gram", now, gram, half)
        symmetric_product("gram", now, half, gram)
        now = factor
        _of_gram(gram, now)
        symmetric_product("gram", now, polynomial, spare)
        polynomial, spare = spare, polynomial
    return polynomial


@on_its_device
def backward(
    gradient: Tensor, unit: Tensor, norm: Tensor, steps: int, dtype: torch.dtype
) -> Tensor:
    """dL/d(matrices) in `dtype` from dL/d(result) [N, R, C], by way of the iterates anew."""
    _, b, c = COEFFICIENTS
    rows, columns = unit.shape[1:]
    # iterates, then the gradient to and fro; grams, polynomials, S and M: one stack each, since
    # the two products of one launch share a stack
    wide = stack_like(unit, steps + 2, columns)
    square = stack_like(unit, 2 * steps + 2, rows)
    outer, inner = square[2 * steps], square[2 * steps + 1]
    wide[0].tensor.copy_(unit)
    for step in range(steps):
        _polynomial(wide[step], square[step], square[steps + step])
        if step < steps - 1:
            general_product("update", square[steps + step], wide[step], wide[step + 1])
    g = wide[steps]
    gradient_norm = normalise(gradient, g.tensor, _TINY)
    last = Stack(torch.empty(unit.shape, dtype=torch.float32, device=unit.device)[None])[0]
    for step in reversed(range(steps)):
        x, gram, polynomial = wide[step], square[step], square[steps + step]
        symmetric_product("pair", g, x, outer)
        symmetric_product("mixed", outer, gram, inner, alpha=c, beta=b, addend=outer)
        target = last if step == 0 else wide[2 * steps + 1 - g.slot]
        general_product("fold", polynomial, g, target, more=(inner, x))
        g = target
    result = torch.empty(unit.shape, dtype=dtype, device=unit.device)
    through_norm(last.tensor, unit, gradient_norm, norm, result, EPSILON)
    return result


def _polynomial(x: Operand, gram: Operand, polynomial: Operand) -> None:
    """gram = X X^T and polynomial = a I + b gram + c gram^2."""
    symmetric_product("gram", x, x, gram)
    _of_gram(gram, polynomial)


def _of_gram(gram: Operand, polynomial: Operand) -> None:
    a, b, c = COEFFICIENTS
    symmetric_product("square", gram, gram, polynomial, alpha=c, beta=b, gamma=a, addend=gram)
