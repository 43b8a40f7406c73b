"""Newton-Schulz and its backward as chains of products.

Forward, per step, with coefficients a, b, c:
    A = X X^T;   P = b A + c A A;   X' = a X + P X

Backward, with G = dL/dX' and A, P symmetric:
    S = G X^T + X G^T               (dL/dP and its transpose)
    M = b S + c (S A + A S)         (dL/dA and its transpose)
    dL/dX = a G + P G + M X
The backward is linear in G, so G is kept at norm 1 until the end: gradients of 1e-6 or 1e6 lose
nothing in half precision.

Shapes: N matrices, R rows, C columns, R <= C.
"""

from __future__ import annotations

import torch
from torch import Tensor

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

_TINY = 1e-30


def forward(
    matrices: Tensor, steps: int, operands: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The result [N, R, C] in `dtype`, the normalised input in `operands`, and its norms [N]."""
    unit = torch.empty(matrices.shape, dtype=operands, device=matrices.device)
    norm = normalise(matrices, unit, EPSILON)
    result = torch.empty(matrices.shape, dtype=dtype, device=matrices.device)
    grams, iterates = stack_like(unit, 2, unit.shape[1]), stack_like(unit, 2, unit.shape[2])
    x = Stack(unit[None])[0]
    for step in range(steps):
        target = Stack(result[None])[0] if step == steps - 1 else iterates[step % 2]
        _polynomial(x, grams[0], grams[1])
        general_product("update", grams[1], x, x, COEFFICIENTS[0], target)
        x = target
    return result, unit, norm


def backward(
    gradient: Tensor, unit: Tensor, norm: Tensor, steps: int, dtype: torch.dtype
) -> Tensor:
    """dL/d(matrices) in `dtype` from dL/d(result) [N, R, C], by way of the iterates anew."""
    a, b, c = COEFFICIENTS
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
            polynomial = square[steps + step]
            general_product("update", polynomial, wide[step], wide[step], a, wide[step + 1])
    g = wide[steps]
    gradient_norm = normalise(gradient, g.tensor, _TINY)
    last = Stack(torch.empty(unit.shape, dtype=torch.float32, device=unit.device)[None])[0]
    for step in reversed(range(steps)):
        x, gram, polynomial = wide[step], square[step], square[steps + step]
        symmetric_product("pair", g, x, outer)
        symmetric_product("mixed", outer, gram, inner, alpha=c, beta=b, addend=outer)
        target = last if step == 0 else wide[2 * steps + 1 - g.slot]
        general_product("fold", polynomial, g, g, a, target, more=(inner, x))
        g = target
    result = torch.empty(unit.shape, dtype=dtype, device=unit.device)
    through_norm(last.tensor, unit, gradient_norm, norm, result, EPSILON)
    return result


def _polynomial(x: Operand, gram: Operand, polynomial: Operand) -> None:
    """gram = X X^T and polynomial = b gram + c gram^2."""
    _, b, c = COEFFICIENTS
    symmetric_product("gram", x, x, gram)
    symmetric_product("square", gram, gram, polynomial, alpha=c, beta=b, addend=gram)
