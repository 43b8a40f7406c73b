"""`everview::newton_schulz` and its backward as operators of torch: opaque to torch.compile.

Both take matrices with R <= C, R and C multiples of 16, on a CUDA device; the public function
turns tall ones. Triton is imported by the first call.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

OPERANDS = torch.float16
"""What the kernels keep and multiply. Everything here is normalised (iterates, their grams and
polynomials stay below 4, gradients below 2^14), so bfloat16's range is of no use and float16's
three more bits cost nothing: an eighth of bfloat16's error."""


@torch.library.custom_op("everview::newton_schulz", mutates_args=())
def newton_schulz_operator(
    matrices: Tensor, steps: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Result in dtype, of the shape of matrices [N, R, C] or [N, M, R, C] (any strides); for the
    backward the normalised input [N M, R, C] and its norms [N M]."""
    from everview.kernels.newton_schulz import chain

    result, unit, norm = chain.forward(matrices, steps, OPERANDS, dtype)
    return result.view(matrices.shape), unit, norm


@newton_schulz_operator.register_fake
def _(matrices: Tensor, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    *batch, rows, columns = matrices.shape
    n = math.prod(batch)
    return (
        matrices.new_empty(matrices.shape, dtype=dtype),
        matrices.new_empty((n, rows, columns), dtype=OPERANDS),
        matrices.new_empty((n,), dtype=torch.float32),
    )


@torch.library.custom_op("everview::newton_schulz_backward", mutates_args=())
def newton_schulz_backward_operator(
    gradient: Tensor, unit: Tensor, norm: Tensor, steps: int, dtype: torch.dtype
) -> Tensor:
    """dL/d(matrices) [N, R, C] in dtype, from dL/d(result)."""
    from everview.kernels.newton_schulz import chain

    return chain.backward(gradient, unit, norm, steps, dtype)


@newton_schulz_backward_operator.register_fake
def _(gradient: Tensor, unit: Tensor, norm: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    return unit.new_empty(unit.shape, dtype=dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    matrices, ctx.steps, _ = inputs
    _, unit, norm = output
    ctx.mark_non_differentiable(unit, norm)
    ctx.set_materialize_grads(False)
    ctx.dtype = matrices.dtype
    ctx.save_for_backward(unit, norm)


def _differentiate(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None]:
    if gradient is None:
        return None, None, None
    unit, norm = ctx.saved_tensors
    flat = gradient.reshape(unit.shape)
    found = newton_schulz_backward_operator(flat, unit.contiguous(), norm, ctx.steps, ctx.dtype)
    return found.view(gradient.shape), None, None


newton_schulz_operator.register_autograd(_differentiate, setup_context=_remember)
