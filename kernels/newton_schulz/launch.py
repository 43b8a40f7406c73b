"""Launching the kernels of Newton-Schulz: stacks of matrices, descriptors, grids.

Everything here only enqueues: no host waits, no shapes that depend on data, so that a CUDA graph
can hold it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from everview.kernels.newton_schulz import norms, plan, products

_BLOCK_ROWS, _BLOCK_COLUMNS, _SUM_STEP = 32, 128, 512


class Stack:
    """Several batches of matrices in one contiguous tensor [S, N, R, C], and its descriptors."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.matrices = tensor.shape[1]
        self._descriptors: dict[tuple[int, int], Any] = {}

    def __getitem__(self, slot: int) -> Operand:
        return Operand(self, slot)

    def blocks(self, rows: int, columns: int) -> Any:
        """The descriptor of all S x N matrices in blocks of that size."""
        key = (rows, columns)
        if key not in self._descriptors:
            flat = self.tensor.flatten(0, 1)
            self._descriptors[key] = TensorDescriptor.from_tensor(flat, [1, rows, columns])
        return self._descriptors[key]


@dataclasses.dataclass(frozen=True)
class Operand:
    """One batch [N, R, C] of a stack."""

    stack: Stack
    slot: int

    @property
    def first(self) -> int:
        """The number of its first matrix in the stack."""
        return self.slot * self.stack.matrices

    @property
    def tensor(self) -> Tensor:
        return self.stack.tensor[self.slot]


def stack_like(operand: Tensor, slots: int, columns: int) -> Stack:
    """An uninitialised stack of batches [N, R, columns] beside the batch `operand` [N, R, C]."""
    n, rows, _ = operand.shape
    return Stack(operand.new_empty(slots, n, rows, columns))


def symmetric_product(
    kind: plan.Kind,
    u: Operand,
    v: Operand,
    result: Operand,
    alpha: float = 1.0,
    beta: float = 0.0,
    gamma: float = 0.0,
    addend: Operand | None = None,
    tiles: plan.Tiles | None = None,
) -> None:
    """result = alpha (U V^T [+ V U^T for a kind of two]) [+ beta addend + gamma I], one launch.

    u and v are of one stack for a kind of two. tiles: the plan's choice unless given.
    """
    n, rows, inner = u.tensor.shape
    tiles = tiles or plan.choose(kind, n, rows, inner)
    products.symmetric_product[(plan.tile_count(kind, tiles, rows, inner), n)](
        u.stack.blocks(tiles.rows, tiles.depth),
        v.stack.blocks(tiles.columns, tiles.depth),
        None if addend is None else addend.tensor,
        result.stack.blocks(tiles.rows, tiles.columns),
        result.stack.blocks(tiles.columns, tiles.rows),
        u.first,
        v.first,
        result.first,
        rows,
        inner,
        alpha,
        beta,
        gamma,
        TWICE=plan.twice(kind),
        ADD=addend is not None,
        **_constants(tiles),
    )


def general_product(
    kind: plan.Kind,
    left: Operand,
    right: Operand,
    result: Operand,
    more: tuple[Operand, Operand] | None = None,
    tiles: plan.Tiles | None = None,
) -> None:
    """result = left right [+ the product of `more`], one launch.

    more: a left of left's stack and a right of right's stack. tiles: the plan's choice unless
    given.
    """
    n, rows, columns = right.tensor.shape
    tiles = tiles or plan.choose(kind, n, rows, columns)
    left_two, right_two = more or (left, right)
    products.general_product[(plan.tile_count(kind, tiles, rows, columns), n)](
        left.stack.blocks(tiles.rows, tiles.depth),
        right.stack.blocks(tiles.depth, tiles.columns),
        result.stack.blocks(tiles.rows, tiles.columns),
        left.first,
        right.first,
        left_two.first,
        right_two.first,
        result.first,
        rows,
        columns,
        TWICE=more is not None,
        **_constants(tiles),
    )


def normalise(source: Tensor, result: Tensor, epsilon: float) -> Tensor:
    """result = source / (norm + epsilon), contiguous; the Frobenius norms [N] are returned.

    source [N, R, C], or with two batch axes that make up N, of any strides and floating type.
    """
    partial = _block_products(source, source)
    norm = partial.new_empty(len(result))
    rows, columns = source.shape[-2:]
    norms.normalise[_grid(source)](
        source, partial, norm, result, rows, columns, *_strides(source), epsilon, **_sums()
    )
    return norm


def _strides(matrices: Tensor) -> tuple[int, ...]:
    """Entries of the second batch axis, the strides of both, of rows and of columns."""
    if matrices.ndim == 3:
        return 1, matrices.stride(0), 0, *matrices.stride()[1:]
    return matrices.shape[1], *matrices.stride()


def through_norm(
    gradient: Tensor,
    unit: Tensor,
    gradient_norm: Tensor,
    norm: Tensor,
    result: Tensor,
    epsilon: float,
) -> None:
    """The backward of `normalise`, for gradient = (the real one) / gradient_norm; see norms.py."""
    partial = _block_products(gradient, unit)
    _, rows, columns = unit.shape
    norms.through_norm[_grid(unit)](
        gradient, unit, partial, gradient_norm, norm, result, rows, columns, epsilon, **_sums()
    )


def _block_products(left: Tensor, right: Tensor) -> Tensor:
    """Partial sums [N, blocks] of left * right, which have the same strides."""
    blocks, n = _grid(left)
    partial = torch.empty(n, blocks, dtype=torch.float32, device=left.device)
    shape = left.shape[-2:]
    options = _sums()
    del options["STEP"]
    norms.block_products[_grid(left)](
        left, right, partial, *shape, *_strides(left), SQUARE=left is right, **options
    )
    return partial


def _grid(matrices: Tensor) -> tuple[int, int]:
    *batch, rows, columns = matrices.shape
    return -(-rows // _BLOCK_ROWS) * -(-columns // _BLOCK_COLUMNS), math.prod(batch)


def _sums() -> dict[str, Any]:
    return {
        "STEP": _SUM_STEP,
        "BR": _BLOCK_ROWS,
        "BC": _BLOCK_COLUMNS,
        "num_warps": 4,
    }


def _constants(tiles: plan.Tiles) -> dict[str, Any]:
    return {
        "BM": tiles.rows,
        "BN": tiles.columns,
        "BK": tiles.depth,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
