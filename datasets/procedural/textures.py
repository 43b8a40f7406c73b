"""Procedural textures, evaluated once per hit and without a branch over the kind.

Every kind maps a surface point (u, v in metres) to a mixing value m in [0, 1] between the first two
colours of a material, and a mask k for the third. Patterns fade to their mean where one of their
features is smaller than a pixel's footprint: what supersampling can't resolve must not alias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everview.datasets.procedural.materials import COLUMN, KIND
from everview.datasets.procedural.noise import (
    hash_cells,
    remix,
    unit_from_hash,
    value_noise,
)

Colour = tuple[Tensor, ...]  # three

# Features inside one cell, per kind (in the order of KINDS): a glyph is 4 strokes wide, and so on.
FINENESS = (0.1, 1.0, 1.5, 2.0, 4.0, 1.5, 3.0, 2.0, 0.2, 1.5, 3.0, 2.0, 1.5, 4.0)
MEAN = (0.0, 0.5, 0.5, 0.5, 0.3, 0.5, 0.5, 0.5, 0.5, 0.35, 0.5, 0.5, 0.3, 0.2)


def _mix(a: Tensor, b: Tensor, m: Tensor) -> Tensor:
    return a + (b - a) * m


def _smooth(edge0: float, edge1: float, x: Tensor) -> Tensor:
    f = ((x - edge0) / (edge1 - edge0)).clamp(0.0, 1.0)
    return f * f * (3.0 - 2.0 * f)


def _pick(kind: Tensor, values: tuple[float, ...]) -> Tensor:
    """values[kind], as a chain of selects (no table in the kernel)."""
    result = torch.full_like(kind, values[0])
    for code, value in enumerate(values[1:], start=1):
        result = torch.where(kind == code, value, result)
    return result


def surface_colour(
    material: tuple[Tensor, ...], u: Tensor, v: Tensor, face: Tensor, footprint: Tensor
) -> Colour:
    """Linear albedo of surface points.

    material: the columns of `materials.COLUMNS`. u, v: metres on the surface. face: int32, changes
    the pattern's seed between the faces of a body. footprint: metres a pixel covers there.
    """
    column = {name: material[position] for name, position in COLUMN.items()}
    kind = column["kind"]
    seed = column["seed"].to(torch.int32) + face * 7919
    s = (column["cos"] * u + column["sin"] * v) * column["frequency_u"]
    t = (column["cos"] * v - column["sin"] * u) * column["frequency_v"]
    spread = footprint * torch.maximum(column["frequency_u"], column["frequency_v"])

    m, k, cell = _patterns(kind, s, t, seed, spread)
    fade = _smooth(0.35, 0.95, spread * _pick(kind, FINENESS))
    m = _mix(m, _pick(kind, MEAN), fade)
    k = k * (1.0 - fade)

    grain_u, grain_v = u * column["grain_frequency"], v * column["grain_frequency"]
    grain = value_noise(grain_u, grain_v, seed + 31) - 0.5
    grain = (
        grain * column["grain"] * (1.0 - _smooth(0.4, 1.0, footprint * column["grain_frequency"]))
    )

    is_collage = kind == KIND["collage"]
    colours = []
    for c, name in enumerate("rgb"):
        plain = _mix(_mix(column[name + "0"], column[name + "1"], m), column[name + "2"], k)
        random = unit_from_hash(remix(cell, c + 1), u.dtype)
        random = _mix(random * random, plain, 0.25 + 0.75 * fade)
        value = torch.where(is_collage, random, plain)
        colours.append((value * (1.0 + 2.0 * grain)).clamp(0.0, 1.0))
    return tuple(colours)


def _patterns(kind: Tensor, s: Tensor, t: Tensor, seed: Tensor, spread: Tensor) -> Colour:
    """m, k and the hash of the collage's cell, at pattern coordinates (cells) s, t."""
    is_wood = kind == KIND["wood"]
    # octaves fade one by one as they pass the pixel limit
    octave2 = 0.5 * (1.0 - _smooth(0.4, 1.0, spread * 2.1))
    octave3 = 0.3 * (1.0 - _smooth(0.4, 1.0, spread * 4.3))
    fbm = (
        value_noise(s, t, seed)
        + octave2 * (value_noise(2.1 * s + 7.3, 2.1 * t, seed + 1) - 0.5)
        + octave3 * (value_noise(4.3 * s, 4.3 * t + 3.1, seed + 2) - 0.5)
    )
    row = torch.floor(t)
    is_brick = kind == KIND["bricks"]
    offset = torch.where(is_brick, 0.5 * (row - 2.0 * torch.floor(row * 0.5)), 0.0)
    column = torch.floor(s + offset)
    fs, ft = s + offset - column, t - row
    i, j = column.to(torch.int32), row.to(torch.int32)
    h = hash_cells(i, j, seed + 5)
    shade = unit_from_hash(h, s.dtype)
    other = unit_from_hash(remix(h, 7), s.dtype)
    zero = torch.zeros_like(s)

    checker = ((i + j) & 1).to(s.dtype)
    stripes = (fs < 0.5).to(s.dtype)
    bricks, mortar = 0.7 * shade, ((fs < 0.07) | (ft < 0.12)).to(s.dtype)
    glyphs = _glyphs(fs, ft, h, i, j, seed)
    noise = _smooth(0.25, 0.75, fbm)
    plank = torch.floor(s * 0.16)
    plank_shade = unit_from_hash(hash_cells(plank.to(torch.int32), i * 0, seed + 9), s.dtype)
    rings = 6.0 * fbm + 1.5 * s
    rings = rings - torch.floor(rings)
    wood = 0.55 * (2.0 * (rings - 0.5).abs()) + 0.45 * plank_shade
    seam = is_wood & ((s * 0.16 - plank) < 0.035)
    veins = torch.sin(2.0 * torch.pi * (0.5 * s + 2.5 * fbm))
    marble = (1.0 - veins.abs()) ** 2
    gradient = 0.5 + 0.5 * torch.sin(0.7 * t + 0.4 * s)
    du, dv = fs - 0.3 - 0.4 * shade, ft - 0.3 - 0.4 * other
    radius = torch.sqrt(du * du + dv * dv)
    dots = (radius < 0.1 + 0.2 * other).to(s.dtype)
    angle = torch.atan2(dv, du)
    petals = 0.22 + 0.10 * torch.cos(torch.floor(3.0 + 3.0 * shade) * angle + 6.0 * other)
    flowers = _smooth(0.0, 0.06, petals - radius) * (0.55 + 0.45 * _smooth(0.0, 0.25, radius))
    leaf = fbm * 5.0
    foliage = (torch.floor(leaf) * 0.2 + 0.25 * (leaf - torch.floor(leaf))).clamp(0.0, 1.0)
    grid = ((fs < 0.09) | (ft < 0.09)).to(s.dtype)
    cell, busy = _collage_cell(s, t, i, j, h, seed)

    ordered = (zero, checker, stripes, bricks, glyphs, noise, wood, marble, gradient, dots,
               foliage, busy, flowers, grid)  # fmt: skip
    m = ordered[0]
    for code, value in enumerate(ordered[1:], start=1):
        m = torch.where(kind == code, value, m)
    # the third colour: mortar, the flowers' hearts, a rare cell of another colour
    rare = (remix(h, 3) & 7) == 0
    k = torch.where(is_brick, mortar, zero)
    k = torch.where((kind == KIND["flowers"]) & (radius < 0.09), 1.0, k)
    is_celled = (kind == KIND["checker"]) | (kind == KIND["stripes"]) | (kind == KIND["dots"])
    k = torch.where(is_celled & rare & (m > 0.5), 1.0, k)
    k = torch.where(seam, 0.8, k)
    return m, k, cell


def _glyphs(fs: Tensor, ft: Tensor, h: Tensor, i: Tensor, j: Tensor, seed: Tensor) -> Tensor:
    """Text-like marks: 3x5 random strokes in a 4x7 cell, in words, with margins between lines."""
    x, y = torch.floor(fs * 4.0).to(torch.int32), torch.floor(ft * 7.0).to(torch.int32)
    bit = (h >> ((y * 3 + x) & 15)) & 1
    word = hash_cells(i >> 2, j, seed + 13)
    is_gap = ((word >> (i & 3)) & 3) == 0
    on = (bit == 1) & (x < 3) & (y < 5) & ~is_gap
    return on.to(fs.dtype)


def _collage_cell(
    s: Tensor, t: Tensor, i: Tensor, j: Tensor, h: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """A mosaic of three sizes, like a photograph from afar: the hash of the tile, its shade."""
    fine = hash_cells(
        torch.floor(s * 3.0).to(torch.int32), torch.floor(t * 3.0).to(torch.int32), seed + 17
    )
    large = hash_cells(i >> 1, j >> 1, seed + 19)
    level = remix(h, 11) & 3
    cell = torch.where(level == 0, fine, torch.where(level == 1, large, h))
    return cell, unit_from_hash(remix(cell, 5), s.dtype)
