"""`swiglu_kernels.gradient_kernel` with specialised warps, in Gluon, for Hopper.

The three accumulators of a tile fill a multiprocessor's registers, so in plain Triton its tensor
cores wait for the epilogue. Here they don't. A program makes tiles of 128 tokens x 128 hidden
columns, one after the other. One warp loads slots of 16 KiB (a tile of tokens or of a weight, 64
deep) into a ring through tensor-memory descriptors; two warpgroups of 64 tokens each make, for each
tile, first a = k W0 and u = k W2 together, then b = v W1^T. While the first products of one of
these two phases run, the epilogue of the phase before is computed from registers:

    during b of this tile:        from a, u: down (stored), u g' r0 (staged), g r2 (kept)
    during a, u of the next tile: from b: gate and up (stored)

A slot has two barriers: `full`, which its load completes, and `empty`, at which both warpgroups let
go of it. `at` counts slots over all tiles; its quotient by the ring's length gives the phase.

On an H100 0.70 to 0.78 of the Triton kernel's time: 108 us for 146 at 8,192 tokens of 768 x 1536
(predicted 95 to 105). What is left is the second-level cache, 53 bytes a clock and multiprocessor
at full rate, and a barrier of all threads that the compiler puts before every one of ours. Also
measured: two steps of a, u under way during an epilogue and four of b, 0.74 to 0.81 (the ring then
has too little ahead); one group of eight warps, 0.77 to 0.81.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

TILE = gl.constexpr(128)
"""Tokens, and hidden columns, of a tile."""
DEPTH = gl.constexpr(64)
"""Of a step along the head width."""
ROWS = gl.constexpr(64)
"""Tokens of a warpgroup."""
SLOTS = gl.constexpr(10)
EARLY = gl.constexpr(3)
"""Steps of b whose products are under way during the epilogue of a and u."""
TILES_IN_MEMORY = gl.constexpr(gl.NVMMASharedLayout(128, 16, 3))
_FLAT = gl.constexpr(gl.NVMMASharedLayout(128, 16, 2))
_WIDE = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
_HALF = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16]))


@gluon.jit
def _tile_of(tile, tiles_l, tiles_f):
    """Batch element, first token, first column. Neighbours in time share their tokens."""
    rest = tile // tiles_f
    return rest // tiles_l, rest % tiles_l * TILE, tile % tiles_f * TILE


@gluon.jit
def _fill(source, where, ring, full, empty, at, WEIGHT: gl.constexpr):
    """Load one tile into slot number `at`, once the consumers have let go of it."""
    slot = at % SLOTS
    mbarrier.wait(empty.index(slot), (at // SLOTS & 1) ^ 1)
    mbarrier.expect(full.index(slot), TILE * DEPTH * 2)
    into = ring.index(slot)
    if WEIGHT:
        into = into._reinterpret(gl.bfloat16, [1, DEPTH, TILE], source.layout)
    tma.async_copy_global_to_shared(source, where, full.index(slot), into)


@gluon.jit
def _load_tiles(
    k_desc, v_desc, w0_desc, w2_desc, w1_desc, ring, full, empty,
    batch, length, width, hidden, weights, weights1,
):  # fmt: skip
    """The loading warp."""
    tiles_l, tiles_f = gl.cdiv(length, TILE), gl.cdiv(hidden, TILE)
    at = gl.to_tensor(0)
    for tile in range(gl.program_id(0), batch * tiles_l * tiles_f, gl.num_programs(0)):
        n, row, column = _tile_of(tile, tiles_l, tiles_f)
        for d in range(0, width, DEPTH):
            _fill(k_desc, [n, row, d], ring, full, empty, at, False)
            _fill(w0_desc, [n % weights, d, column], ring, full, empty, at + 1, True)
            _fill(w2_desc, [n % weights, d, column], ring, full, empty, at + 2, True)
            at += 3
        for d in range(0, width, DEPTH):
            _fill(v_desc, [n, row, d], ring, full, empty, at, False)
            _fill(w1_desc, [n % weights1, d, column], ring, full, empty, at + 1, True)
            at += 2


@gluon.jit
def _tokens(ring, full, at, GROUP: gl.constexpr):
    """This warpgroup's rows of a tile of tokens, once it is there."""
    slot = at % SLOTS
    mbarrier.wait(full.index(slot), at // SLOTS & 1)
    view = ring.index(slot)._reinterpret(gl.bfloat16, [TILE // ROWS, ROWS, DEPTH], _FLAT)
    return view.index(GROUP)


@gluon.jit
def _weight(ring, full, at):
    slot = at % SLOTS
    mbarrier.wait(full.index(slot), at // SLOTS & 1)
    return ring.index(slot)._reinterpret(gl.bfloat16, [DEPTH, TILE], _FLAT)


@gluon.jit
def _release(empty, at, COUNT: gl.constexpr):
    for i in gl.static_range(COUNT):
        mbarrier.arrive(empty.index((at + i) % SLOTS), count=1)


@gluon.jit
def _halves(x):
    """Left and right half of the columns: no data moves."""
    left, right = x.reshape([ROWS, 2, TILE // 2]).permute([0, 2, 1]).split()
    left = gl.convert_layout(left, _HALF, assert_trivial=True)
    return left, gl.convert_layout(right, _HALF, assert_trivial=True)


@gluon.jit
def _sigmoid(x):
    """By the tanh instruction, to 2^-12 of full scale."""
    half = gl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x * 0.5], dtype=gl.float32, is_pure=True, pack=1
    )
    return half * 0.5 + 0.5


@gluon.jit
def _rate(rates_ptr, n, rows, length, stride_n, stride_l, COLUMN: gl.constexpr):
    """A column of the learning rates [N, L, 3] for these rows; 1 for no column."""
    if COLUMN >= 0:
        at = rates_ptr + n * stride_n + rows * stride_l + COLUMN
        rate = gl.load(at, mask=rows < length, other=0.0).to(gl.float32)
    else:
        rate = gl.full([ROWS], 1.0, gl.float32, rows.type.layout)
    return gl.expand_dims(rate, 1)


@gluon.jit
def _flat(stage):
    return stage._reinterpret(gl.bfloat16, [ROWS, TILE // 2], _FLAT)


@gluon.jit
def _after_a_and_u(a, u, r0, r1, r2, down_stage, gate_stage):
    """down into its stage, what b will be multiplied by for gate into its own; returns the one
    for up."""
    sigma = _sigmoid(a)
    g = a * sigma
    _flat(down_stage).store((g * u * r1).to(gl.bfloat16))
    slope = sigma + g * (1 - sigma)
    _flat(gate_stage).store((u * slope * r0).to(gl.bfloat16))
    return (g * r2).to(gl.bfloat16)


@gluon.jit
def _multiply(stage, b):
    """stage *= b"""
    view = _flat(stage)
    view.store((view.load(b.type.layout).to(gl.float32) * b).to(gl.bfloat16))


@gluon.jit
def _after_b(b, gate_desc, up_desc, gate0, gate1, up0, up1, n, row, column):
    """gate and up of a tile from its b and what is staged."""
    left, right = _halves(b)
    _multiply(gate0, left)
    _multiply(up0, left)
    fence_async_shared()
    tma.async_copy_shared_to_global(gate_desc, [n, row, column], gate0)
    tma.async_copy_shared_to_global(up_desc, [n, row, column], up0)
    _multiply(gate1, right)
    _multiply(up1, right)
    fence_async_shared()
    tma.async_copy_shared_to_global(gate_desc, [n, row, column + TILE // 2], gate1)
    tma.async_copy_shared_to_global(up_desc, [n, row, column + TILE // 2], up1)


@gluon.jit
def _make_tiles(
    gate_desc, up_desc, down_desc, rates_ptr, rate_stride_n, rate_stride_l,
    ring, full, empty, gate0, gate1, up0, up1, batch, length, width, hidden,
    GROUP: gl.constexpr, RATE0: gl.constexpr, RATE1: gl.constexpr, RATE2: gl.constexpr,
):  # fmt: skip
    """A warpgroup: its half of the tokens of every tile."""
    tiles_l, tiles_f = gl.cdiv(length, TILE), gl.cdiv(hidden, TILE)
    steps = gl.cdiv(width, DEPTH)
    at = gl.to_tensor(0)
    zero = gl.zeros([ROWS, TILE], gl.float32, _WIDE)
    b = zero
    # the tile before: none yet, what is stored of it is clipped
    last_n, last_row, last_column = gl.to_tensor(0), length, gl.to_tensor(0)
    for tile in range(gl.program_id(0), batch * tiles_l * tiles_f, gl.num_programs(0)):
        n, row, column = _tile_of(tile, tiles_l, tiles_f)
        row += GROUP * ROWS
        k = _tokens(ring, full, at, GROUP)
        a = warpgroup_mma(k, _weight(ring, full, at + 1), zero, use_acc=False, is_async=True)
        u = warpgroup_mma(k, _weight(ring, full, at + 2), zero, use_acc=False, is_async=True)
        at += 3
        # nothing to wait for: tells the assembler that b's products have ended
        a, u, b = warpgroup_mma_wait(2, deps=(a, u, b))
        _after_b(
            b, gate_desc, up_desc, gate0, gate1, up0, up1, last_n, last_row, last_column
        )  # fmt: skip
        for _ in range(1, steps):
            k = _tokens(ring, full, at, GROUP)
            a = warpgroup_mma(k, _weight(ring, full, at + 1), a, is_async=True)
            u = warpgroup_mma(k, _weight(ring, full, at + 2), u, is_async=True)
            a, u = warpgroup_mma_wait(2, deps=(a, u))
            _release(empty, at - 3, 3)
            at += 3
        rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, _HALF))
        r0 = _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE0)
        r1 = _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE1)
        r2 = _rate(rates_ptr, n, rows, length, rate_stride_n, rate_stride_l, RATE2)
        # b's first product is queued behind the last of a and u; the ring could not hold more of
        # them beside those
        v = _tokens(ring, full, at, GROUP)
        b = warpgroup_mma(v, _weight(ring, full, at + 1), zero, use_acc=False, is_async=True)
        at += 2
        a, u, b = warpgroup_mma_wait(1, deps=(a, u, b))
        _release(empty, at - 5, 3)
        for _ in gl.static_range(1, EARLY):
            v = _tokens(ring, full, at, GROUP)
            b = warpgroup_mma(v, _weight(ring, full, at + 1), b, is_async=True)
            at += 2
        a, u, b = warpgroup_mma_wait(EARLY, deps=(a, u, b))  # for the assembler, as above
        a0, a1 = _halves(a)
        u0, u1 = _halves(u)
        tma.store_wait(0)  # gate and up of the tile before have left their stages
        up_left = _after_a_and_u(a0, u0, r0, r1, r2, up0, gate0)
        fence_async_shared()
        tma.async_copy_shared_to_global(down_desc, [n, row, column], up0)
        up_right = _after_a_and_u(a1, u1, r0, r1, r2, up1, gate1)
        fence_async_shared()
        tma.async_copy_shared_to_global(down_desc, [n, row, column + TILE // 2], up1)
        b = warpgroup_mma_wait(1, deps=(b,))
        _release(empty, at - 2 * EARLY, 2 * (EARLY - 1))
        for _ in range(EARLY, steps):
            v = _tokens(ring, full, at, GROUP)
            b = warpgroup_mma(v, _weight(ring, full, at + 1), b, is_async=True)
            b = warpgroup_mma_wait(1, deps=(b,))
            _release(empty, at - 2, 2)
            at += 2
        tma.store_wait(0)  # down has left its stage: up's turn
        _flat(up0).store(up_left)
        _flat(up1).store(up_right)
        b = warpgroup_mma_wait(0, deps=(b,))
        _release(empty, at - 2, 2)
        last_n, last_row, last_column = n, row, column
    _after_b(
        b, gate_desc, up_desc, gate0, gate1, up0, up1, last_n, last_row, last_column
    )  # fmt: skip
    tma.store_wait(0)


@gluon.jit(
    do_not_specialize=[  # one compilation for all shapes
        "rate_stride_n", "rate_stride_l", "batch", "length", "width", "hidden",
        "weights", "weights1",
    ]
)  # fmt: skip
def specialised_gradient_kernel(
    k_desc, v_desc, w0_desc, w2_desc, w1_desc, gate_desc, up_desc, down_desc,
    rates_ptr, rate_stride_n, rate_stride_l,
    batch, length, width, hidden, weights, weights1,
    RATE0: gl.constexpr, RATE1: gl.constexpr, RATE2: gl.constexpr,
):  # fmt: skip
    """As `gradient_kernel` without sums, for bfloat16 and head widths of more than two steps.

    Blocks of the descriptors, all TILES_IN_MEMORY: tokens [1, TILE, DEPTH], weights [1, DEPTH,
    TILE], results [1, ROWS, TILE / 2].
    """
    ring = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, 1, TILE, DEPTH], k_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(SLOTS):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    fence_async_shared()
    half: gl.constexpr = [1, ROWS, TILE // 2]
    s0 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s1 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s2 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s3 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s4 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s5 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s6 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    s7 = gl.allocate_shared_memory(gl.bfloat16, half, gate_desc.layout)
    gl.warp_specialize(
        [
            (_make_tiles, (
                gate_desc, up_desc, down_desc, rates_ptr, rate_stride_n, rate_stride_l,
                ring, full, empty, s0, s1, s2, s3, batch, length, width, hidden,
                gl.constexpr(0), RATE0, RATE1, RATE2,
            )),
            (_make_tiles, (
                gate_desc, up_desc, down_desc, rates_ptr, rate_stride_n, rate_stride_l,
                ring, full, empty, s4, s5, s6, s7, batch, length, width, hidden,
                gl.constexpr(1), RATE0, RATE1, RATE2,
            )),
            (_load_tiles, (
                k_desc, v_desc, w0_desc, w2_desc, w1_desc, ring, full, empty,
                batch, length, width, hidden, weights, weights1,
            )),
        ], [4, 1], [240, 24],
    )  # fmt: skip
