"""Launches of the token kernels: tile configurations as data, descriptors, workspace.

Shapes: N = batch x heads, L tokens, D head width, F hidden width, M matrices.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from everview.kernels.backend import on_its_device
from everview.kernels.fast_weight import swiglu_kernels as kernels

TOKEN_BLOCK = 8192
"""Tokens of a batch element worked on at once: bounds the workspace, keeps it near the L2 cache."""


@dataclass(frozen=True)
class Tile:
    """Tile of [tokens, hidden], depth of a step along the head width, warps, pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


HIDDEN = Tile(128, 128, 64, 8, 3)
GRADIENT = Tile(128, 128, 32, 8, 4)
NARROWEST_SPECIALISED = 129
"""Head widths from here on have the three steps that `gradient_gluon` begins a tile with."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2  # the interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count


def check_shapes(
    tokens: Tensor, width: int, weights: Sequence[Tensor | None], rates: Tensor | None = None
) -> None:
    """Raises ValueError where weights [., D, F] don't fit tokens [N, L, .] of head width D or each
    other, rates aren't [N, L, 3], or D or F isn't a multiple of 16 (rows of 32 bytes)."""
    given = [w for w in weights if w is not None]
    n, hidden = tokens.shape[0], given[0].shape[-1]
    if any(w.shape[1:] != (width, hidden) or n % w.shape[0] for w in given):
        raise ValueError(
            f"tokens {list(tokens.shape)} of head width {width} and weights "
            f"{[list(w.shape) for w in given]} (w1 transposed) don't fit"
        )
    if rates is not None and rates.shape != (*tokens.shape[:2], 3):
        raise ValueError(f"rates {list(rates.shape)} for tokens {list(tokens.shape)}: [N, L, 3]")
    if width % 16 or hidden % 16:
        raise ValueError(
            f"the fast-weight kernels take widths that are multiples of 16, not {width}, {hidden}"
        )


def descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """For tiles [rows, columns] of a tensor [N, R, C] whose last axis is contiguous."""
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, rows, columns])


def _grid(tile: Tile, n: int, length: int, hidden: int, device: torch.device) -> tuple[int]:
    """As many programs as there are multiprocessors: each makes one tile after the other."""
    tiles = n * math.ceil(length / tile.rows) * math.ceil(hidden / tile.columns)
    return (min(tiles, _processors(device)),)


def _options(tile: Tile) -> dict[str, int]:
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def _rate_arguments(rates: Tensor | None, fallback: Tensor) -> tuple[Tensor, int, int]:
    return (fallback, 0, 0) if rates is None else (rates, rates.stride(0), rates.stride(1))


@dataclass(frozen=True)
class Operands:
    """Weights in the tokens' type: keyed [N | 1, D, 2F], W0 and W2 side by side, what keys and
    queries are multiplied by; down [N | 1, D, F], W1^T. Their batches may differ."""

    keyed: Tensor
    down: Tensor | None

    @staticmethod
    def of(like: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor | None) -> Operands:
        """From matrices [., D, F] of any strides; one launch where their batches are equal."""
        features, n = w0.shape[-1], max(w0.shape[0], w2.shape[0])
        w0, w2 = _for_batch(w0, n), _for_batch(w2, n)
        if w1t is not None and w1t.shape[0] == n:
            wide = side_by_side(like, w0, w2, w1t)
            return Operands(wide[..., : 2 * features], wide[..., 2 * features :])
        down = None if w1t is None else side_by_side(like, w1t)
        return Operands(side_by_side(like, w0, w2), down)

    def parts(self) -> tuple[Tensor, Tensor]:
        """W0 and W2."""
        w0, w2 = self.keyed.chunk(2, dim=-1)
        return w0, w2


def _for_batch(weight: Tensor, n: int) -> Tensor:
    """[n, D, F], where some share a weight (heads vary fastest)."""
    if weight.shape[0] == n:
        return weight
    if weight.shape[0] == 1:
        return weight.expand(n, -1, -1)
    return weight.repeat(n // weight.shape[0], 1, 1)


@on_its_device
def side_by_side(like: Tensor, *matrices: Tensor) -> Tensor:
    """Up to three matrices [N, D, F] as [N, D, M F] in the type of `like`."""
    n, width, features = matrices[0].shape
    out = like.new_empty(n, width, len(matrices) * features)
    three = (matrices * 3)[:3] if len(matrices) == 1 else (*matrices, matrices[0])[:3]
    kernels.operands_kernel[(n * width, len(matrices))](
        *three, out, *(matrix.stride() for matrix in three), width, features,
        MATRICES=len(matrices), BLOCK=triton.next_power_of_2(features),
        num_warps=_row_warps(features),
    )  # fmt: skip
    return out


@on_its_device
def hidden(
    x_NLD: Tensor, weights: Operands, rates: Tensor | None = None, tile: Tile = HIDDEN
) -> Tensor:
    """silu(x W0) * (x W2) [N, L, F]; rates [N, L, 3]: times the second column (w1's)."""
    w0, w2 = weights.parts()
    n, length, width = x_NLD.shape
    features = w0.shape[-1]
    out = x_NLD.new_empty(n, length, features)
    kernels.hidden_kernel[_grid(tile, n, length, features, out.device)](
        descriptor(x_NLD, tile.rows, tile.depth),
        descriptor(w0, tile.depth, tile.columns),
        descriptor(w2, tile.depth, tile.columns),
        descriptor(out, tile.rows, tile.columns),
        *_rate_arguments(rates, x_NLD),
        n, length, width, features, w0.shape[0],
        RATE=-1 if rates is None else 1,
        BLOCK_L=tile.rows, BLOCK_F=tile.columns, BLOCK_D=tile.depth, EXACT=INTERPRETED,
        **_options(tile),
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class Features:
    """What the sums over tokens multiply: gate, up, down side by side [N, L, 3F]; rate_sums: each
    token's gradient by its rate [N, L], where it was asked for."""

    wide: Tensor
    rate_sums: Tensor | None = None


@on_its_device
def gradient_features(
    k_NLD: Tensor,
    v_NLD: Tensor,
    weights: Operands,
    rates: Tensor | None,
    columns: tuple[int, int, int] = (0, 1, 2),
    rate_sums: bool = False,
    tile: Tile = GRADIENT,
) -> Features:
    """See `gradient_kernel`. columns: of the rates, for gate (w0), down (w1), up (w2)."""
    (w0, w2), w1t = weights.parts(), weights.down
    assert w1t is not None
    n, length, width = k_NLD.shape
    features = w0.shape[-1]
    wide = k_NLD.new_empty(n, length, 3 * features)
    if not (rate_sums or INTERPRETED or width < NARROWEST_SPECIALISED):
        _specialised_gradient(k_NLD, v_NLD, w0, w2, w1t, rates, columns, wide)
        return Features(wide)
    parts = [descriptor(part, tile.rows, tile.columns) for part in wide.split(features, dim=-1)]
    tiles = math.ceil(features / tile.columns)
    sums = wide.new_empty((tiles, n, length), dtype=torch.float32) if rate_sums else wide
    rate0, rate1, rate2 = (-1, -1, -1) if rates is None else columns
    kernels.gradient_kernel[_grid(tile, n, length, features, wide.device)](
        descriptor(k_NLD, tile.rows, tile.depth),
        descriptor(v_NLD, tile.rows, tile.depth),
        *(descriptor(w, tile.depth, tile.columns) for w in (w0, w2, w1t)),
        *parts, *_rate_arguments(rates, wide), sums,
        n, length, width, features, w0.shape[0], w1t.shape[0],
        RATE0=rate0, RATE1=rate1, RATE2=rate2, SUMS=rate_sums,
        BLOCK_L=tile.rows, BLOCK_F=tile.columns, BLOCK_D=tile.depth, EXACT=INTERPRETED,
        **_options(tile),
    )  # fmt: skip
    return Features(wide, sums.sum(0) if rate_sums else None)


def _specialised_gradient(
    k_NLD: Tensor, v_NLD: Tensor, w0: Tensor, w2: Tensor, w1t: Tensor, rates: Tensor | None,
    columns: tuple[int, int, int], wide: Tensor,
) -> None:  # fmt: skip
    """`gradient_kernel` in its form for Hopper, where there is no sum by rates: see
    gradient_gluon.py. Its tiles' size is part of it."""
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as Described

    from everview.kernels.fast_weight import gradient_gluon as gluon

    n, length, width = k_NLD.shape
    features = w0.shape[-1]
    tile, depth, rows = gluon.TILE.value, gluon.DEPTH.value, gluon.ROWS.value

    def described(tensor: Tensor, rows: int, columns: int) -> Described:
        shape, strides = list(tensor.shape), list(tensor.stride())
        return Described(tensor, shape, strides, [1, rows, columns], gluon.TILES_IN_MEMORY.value)

    rate0, rate1, rate2 = (-1, -1, -1) if rates is None else columns
    tiles = Tile(tile, tile, depth, warps=4, stages=0)
    gluon.specialised_gradient_kernel[_grid(tiles, n, length, features, wide.device)](
        described(k_NLD, tile, depth), described(v_NLD, tile, depth),
        *(described(w, depth, tile) for w in (w0, w2, w1t)),
        *(described(part, rows, tile // 2) for part in wide.split(features, dim=-1)),
        *_rate_arguments(rates, wide),
        n, length, width, features, w0.shape[0], w1t.shape[0],
        RATE0=rate0, RATE1=rate1, RATE2=rate2, num_warps=4, maxnreg=168,
    )  # fmt: skip


@on_its_device
def second_order_features(
    k_NLD: Tensor, v_NLD: Tensor, weights: Operands, by_sums: Operands, rates: Tensor,
    by_rates: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `second_order_kernel`. by_sums: P0 | P2 and P1^T. by_rates [N, L, 3] is written.

    Returns features that multiply (W0 | W2 | P0 | P2)^T (a, u, gate, up: [N, L, 4F]) and
    (W1^T | P1^T)^T (b, down: [N, L, 2F]) in the gradients of k and v.

    Six products in one kernel (128 x 64 tiles, six accumulators) ran at 290 TFLOP/s on an H100,
    bound by shared memory and spills; the library's products with this in-place pass at 400. Spans
    that stay in the L2 cache between the two were slower: 390 at 72 MB, 350 at 18 MB.
    """
    n, length, _ = k_NLD.shape
    features = weights.keyed.shape[-1] // 2
    keyed = k_NLD.new_empty(n, length, 4 * features)
    valued = k_NLD.new_empty(n, length, 2 * features)
    products(k_NLD, weights.keyed, keyed[..., : 2 * features])
    products(k_NLD, by_sums.keyed, keyed[..., 2 * features :])
    products(v_NLD, weights.down, valued[..., :features])
    products(v_NLD, by_sums.down, valued[..., features:])
    kernels.second_order_kernel[(n * length,)](
        keyed, valued, rates, by_rates,
        *keyed.stride()[:2], *valued.stride()[:2], *rates.stride()[:2], *by_rates.stride()[:2],
        length, features,
        BLOCK_F=triton.next_power_of_2(features), EXACT=INTERPRETED,
        num_warps=_row_warps(features, 8),
    )  # fmt: skip
    return keyed, valued


def products(x_NLI: Tensor, weights: Tensor | None, out: Tensor, add: bool = False) -> None:
    """out [N, L, O] = x @ weights [N | H | 1, I, O], in the library; add: added to what is there.
    One product where all N share the weights and their tokens lie at one stride."""
    assert weights is not None
    n = x_NLI.shape[0]
    if weights.shape[0] == 1 and (n == 1 or (_is_one_sequence(x_NLI) and _is_one_sequence(out))):
        flat, result = x_NLI.flatten(0, 1), out.flatten(0, 1)
        if add:
            torch.addmm(result, flat, weights[0], out=result)
        else:
            torch.mm(flat, weights[0], out=result)
        return
    weights = _for_batch(weights, n)
    if add:
        torch.baddbmm(out, x_NLI, weights, out=out)
    else:
        torch.bmm(x_NLI, weights, out=out)


def _is_one_sequence(x_NLI: Tensor) -> bool:
    """Whether the tokens of all batch elements lie at one stride."""
    return x_NLI.stride(0) == x_NLI.shape[1] * x_NLI.stride(1)


class TokenSums:
    """left^T right summed over tokens, block after block, float32 [N, D, F]; in the library, which
    splits the tokens of few matrices over the card (its order is fixed by the shapes).

    A Triton kernel of 128 x 256 tiles over all matrices at once reached 0.65 to 0.9 of its speed.
    """

    def __init__(self, total: Tensor) -> None:
        """total: float32 [N, D, F], any strides but the last, not yet filled; written into."""
        self.total = total
        self._empty = True

    @staticmethod
    def of(n: int, width: int, features: int, like: Tensor) -> TokenSums:
        """With storage of its own."""
        return TokenSums(like.new_empty((n, width, features), dtype=torch.float32))

    def add(self, left_NLD: Tensor, right_NLF: Tensor) -> None:
        """One more block of tokens."""
        total, left = self.total, left_NLD.mT
        if not total.is_cuda:  # the interpreter's tests
            sums = torch.bmm(left, right_NLF)
            total.copy_(sums if self._empty else total + sums)
        elif self._empty:
            torch.bmm(left, right_NLF, out_dtype=torch.float32, out=total)
        else:
            torch.baddbmm(total, left, right_NLF, out_dtype=torch.float32, out=total)
        self._empty = False


@on_its_device
def activated(packed: Tensor, halves: int) -> tuple[Tensor, ...]:
    """silu of queries [N, L, D] (halves 1), or of keys and values side by side [N, L, 2D] (2),
    queries and keys with unit norm; contiguous [N, L, D] each."""
    n, length, width = *packed.shape[:2], packed.shape[2] // halves
    out = packed.new_empty(halves, n, length, width)
    kernels.prologue_kernel[(n * length, halves)](
        packed, out, *packed.stride()[:2], *out.stride()[:3], length, width,
        BLOCK=triton.next_power_of_2(width), num_warps=_row_warps(width),
    )  # fmt: skip
    return out.unbind(0)


@on_its_device
def activated_backward(packed: Tensor, by_out: Tensor, by_packed: Tensor) -> None:
    """Write the gradient by `packed` of `activated`, given by_out [halves, N, L, D], into by_packed
    [N, L, halves D] (any strides but the last)."""
    halves, n, length, width = by_out.shape
    kernels.prologue_backward_kernel[(n * length, halves)](
        packed, by_out, by_packed, *packed.stride()[:2], *by_out.stride()[:3],
        *by_packed.stride()[:2], length, width,
        BLOCK=triton.next_power_of_2(width), num_warps=_row_warps(width),
    )  # fmt: skip


def _row_warps(width: int, values_a_thread: int = 16) -> int:
    """Warps for a row; 8 values a thread where many arrays are held at once."""
    return max(1, min(8, triton.next_power_of_2(width) // (32 * values_a_thread)))


def token_blocks(length: int) -> list[slice]:
    """The spans that a sequence is worked on in; the last may be shorter."""
    return [slice(at, min(at + TOKEN_BLOCK, length)) for at in range(0, length, TOKEN_BLOCK)]
