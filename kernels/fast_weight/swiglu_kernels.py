"""Triton kernels of the fast weights' token work.

Forward, products of tokens with two or three weight matrices at once: what lies between them and
the next product never leaves the chip. Each program makes tiles of [tokens, hidden] for every
matrix, from tiles of the tokens that it loads once; the activation is its epilogue, whose stores
overlap the next tile's products. Operands come through tensor-memory descriptors, which zero-fill
and clip: lengths and widths may be ragged.

The mathematics is in `reference.py`; below, a = k W0, u = k W2, b = v W1^T, g = silu(a), and ' is a
derivative by a.

Shapes: N batch x heads, L tokens, D head width, F hidden width. A weight's batch may be smaller
than N (shared): entry n % weights is used.
"""

import triton
import triton.language as tl


@triton.jit
def _tile_of(tile, tiles_l, tiles_f):
    """Neighbours in time share their tokens: the hidden axis runs fastest."""
    f = tile % tiles_f
    rest = tile // tiles_f
    return rest // tiles_l, rest % tiles_l, f


@triton.jit
def _sigmoid(x, EXACT: tl.constexpr):
    """1 / (1 + exp(-x)); unless EXACT by the tanh instruction, to 2^-12 of full scale."""
    if EXACT:
        return tl.sigmoid(x)
    half = tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x * 0.5], dtype=tl.float32, is_pure=True, pack=1
    )
    return half * 0.5 + 0.5


@triton.jit
def _rate(rates_ptr, n, rows, length, stride_n, stride_l, COLUMN: tl.constexpr):
    """A column of the learning rates [N, L, 3] for these rows; 0 beyond the last token."""
    at = rates_ptr + n * stride_n + rows * stride_l + COLUMN
    return tl.load(at, mask=rows < length, other=0.0).to(tl.float32)[:, None]


@triton.jit
def hidden_kernel(
    x_desc, w0_desc, w2_desc, out_desc, rates_ptr, rate_stride_n, rate_stride_l,
    batch, length, width, hidden, weights,
    RATE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """out = silu(x W0) * (x W2) [N, L, F], times column RATE of the rates unless RATE is -1."""
    tiles_l, tiles_f = tl.cdiv(length, BLOCK_L), tl.cdiv(hidden, BLOCK_F)
    for tile in tl.range(tl.program_id(0), batch * tiles_l * tiles_f, tl.num_programs(0)):
        n, t, f = _tile_of(tile, tiles_l, tiles_f)
        gate = tl.zeros((BLOCK_L, BLOCK_F), tl.float32)
        up = tl.zeros((BLOCK_L, BLOCK_F), tl.float32)
        for d in tl.range(0, width, BLOCK_D):
            x = x_desc.load([n, t * BLOCK_L, d]).reshape(BLOCK_L, BLOCK_D)
            w0 = w0_desc.load([n % weights, d, f * BLOCK_F]).reshape(BLOCK_D, BLOCK_F)
            gate = tl.dot(x, w0, gate, input_precision="ieee")
            w2 = w2_desc.load([n % weights, d, f * BLOCK_F]).reshape(BLOCK_D, BLOCK_F)
            up = tl.dot(x, w2, up, input_precision="ieee")
        out = gate * _sigmoid(gate, EXACT) * up
        if RATE >= 0:
            rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
            out *= _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE)
        out = out.to(out_desc.dtype).reshape(1, BLOCK_L, BLOCK_F)
        out_desc.store([n, t * BLOCK_L, f * BLOCK_F], out)


@triton.jit
def gradient_kernel(
    k_desc, v_desc, w0_desc, w2_desc, w1_desc, gate_desc, up_desc, down_desc,
    rates_ptr, rate_stride_n, rate_stride_l, sums_ptr,
    batch, length, width, hidden, weights, weights1,
    RATE0: tl.constexpr, RATE1: tl.constexpr, RATE2: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """gate = r0 b u g',  up = r2 b g,  down = r1 g u, each [N, L, F]: what W0, W2 and W1^T are
    multiplied by in the sums over tokens. The r are the named columns of the rates, 1 for -1.

    w1_desc: W1^T [., D, F]. SUMS: also write each row's sum of b g u over this tile's hidden
    columns to sums [F tiles, N, L].
    """
    tiles_l, tiles_f = tl.cdiv(length, BLOCK_L), tl.cdiv(hidden, BLOCK_F)
    for tile in tl.range(tl.program_id(0), batch * tiles_l * tiles_f, tl.num_programs(0)):
        n, t, f = _tile_of(tile, tiles_l, tiles_f)
        a = tl.zeros((BLOCK_L, BLOCK_F), tl.float32)
        u = tl.zeros((BLOCK_L, BLOCK_F), tl.float32)
        b = tl.zeros((BLOCK_L, BLOCK_F), tl.float32)
        for d in tl.range(0, width, BLOCK_D):
            k = k_desc.load([n, t * BLOCK_L, d]).reshape(BLOCK_L, BLOCK_D)
            w0 = w0_desc.load([n % weights, d, f * BLOCK_F]).reshape(BLOCK_D, BLOCK_F)
            a = tl.dot(k, w0, a, input_precision="ieee")
            w2 = w2_desc.load([n % weights, d, f * BLOCK_F]).reshape(BLOCK_D, BLOCK_F)
            u = tl.dot(k, w2, u, input_precision="ieee")
            v = v_desc.load([n, t * BLOCK_L, d]).reshape(BLOCK_L, BLOCK_D)
            w1 = w1_desc.load([n % weights1, d, f * BLOCK_F]).reshape(BLOCK_D, BLOCK_F)
            b = tl.dot(v, w1, b, input_precision="ieee")
        sigma = _sigmoid(a, EXACT)
        g = a * sigma
        rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
        down = g * u
        if SUMS:  # columns beyond F are zero
            at = sums_ptr + (f * batch + n) * length + rows
            tl.store(at, tl.sum(down * b, axis=1), mask=rows < length)
        if RATE1 >= 0:
            down *= _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE1)
        where = [n, t * BLOCK_L, f * BLOCK_F]
        down_desc.store(where, down.to(down_desc.dtype).reshape(1, BLOCK_L, BLOCK_F))
        up = b * g
        if RATE2 >= 0:
            up *= _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE2)
        up_desc.store(where, up.to(up_desc.dtype).reshape(1, BLOCK_L, BLOCK_F))
        gate = b * u * (sigma + g * (1 - sigma))
        if RATE0 >= 0:
            gate *= _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE0)
        gate_desc.store(where, gate.to(gate_desc.dtype).reshape(1, BLOCK_L, BLOCK_F))


@triton.jit
def second_order_kernel(
    keyed_ptr, valued_ptr, rates_ptr, by_rates_ptr,
    keyed_stride_n, keyed_stride_l, valued_stride_n, valued_stride_l,
    rate_stride_n, rate_stride_l, by_rate_stride_n, by_rate_stride_l,
    length, hidden,
    BLOCK_F: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The backward of the three sums over tokens, given their gradients P0, P2, P1^T; in place,
    one token a program.

    keyed [N, L, 4 F]: k (W0 | W2 | P0 | P2) = (a, u, x0, x2) becomes (gradient by a, by u, gate,
    up); valued [N, L, 2 F]: v (W1^T | P1^T) = (b, x1) becomes (gradient by b, down); gate, up and
    down as in `gradient_kernel`. by_rates [N, L, 3]: gradients by the rates.
    """
    n, t = tl.program_id(0) // length, tl.program_id(0) % length
    columns = tl.arange(0, BLOCK_F)
    inside = columns < hidden
    keyed = keyed_ptr + n.to(tl.int64) * keyed_stride_n + t * keyed_stride_l + columns
    valued = valued_ptr + n.to(tl.int64) * valued_stride_n + t * valued_stride_l + columns
    a = tl.load(keyed, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(keyed + hidden, mask=inside, other=0.0).to(tl.float32)
    x0 = tl.load(keyed + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(keyed + 3 * hidden, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(valued, mask=inside, other=0.0).to(tl.float32)
    x1 = tl.load(valued + hidden, mask=inside, other=0.0).to(tl.float32)
    rate = rates_ptr + n * rate_stride_n + t * rate_stride_l
    r0, r1, r2 = tl.load(rate), tl.load(rate + 1), tl.load(rate + 2)
    by_rate = by_rates_ptr + n * by_rate_stride_n + t * by_rate_stride_l
    kind = keyed_ptr.dtype.element_ty

    sigma = _sigmoid(a, EXACT)
    g = a * sigma
    slope = sigma + g * (1 - sigma)
    curve = (1 - sigma) * (sigma + slope - g * sigma)  # g''
    down, up, gate = g * u, b * g, b * u * slope
    tl.store(by_rate, tl.sum(gate * x0))
    tl.store(by_rate + 1, tl.sum(down * x1))
    tl.store(by_rate + 2, tl.sum(up * x2))
    x0, x1, x2 = r0 * x0, r1 * x1, r2 * x2
    by_a = (x1 * u + x2 * b) * slope + x0 * b * u * curve
    tl.store(keyed, by_a.to(kind), mask=inside)
    tl.store(keyed + hidden, (x1 * g + x0 * b * slope).to(kind), mask=inside)
    tl.store(keyed + 2 * hidden, (r0 * gate).to(kind), mask=inside)
    tl.store(keyed + 3 * hidden, (r2 * up).to(kind), mask=inside)
    tl.store(valued, (x2 * g + x0 * u * slope).to(kind), mask=inside)
    tl.store(valued + hidden, (r1 * down).to(kind), mask=inside)


@triton.jit
def operands_kernel(
    first_ptr, second_ptr, third_ptr, out_ptr, first_strides, second_strides, third_strides,
    width, hidden, MATRICES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [N, D, MATRICES, F] = up to three matrices [N, D, F] of any strides, side by side in the
    type of out. One row of one matrix a program."""
    n, d, matrix = tl.program_id(0) // width, tl.program_id(0) % width, tl.program_id(1)
    source, strides = first_ptr, first_strides
    if matrix == 1:
        source, strides = second_ptr, second_strides
    if matrix == 2:
        source, strides = third_ptr, third_strides
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden
    at = source + n.to(tl.int64) * strides[0] + d * strides[1] + columns * strides[2]
    row = tl.load(at, mask=inside)
    at = out_ptr + (tl.program_id(0).to(tl.int64) * MATRICES + matrix) * hidden + columns
    tl.store(at, row.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def prologue_kernel(
    x_ptr, out_ptr, x_stride_n, x_stride_l, out_stride_half, out_stride_n, out_stride_l,
    length, width, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [halves, N, L, D] = silu(x), x [N, L, halves D]; of the first half (queries or keys)
    each row is divided by its norm + 1e-5. One row of one half a program."""
    n, t, half = tl.program_id(0) // length, tl.program_id(0) % length, tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = x_ptr + n.to(tl.int64) * x_stride_n + t * x_stride_l + half * width + columns
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.sigmoid(x)
    if half == 0:
        y /= tl.sqrt(tl.sum(y * y)) + 1e-5
    at = out_ptr + half.to(tl.int64) * out_stride_half + n.to(tl.int64) * out_stride_n
    tl.store(at + t * out_stride_l + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def prologue_backward_kernel(
    x_ptr, by_out_ptr, by_x_ptr, x_stride_n, x_stride_l,
    by_out_stride_half, by_out_stride_n, by_out_stride_l, by_x_stride_n, by_x_stride_l,
    length, width, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient by x of `prologue_kernel`, given the one by its result."""
    n, t, half = tl.program_id(0) // length, tl.program_id(0) % length, tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = x_ptr + n.to(tl.int64) * x_stride_n + t * x_stride_l + half * width + columns
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    at = by_out_ptr + half.to(tl.int64) * by_out_stride_half + n.to(tl.int64) * by_out_stride_n
    grad = tl.load(at + t * by_out_stride_l + columns, mask=inside, other=0.0).to(tl.float32)
    sigma = tl.sigmoid(x)
    if half == 0:  # y / (|y| + e): the part along y shrinks by |y| + e once more
        y = x * sigma
        norm = tl.sqrt(tl.sum(y * y))
        along = tl.sum(grad * y) / (tl.maximum(norm, 1e-30) * (norm + 1e-5))
        grad = (grad - along * y) / (norm + 1e-5)
    grad *= sigma * (1 + x * (1 - sigma))
    at = by_x_ptr + n.to(tl.int64) * by_x_stride_n + t * by_x_stride_l + half * width + columns
    tl.store(at, grad.to(by_x_ptr.dtype.element_ty), mask=inside)
