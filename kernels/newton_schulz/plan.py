"""Which tiles a product of Newton-Schulz is cut into: data, and a choice by shape.

An H100 multiplies 2048 bf16 pairs a clock on each of 132 multiprocessors and fetches about 64 bytes
a clock from the second-level cache, so a tile's step over `depth` costs the larger of the two. Few
matrices leave multiprocessors idle under large tiles; many are cheapest in large ones. `estimate`
weighs that; `MEASURED` overrules it where a measurement exists.

Shapes: N matrices, R rows, C columns, R <= C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gram", "square", "update", "pair", "mixed", "fold"]
"""The products. Forward: gram A = X X^T (or a product of polynomials of A, symmetric too); square
B = a I + b A + c A A; update X' = B X. Backward: pair S = G X^T + X G^T; mixed
M = b S + c (S A + A S); fold B G + M X."""

LONGEST_PHASE = 3
MULTIPROCESSORS = 132
_PAIRS_A_CLOCK = 2048
_BYTES_A_CLOCK = 64
_START_AND_END = 2500  # clocks that a tile spends outside its loop


@dataclass(frozen=True)
class Tiles:
    """One way to cut a product: an output tile of rows x columns, summed `depth` at a time.

    stages: loads in flight. resident: tiles that share a multiprocessor at once, by their memory.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    resident: int


_SYMMETRIC = (
    Tiles(64, 64, 64, warps=4, stages=4, resident=3),
    Tiles(64, 128, 64, warps=4, stages=4, resident=2),
    Tiles(64, 128, 128, warps=4, stages=3, resident=1),
    Tiles(128, 128, 64, warps=8, stages=3, resident=2),
)
_GENERAL = (
    Tiles(64, 128, 64, warps=4, stages=3, resident=3),
    Tiles(128, 128, 64, warps=8, stages=3, resident=2),
    Tiles(128, 128, 128, warps=8, stages=3, resident=1),
    Tiles(128, 256, 64, warps=8, stages=4, resident=1),
)

CHOICES: dict[Kind, tuple[Tiles, ...]] = {
    "gram": _SYMMETRIC,
    "square": _SYMMETRIC,
    "pair": _SYMMETRIC,
    "mixed": _SYMMETRIC,
    "update": _GENERAL,
    "fold": _GENERAL,
}

MEASURED: dict[tuple[Kind, int, int, int], Tiles] = {
    ("gram", 3, 768, 1536): _SYMMETRIC[2],
    ("gram", 16, 384, 768): _SYMMETRIC[0],
    ("square", 16, 384, 384): _SYMMETRIC[0],
    ("update", 16, 384, 768): _GENERAL[0],
    ("pair", 16, 384, 768): _SYMMETRIC[1],
    ("mixed", 16, 384, 384): _SYMMETRIC[0],
    ("gram", 12, 512, 512): _SYMMETRIC[1],
    ("square", 12, 512, 512): _SYMMETRIC[1],
    ("update", 12, 512, 512): _GENERAL[0],
    ("pair", 12, 512, 512): _SYMMETRIC[1],
    ("mixed", 12, 512, 512): _SYMMETRIC[1],
    ("fold", 12, 512, 512): _GENERAL[0],
    ("square", 48, 384, 384): _SYMMETRIC[1],
    ("pair", 48, 384, 768): _SYMMETRIC[1],
    ("update", 72, 768, 1536): _GENERAL[3],
    ("fold", 72, 768, 1536): _GENERAL[3],
    ("pair", 160, 256, 512): _SYMMETRIC[2],
    ("fold", 10, 768, 1536): _GENERAL[3],
}
"""(kind, N, R, C) to the tiles that were fastest there on an H100; C is R for square and mixed."""

TOGETHER: dict[tuple[int, int, int], int] = {(160, 256, 512): 80}
"""(N, R, C) to how many matrices go through all steps together, for many small ones: what then
fits the second-level cache is faster than all at once. All of them unless named here."""


def symmetric(kind: Kind) -> bool:
    """Whether the product is symmetric, so that only tiles on and below the diagonal are made."""
    return kind not in ("update", "fold")


def twice(kind: Kind) -> bool:
    """Whether two products are summed."""
    return kind in ("pair", "mixed", "fold")


def tile_count(kind: Kind, tiles: Tiles, rows: int, columns: int) -> int:
    """Tiles for one matrix [R, C]."""
    if not symmetric(kind):
        return -(-rows // tiles.rows) * -(-columns // tiles.columns)
    side = max(tiles.rows, tiles.columns)
    down = -(-rows // side)
    return side // tiles.rows * (side // tiles.columns) * down * (down + 1) // 2


def estimate(kind: Kind, tiles: Tiles, n: int, rows: int, columns: int) -> float:
    """Clocks that the product of N matrices [R, C] takes in these tiles, about."""
    products = 2 if twice(kind) else 1
    inner = columns if kind in ("gram", "pair") else rows
    multiply = tiles.rows * tiles.columns * tiles.depth / _PAIRS_A_CLOCK
    fetch = (tiles.rows + tiles.columns) * tiles.depth * 2 / _BYTES_A_CLOCK
    loop = products * -(-inner // tiles.depth) * max(multiply, fetch)
    per_multiprocessor = -(-n * tile_count(kind, tiles, rows, columns) // MULTIPROCESSORS)
    rounds = -(-per_multiprocessor // tiles.resident)
    return per_multiprocessor * loop + rounds * _START_AND_END


def choose(kind: Kind, n: int, rows: int, columns: int) -> Tiles:
    """The tiles for this product of N matrices [R, C]; columns is R for square and mixed."""
    measured = MEASURED.get((kind, n, rows, columns))
    if measured is not None:
        return measured
    return min(CHOICES[kind], key=lambda tiles: estimate(kind, tiles, n, rows, columns))


def phases(steps: int, n: int, rows: int, columns: int) -> tuple[int, ...]:
    """How many steps run on R x R matrices together, until all `steps` are done; see chain.py.

    Up to LONGEST_PHASE where matrices are wide and large, or many; else each alone. Longer phases
    first: later ones begin nearer to orthogonality, where errors grow faster. Measured on an H100,
    time together / alone: (3, 768, 1536) 0.95, (12, 768, 1536) 0.87, (48, 384, 768) 0.94; but
    (16, 384, 768) 1.06, (36, 512, 512) 1.19.
    """
    if columns < 2 * rows or (rows < 768 and n < 32):
        return (1,) * steps
    count = -(-steps // LONGEST_PHASE)
    return tuple(steps // count + (place < steps % count) for place in range(count))


@dataclass(frozen=True)
class Configuration:
    """One compiled form of a product: its kind, tiles, and whether it leaves float32."""

    kind: Kind
    tiles: Tiles
    wide_result: bool = False


def configurations() -> list[Configuration]:
    """Every compiled form that can be chosen."""
    found = []
    for kind, choices in CHOICES.items():
        found += [Configuration(kind, tiles) for tiles in choices]
        if not symmetric(kind):
            found += [Configuration(kind, tiles, wide_result=True) for tiles in choices]
    return found
