"""The batched matrix products of Newton-Schulz and of its backward, in Triton for sm_90.

Operands come through tensor descriptors [K, rows, columns] (TMA): what lies outside a matrix reads
as zero and is never written, so sides need not divide into tiles. K counts the matrices of a
stack of several such batches; an operand is named by the number of its first matrix there. Half
precision operands, float32 sums.

Chaining the kernels by programmatic dependent launch was slower on an H100: 165 us for 140 at
(3, 768, 1536), 475 for 433 at (12, 768, 1536).
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _lower_tile(index, BM: tl.constexpr, BN: tl.constexpr):
    """Top and left of the tile of that number in the squares on and below the diagonal, and
    whether its square is below. A square's side is the longer of a tile's."""
    SIDE: tl.constexpr = BM if BM > BN else BN
    COUNT: tl.constexpr = SIDE // BM * (SIDE // BN)
    square = index // COUNT
    row = ((tl.sqrt(8.0 * square + 1.0) - 1.0) * 0.5).to(tl.int32)
    # one off either way, should the root have been rounded
    row = tl.where(row * (row + 1) // 2 > square, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= square, row + 1, row)
    column = square - row * (row + 1) // 2
    part = index % COUNT
    top = row * SIDE + (part * BM if BM < SIDE else 0)
    left = column * SIDE + (part * BN if BN < SIDE else 0)
    return top, left, column < row


@triton.jit
def _addend(pointer, matrix, top, left, rows, BM: tl.constexpr, BN: tl.constexpr):
    """A tile of a contiguous [N, rows, rows]; fetched before the loop, needed after it."""
    row = top + tl.arange(0, BM)
    column = left + tl.arange(0, BN)
    start = pointer + matrix.to(tl.int64) * rows * rows
    inside = (row < rows)[:, None] & (column < rows)[None, :]
    return tl.load(start + row[:, None] * rows + column[None, :], mask=inside, other=0.0)


@triton.jit
def _tile(source, matrix, top, left, TOP: tl.constexpr, LEFT: tl.constexpr):
    return source.load([matrix, top, left]).reshape(TOP, LEFT)


@triton.jit(do_not_specialize=["u_first", "v_first", "result_first"])
def symmetric_product(
    by_rows,
    by_columns,
    addend,
    result,
    mirrored,
    u_first,
    v_first,
    result_first,
    rows,
    inner,
    alpha,
    beta,
    gamma,
    TWICE: tl.constexpr,
    ADD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """result = alpha (U V^T [+ V U^T with TWICE]) [+ beta addend + gamma I with ADD], symmetric.

    by_rows gives U [N, rows, inner] in blocks BM x BK and by_columns V in BN x BK; with TWICE
    both lie in one stack that both give. result [N, rows, rows]: blocks BM x BN, and
    mirrored BN x BM. Without TWICE the caller vouches for the symmetry. Grid: (tiles of the
    squares on and below the diagonal, N).
    """
    top, left, below = _lower_tile(tl.program_id(0), BM, BN)
    matrix = tl.program_id(1)
    steps = tl.cdiv(inner, BK)
    if ADD:
        added = _addend(addend, matrix, top, left, rows, BM, BN)
    total = tl.zeros((BM, BN), tl.float32)
    # one loop for both products: loads of the second fly during the first
    for step in range(0, 2 * steps if TWICE else steps):
        swapped = step >= steps
        k = (step - steps if swapped else step) * BK
        above = _tile(by_rows, (v_first if swapped else u_first) + matrix, top, k, BM, BK)
        beside = _tile(by_columns, (u_first if swapped else v_first) + matrix, left, k, BN, BK)
        total = tl.dot(above, beside.T, total, input_precision="ieee")
    total *= alpha
    if ADD:
        diagonal = (top + tl.arange(0, BM))[:, None] == (left + tl.arange(0, BN))[None, :]
        # one after the other: their sum would be made, and moved, in the addend's layout
        total += beta * added.to(tl.float32)
        total = tl.where(diagonal, total + gamma, total)
    tile = total.to(result.dtype)
    result.store([result_first + matrix, top, left], tile.reshape(1, BM, BN))
    if below:
        mirrored.store([result_first + matrix, left, top], tile.T.reshape(1, BN, BM))


@triton.jit(
    do_not_specialize=["left_one", "right_one", "left_two", "right_two", "result_first"],
)
def general_product(
    lefts,
    rights,
    result,
    left_one,
    right_one,
    left_two,
    right_two,
    result_first,
    rows,
    columns,
    TWICE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """result = left_one right_one [+ left_two right_two with TWICE].

    lefts [K, rows, rows] in blocks BM x BK, rights [K, rows, columns] in blocks BK x BN; result
    [N, rows, columns]. Grid: (tiles, N), down a column of tiles first: they share their right
    operand.
    """
    down = tl.cdiv(rows, BM)
    top = tl.program_id(0) % down * BM
    left = tl.program_id(0) // down * BN
    matrix = tl.program_id(1)
    steps = tl.cdiv(rows, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(0, 2 * steps if TWICE else steps):
        second = step >= steps
        k = (step - steps if second else step) * BK
        one = _tile(lefts, (left_two if second else left_one) + matrix, top, k, BM, BK)
        other = _tile(rights, (right_two if second else right_one) + matrix, k, left, BK, BN)
        total = tl.dot(one, other, total, input_precision="ieee")
    tile = total.to(result.dtype)
    result.store([result_first + matrix, top, left], tile.reshape(1, BM, BN))
