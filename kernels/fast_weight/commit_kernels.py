"""Triton kernels of the commit, forward and backward: every tensor is read once and written once.

A program holds a few whole weight vectors in registers and goes through them in three or four
chunks. Those of w0 and w2 run down the columns of [D, F], those of w1 (transposed) along its rows:
grid axis 0 has the blocks of COLUMNS vectors of COLUMN_MATRICES matrices (0 to 2), then those of
ROWS vectors of ROW_MATRICES (0 or 1); axis 1 has the N batch elements. Where the step is 0 the
weight itself counts as displaced and its ratio is 1: the same bits come out, whatever the direction
holds.

Mathematics: elastic.py. Backward, with x the vector before renormalisation, r = |x| + 1e-5, t its
target norm, p the gradient by the result and F the new importance:
    dx = t/r p - x (p.x) t / (r^2 |x|),   dt = (p.x) / r
    dw = dx (1 - lambda F),   ddirection = step dw,   dstep = direction . dw
"""

# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005 (Triton adds tuples, but can't unpack one into another)
from __future__ import annotations

import triton
import triton.language as tl

_EPSILON = tl.constexpr(1e-5)


@triton.jit
def _vectors(
    column_norm0, column_norm1, row_norm, block, head, width, hidden,
    COLUMN_MATRICES: tl.constexpr, VECTORS: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    """Block `block` of the weight vectors along axis ALONG (0: down the columns).

    Returns their matrix, places in it, which of them exist, and their target norms.
    """
    if ALONG == 0:
        across = tl.cdiv(hidden, VECTORS)
        matrix = block // across
        place = block % across * VECTORS + tl.arange(0, VECTORS)
        exists = place < hidden
        at = head * hidden + place
        norm = tl.load(column_norm0 + at, mask=exists & (matrix == 0), other=0.0).to(tl.float32)
        if COLUMN_MATRICES > 1:
            second = tl.load(column_norm1 + at, mask=exists & (matrix == 1), other=0.0)
            norm += second.to(tl.float32)
    else:
        matrix = COLUMN_MATRICES
        place = block * VECTORS + tl.arange(0, VECTORS)
        exists = place < width
        norm = tl.load(row_norm + head * width + place, mask=exists, other=0.0).to(tl.float32)
    return matrix, place, exists, norm


@triton.jit
def _chunk(
    matrix, place, exists, width, hidden,
    NUMBER: tl.constexpr, ENTRIES: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    """Offsets in [M, D, F] of the vectors' entries from NUMBER x ENTRIES on, and their mask."""
    along = NUMBER * ENTRIES + tl.arange(0, ENTRIES)
    if ALONG == 0:
        offsets = (matrix * width + along)[:, None] * hidden + place[None, :]
        inside = (along < width)[:, None] & exists[None, :]
    else:
        offsets = (matrix * width + place)[:, None] * hidden + along[None, :]
        inside = exists[:, None] & (along < hidden)[None, :]
    # four at a time, as float32 loads them: the narrower direction then has the same layout
    return tl.max_contiguous(offsets, [1, 4]), inside


@triton.jit
def _spread(per_vector, ALONG: tl.constexpr):
    """One number per weight vector, broadcastable to a chunk."""
    return tl.expand_dims(per_vector, ALONG)


@triton.jit
def _importance(displacement, from_anchor, before, keep, gain, SCORE: tl.constexpr):
    """alpha F + (1 - alpha) phi(S)."""
    if SCORE == "mas":
        score = tl.abs(displacement)
    elif SCORE == "ewc":
        score = displacement * displacement
    else:
        score = tl.abs(displacement * from_anchor)
    return keep * before + gain * score


@triton.jit
def _commit_block(
    weights, direction, step, column_norm0, column_norm1, row_norm, anchor, importance,
    moved, moved_anchor, moved_importance,
    weights_stride, direction_stride, anchor_stride, importance_stride, size,
    heads, width, hidden, pull, keep, gain, beta, fresh, block,
    COLUMN_MATRICES: tl.constexpr, SCORE: tl.constexpr, FOLLOW: tl.constexpr,
    VECTORS: tl.constexpr, ENTRIES: tl.constexpr, CHUNKS: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    matrix, place, exists, norm = _vectors(
        column_norm0, column_norm1, row_norm, block, n % heads, width, hidden,
        COLUMN_MATRICES, VECTORS, ALONG,
    )  # fmt: skip
    weights += n * weights_stride
    direction += n * direction_stride
    anchor += n * anchor_stride
    importance += n * importance_stride
    pace = tl.load(step + n)
    idle = pace == 0
    squares = tl.zeros((VECTORS,), tl.float32)
    pulled = ()
    for c in tl.static_range(CHUNKS):
        at, inside = _chunk(matrix, place, exists, width, hidden, c, ENTRIES, ALONG)
        w = tl.load(weights + at, mask=inside, other=0.0)
        d = tl.load(direction + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.where(idle, w, w + pace * d)
        if SCORE != "":
            f = tl.load(importance + at, mask=inside, other=0.0)
            from_anchor = x - tl.load(anchor + at, mask=inside, other=0.0)
            f = tl.where(idle, f, _importance(x - w, from_anchor, f, keep, gain, SCORE))
            tl.store(moved_importance + n * size + at, f, mask=inside)
            x = tl.where(idle, x, x - pull * f * from_anchor)
        squares += tl.sum(x * x, ALONG)
        pulled = pulled + (x,)
    length = tl.sqrt_rn(squares) + _EPSILON
    ratio = _spread(tl.where(idle, 1.0, tl.div_rn(norm, length)), ALONG)
    for c in tl.static_range(CHUNKS):
        at, inside = _chunk(matrix, place, exists, width, hidden, c, ENTRIES, ALONG)
        x = pulled[c] * ratio
        tl.store(moved + n * size + at, x, mask=inside)
        if SCORE != "" and FOLLOW != "fixed":
            # read again, from the L2 cache: holding it costs a register per entry
            a = tl.load(anchor + at, mask=inside, other=0.0, cache_modifier=".cg")
            if FOLLOW == "ema":
                x = beta * a + fresh * x
            tl.store(moved_anchor + n * size + at, tl.where(idle, a, x), mask=inside)


@triton.jit
def commit_kernel(
    weights, direction, step, column_norm0, column_norm1, row_norm, anchor, importance,
    moved, moved_anchor, moved_importance,
    weights_stride, direction_stride, anchor_stride, importance_stride, size,
    heads, width, hidden, pull, keep, gain, beta, fresh,
    COLUMN_MATRICES: tl.constexpr, ROW_MATRICES: tl.constexpr,
    SCORE: tl.constexpr, FOLLOW: tl.constexpr,
    COLUMNS: tl.constexpr, COLUMN_ENTRIES: tl.constexpr, COLUMN_CHUNKS: tl.constexpr,
    ROWS: tl.constexpr, ROW_ENTRIES: tl.constexpr, ROW_CHUNKS: tl.constexpr,
):  # fmt: skip
    """moved, moved_anchor, moved_importance = the commit; see the module.

    Strides are of the batch axis, `size` that of the results, M D F. keep = alpha, gain = 1 -
    alpha, fresh = 1 - beta. SCORE "" is the plain commit.
    """
    block = tl.program_id(0)
    column_blocks = COLUMN_MATRICES * tl.cdiv(hidden, COLUMNS)
    if ROW_MATRICES == 0 or (COLUMN_MATRICES > 0 and block < column_blocks):
        _commit_block(
            weights, direction, step, column_norm0, column_norm1, row_norm, anchor, importance,
            moved, moved_anchor, moved_importance,
            weights_stride, direction_stride, anchor_stride, importance_stride, size,
            heads, width, hidden, pull, keep, gain, beta, fresh, block,
            COLUMN_MATRICES, SCORE, FOLLOW, COLUMNS, COLUMN_ENTRIES, COLUMN_CHUNKS, 0,
        )  # fmt: skip
    else:
        _commit_block(
            weights, direction, step, column_norm0, column_norm1, row_norm, anchor, importance,
            moved, moved_anchor, moved_importance,
            weights_stride, direction_stride, anchor_stride, importance_stride, size,
            heads, width, hidden, pull, keep, gain, beta, fresh, block - column_blocks,
            COLUMN_MATRICES, SCORE, FOLLOW, ROWS, ROW_ENTRIES, ROW_CHUNKS, 1,
        )  # fmt: skip


@triton.jit
def _backward_block(
    by_moved, weights, direction, step, column_norm0, column_norm1, row_norm, anchor, importance,
    by_weights, by_direction, by_step, by_norms,
    by_moved_stride, weights_stride, direction_stride, anchor_stride, importance_stride, size,
    heads, width, hidden, vectors, pull, keep, gain, block,
    COLUMN_MATRICES: tl.constexpr, SCORE: tl.constexpr,
    VECTORS: tl.constexpr, ENTRIES: tl.constexpr, CHUNKS: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    matrix, place, exists, norm = _vectors(
        column_norm0, column_norm1, row_norm, block, n % heads, width, hidden,
        COLUMN_MATRICES, VECTORS, ALONG,
    )  # fmt: skip
    by_moved += n * by_moved_stride
    weights += n * weights_stride
    direction += n * direction_stride
    anchor += n * anchor_stride
    importance += n * importance_stride
    pace = tl.load(step + n)
    idle = pace == 0
    squares = tl.zeros((VECTORS,), tl.float32)
    inner = tl.zeros((VECTORS,), tl.float32)
    xs, ps, ds, slopes = (), (), (), ()
    for c in tl.static_range(CHUNKS):
        at, inside = _chunk(matrix, place, exists, width, hidden, c, ENTRIES, ALONG)
        w = tl.load(weights + at, mask=inside, other=0.0)
        d = tl.load(direction + at, mask=inside, other=0.0)
        p = tl.load(by_moved + at, mask=inside, other=0.0)
        x = tl.where(idle, w, w + pace * d.to(tl.float32))
        if SCORE != "":
            f = tl.load(importance + at, mask=inside, other=0.0)
            from_anchor = x - tl.load(anchor + at, mask=inside, other=0.0)
            f = pull * _importance(x - w, from_anchor, f, keep, gain, SCORE)
            slopes = slopes + (tl.where(idle, 1.0, 1 - f),)
            x = tl.where(idle, x, x - f * from_anchor)
        squares += tl.sum(x * x, ALONG)
        inner += tl.sum(p * x, ALONG)
        xs, ps, ds = xs + (x,), ps + (p,), ds + (d,)
    own = tl.sqrt_rn(squares)
    length = own + _EPSILON
    ratio = tl.where(idle, 1.0, tl.div_rn(norm, length))
    along = tl.div_rn(inner, tl.where(own == 0, 1.0, own)) * tl.div_rn(ratio, length)
    along = _spread(tl.where(idle, 0.0, along), ALONG)
    by_pace = tl.zeros((VECTORS,), tl.float32)
    for c in tl.static_range(CHUNKS):
        at, inside = _chunk(matrix, place, exists, width, hidden, c, ENTRIES, ALONG)
        by_x = ps[c] * _spread(ratio, ALONG) - xs[c] * along
        if SCORE != "":
            by_x *= slopes[c]
        tl.store(by_weights + n * size + at, by_x, mask=inside)
        by_d = (pace * by_x).to(by_direction.dtype.element_ty)
        tl.store(by_direction + n * size + at, by_d, mask=inside)
        by_pace += tl.sum(tl.where(idle, 0.0, ds[c].to(tl.float32) * by_x), ALONG)
    by_norm = tl.where(idle, 0.0, tl.div_rn(inner, length))
    tl.store(by_norms + n * vectors + matrix * hidden + place, by_norm, mask=exists)
    tl.store(by_step + n * tl.num_programs(0) + tl.program_id(0), tl.sum(by_pace))


@triton.jit
def backward_kernel(
    by_moved, weights, direction, step, column_norm0, column_norm1, row_norm, anchor, importance,
    by_weights, by_direction, by_step, by_norms,
    by_moved_stride, weights_stride, direction_stride, anchor_stride, importance_stride, size,
    heads, width, hidden, vectors, pull, keep, gain,
    COLUMN_MATRICES: tl.constexpr, ROW_MATRICES: tl.constexpr, SCORE: tl.constexpr,
    COLUMNS: tl.constexpr, COLUMN_ENTRIES: tl.constexpr, COLUMN_CHUNKS: tl.constexpr,
    ROWS: tl.constexpr, ROW_ENTRIES: tl.constexpr, ROW_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Gradients by weights and direction [N, M, D, F], by the step as one sum per program
    [N, programs], by the norms [N, V]; arguments as of `commit_kernel`, V = `vectors`."""
    block = tl.program_id(0)
    column_blocks = COLUMN_MATRICES * tl.cdiv(hidden, COLUMNS)
    if ROW_MATRICES == 0 or (COLUMN_MATRICES > 0 and block < column_blocks):
        _backward_block(
            by_moved, weights, direction, step, column_norm0, column_norm1, row_norm, anchor,
            importance, by_weights, by_direction, by_step, by_norms,
            by_moved_stride, weights_stride, direction_stride, anchor_stride, importance_stride,
            size, heads, width, hidden, vectors, pull, keep, gain, block,
            COLUMN_MATRICES, SCORE, COLUMNS, COLUMN_ENTRIES, COLUMN_CHUNKS, 0,
        )  # fmt: skip
    else:
        _backward_block(
            by_moved, weights, direction, step, column_norm0, column_norm1, row_norm, anchor,
            importance, by_weights, by_direction, by_step, by_norms,
            by_moved_stride, weights_stride, direction_stride, anchor_stride, importance_stride,
            size, heads, width, hidden, vectors, pull, keep, gain, block - column_blocks,
            COLUMN_MATRICES, SCORE, ROWS, ROW_ENTRIES, ROW_CHUNKS, 1,
        )  # fmt: skip
