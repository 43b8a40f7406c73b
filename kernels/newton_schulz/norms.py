"""Frobenius norms and the casts around the products, in Triton: sums in a fixed order.

Every sum is made in two steps, per block of the matrix and then over the blocks, so that the same
input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _block(rows, columns, row_stride, column_stride, BR: tl.constexpr, BC: tl.constexpr):
    """Offsets and mask of this program's block of a strided matrix."""
    across = tl.cdiv(columns, BC)
    row = tl.program_id(0) // across * BR + tl.arange(0, BR)
    column = tl.program_id(0) % across * BC + tl.arange(0, BC)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return row[:, None] * row_stride + column[None, :] * column_stride, inside


@triton.jit
def _start(matrix, inner, outer_stride, inner_stride):
    """Where a matrix of two batch axes begins; the second has `inner` entries."""
    return matrix // inner * outer_stride + matrix % inner * inner_stride


@triton.jit
def _total(partial, matrix, count, STEP: tl.constexpr):
    """The sum of a matrix's partial sums [N, count]."""
    total = tl.zeros((STEP,), tl.float32)
    for start in range(0, count, STEP):
        index = start + tl.arange(0, STEP)
        total += tl.load(partial + matrix * count + index, mask=index < count, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def block_products(
    left,
    right,
    partial,
    rows,
    columns,
    inner,
    outer_stride,
    inner_stride,
    row_stride,
    column_stride,
    SQUARE: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """partial[n, block] = sum over the block of left * right (of left squared with SQUARE).

    Both [N, rows, columns] with the strides given. Grid: (blocks, N).
    """
    matrix = tl.program_id(1).to(tl.int64)
    offsets, inside = _block(rows, columns, row_stride, column_stride, BR, BC)
    offsets += _start(matrix, inner, outer_stride, inner_stride)
    x = tl.load(left + offsets, mask=inside, other=0.0).to(tl.float32)
    y = x
    if not SQUARE:
        y = tl.load(right + offsets, mask=inside, other=0.0).to(tl.float32)
    block = matrix * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial + block, tl.sum(tl.sum(x * y, 1), 0))


@triton.jit
def normalise(
    source,
    partial,
    norm,
    result,
    rows,
    columns,
    inner,
    outer_stride,
    inner_stride,
    row_stride,
    column_stride,
    epsilon,
    STEP: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """norm [N] from the partial sums of squares; result = source / (norm + epsilon), contiguous.

    source [N, rows, columns] with the strides given. Grid: (blocks, N).
    """
    matrix = tl.program_id(1).to(tl.int64)
    offsets, inside = _block(rows, columns, row_stride, column_stride, BR, BC)
    packed, _ = _block(rows, columns, columns, 1, BR, BC)
    offsets += _start(matrix, inner, outer_stride, inner_stride)
    x = tl.load(source + offsets, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(_total(partial, matrix, tl.num_programs(0), STEP))
    if tl.program_id(0) == 0:
        tl.store(norm + matrix, length)
    y = (x / (length + epsilon)).to(result.dtype.element_ty)
    tl.store(result + matrix * rows * columns + packed, y, mask=inside)


@triton.jit
def through_norm(
    gradient,
    unit,
    partial,
    gradient_norm,
    norm,
    result,
    rows,
    columns,
    epsilon,
    STEP: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """The backward of unit = matrix / (norm + epsilon), for a gradient of norm 1.

    partial: sums of gradient * unit. result = s (gradient - unit <gradient, unit> (norm + epsilon)
    / norm) with s = gradient_norm / (norm + epsilon). All contiguous [N, rows, columns]. The
    norm of a zero matrix has no slope, as in torch. Grid: (blocks, N).
    """
    matrix = tl.program_id(1).to(tl.int64)
    offsets, inside = _block(rows, columns, columns, 1, BR, BC)
    offsets += matrix * rows * columns
    g = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(unit + offsets, mask=inside, other=0.0).to(tl.float32)
    along = _total(partial, matrix, tl.num_programs(0), STEP)
    length = tl.load(norm + matrix)
    slope = tl.where(
        length > 0, along * (length + epsilon) / tl.where(length > 0, length, 1.0), 0.0
    )
    scale = tl.load(gradient_norm + matrix) / (length + epsilon)
    y = (scale * (g - slope * x)).to(result.dtype.element_ty)
    tl.store(result + offsets, y, mask=inside)
