"""Materials: a row of numbers that says how a surface looks; drawn per role, evaluated in textures.

The size of a pattern follows the size of a pixel at the distance a world is seen from, so that its
energy reaches the pixel limit without passing it for most surfaces.
"""

from __future__ import annotations

import numpy as np

from everview.datasets.procedural.draws import Draws

KINDS = (
    "flat", "checker", "stripes", "bricks", "glyphs", "noise", "wood", "marble",
    "gradient", "dots", "foliage", "collage", "flowers", "grid",
)  # fmt: skip
KIND = {name: code for code, name in enumerate(KINDS)}

# One row of the material table. Colours are linear RGB; frequencies are cells per metre.
COLUMNS = (
    "kind", "frequency_u", "frequency_v", "cos", "sin", "seed",
    "r0", "g0", "b0", "r1", "g1", "b1", "r2", "g2", "b2",
    "grain", "grain_frequency", "specular", "shininess",
)  # fmt: skip
COLUMN = {name: position for position, name in enumerate(COLUMNS)}

# How often each kind appears (in the order of KINDS), by role.
ROLES = {
    "object": (0.14, 0.08, 0.09, 0.05, 0.10, 0.12, 0.10, 0.08, 0.03, 0.06, 0.05, 0.04, 0.03, 0.03),
    "floor": (0.06, 0.12, 0.06, 0.14, 0.00, 0.12, 0.28, 0.06, 0.00, 0.02, 0.03, 0.01, 0.03, 0.07),
    "wall": (0.34, 0.02, 0.10, 0.14, 0.03, 0.08, 0.05, 0.04, 0.03, 0.03, 0.02, 0.02, 0.08, 0.02),
    "ceiling": (0.70, 0.02, 0.02, 0.00, 0.00, 0.06, 0.05, 0.00, 0.05, 0.00, 0.00, 0.00, 0.00, 0.10),
    "picture": (0.00, 0.03, 0.03, 0.02, 0.30, 0.08, 0.02, 0.05, 0.02, 0.04, 0.06, 0.25, 0.08, 0.02),
    "leaves": (0.00, 0.00, 0.05, 0.00, 0.00, 0.15, 0.00, 0.00, 0.00, 0.00, 0.80, 0.00, 0.00, 0.00),
    "timber": (0.05, 0.00, 0.02, 0.00, 0.00, 0.03, 0.90, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),
    "toy": (0.55, 0.03, 0.06, 0.02, 0.06, 0.06, 0.06, 0.02, 0.02, 0.04, 0.02, 0.02, 0.02, 0.02),
    "sky": (0.30, 0.00, 0.00, 0.00, 0.00, 0.25, 0.00, 0.00, 0.35, 0.00, 0.05, 0.05, 0.00, 0.00),
}


def linear_from_srgb(colour: np.ndarray) -> np.ndarray:
    """Display values in [0, 1] to linear ones, with the plain 2.2 power that `shading` inverts."""
    return np.clip(colour, 0.0, 1.0) ** 2.2


def rgb_from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[...] each, hue in turns, to [..., 3]."""
    sector = (hue[..., None] * 6.0 + np.array([5.0, 3.0, 1.0])) % 6.0
    dip = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] * dip)


def _palette(draws: Draws, count: int, role: str) -> np.ndarray:
    """Three colours [B, n, 3, 3] in display space that go together, or clash on purpose."""
    hue = draws.uniform(count)
    mood = draws.choice([0.34, 0.36, 0.30], count)
    saturation = draws.uniform(count) * np.array([0.14, 0.40, 0.45])[mood]
    saturation = saturation + np.array([0.0, 0.15, 0.52])[mood]
    value = draws.uniform(count, low=0.22, high=0.98)
    if role == "leaves":
        hue, saturation = 0.22 + 0.16 * hue, 0.35 + 0.5 * saturation
        value = 0.25 + 0.45 * value
    elif role == "timber":
        hue, saturation, value = 0.04 + 0.07 * hue, 0.3 + 0.45 * saturation, 0.3 + 0.6 * value
    elif role in ("wall", "ceiling"):
        is_pale = draws.chance(0.65, count)
        value = np.where(is_pale, 0.62 + 0.36 * value, value)
        saturation = np.where(is_pale, 0.35 * saturation, saturation)
    elif role == "sky":
        hue, saturation, value = 0.5 + 0.2 * hue, 0.6 * saturation, 0.55 + 0.45 * value
    first = rgb_from_hsv(hue, saturation, value)

    relation = draws.choice([0.45, 0.30, 0.25], count)[..., None]
    shift = draws.uniform(count, low=0.22, high=0.55) * np.where(value > 0.55, -1.0, 1.0)
    shade = rgb_from_hsv(hue, saturation, np.clip(value + shift, 0.04, 1.0))
    other_hue = (hue + draws.uniform(count, low=0.15, high=0.85)) % 1.0
    other = rgb_from_hsv(other_hue, draws.uniform(count), draws.uniform(count, low=0.1))
    ink = np.where((value > 0.5)[..., None], 0.06, 0.94) * np.ones(3)
    if role in ("timber", "sky", "leaves"):
        relation = np.zeros_like(relation)
        shade = first * draws.uniform(count, low=0.45, high=0.8)[..., None]
    second = np.where(relation == 0, shade, np.where(relation == 1, other, ink))
    third = rgb_from_hsv(draws.uniform(count), draws.uniform(count), draws.uniform(count, low=0.1))
    third = np.where(draws.chance(0.5, count)[..., None], 0.5 * (first + second), third)
    return np.stack([first, second, third], -2)


def draw_materials(
    draws: Draws,
    count: int,
    role: str,
    pixel_m: np.ndarray,
    scale: tuple[float, float] = (2.0, 16.0),
) -> np.ndarray:
    """Material rows [B, n, columns] of one role.

    pixel_m [B]: what a pixel covers at the usual distance, metres; a cell is `scale` pixels wide.
    """
    kind = draws.choice(ROLES[role], count)
    low, high = np.log(scale[0]), np.log(scale[1])
    cell_px = np.exp(low + (high - low) * draws.uniform(count))
    # these show several features in a cell, or look wrong when tiny
    larger = np.ones(len(KINDS))
    for name, factor in {"glyphs": 2.6, "collage": 2.5, "flowers": 2.0, "wood": 1.6}.items():
        larger[KIND[name]] = factor
    frequency = 1.0 / (pixel_m[:, None] * cell_px * larger[kind])
    ratio = draws.log_uniform(count, low=0.6, high=1.6)
    ratio = np.where(kind == KIND["wood"], draws.uniform(count, low=0.1, high=0.35), ratio)
    ratio = np.where(kind == KIND["bricks"], 0.35 + 0.4 * ratio, ratio)
    upright = draws.chance(0.6, count)
    turn = draws.uniform(count, high=2.0 * np.pi)
    turn = np.where(upright, np.round(turn / (np.pi / 2)) * (np.pi / 2), turn)
    colours = linear_from_srgb(_palette(draws, count, role)).reshape(draws.batch, count, 9)
    grain = draws.uniform(count, low=0.0, high=0.35) * draws.chance(0.7, count)
    grain_frequency = 1.0 / (pixel_m[:, None] * draws.log_uniform(count, low=1.2, high=6.0))
    is_glossy = draws.chance(0.35, count)
    specular = np.where(is_glossy, draws.uniform(count, low=0.1, high=0.6), 0.0)
    shininess = draws.log_uniform(count, low=8.0, high=90.0)
    seed = draws.integers(count, high=1 << 20).astype(np.float64)
    head = [kind.astype(np.float64), frequency, frequency * ratio, np.cos(turn), np.sin(turn), seed]
    tail = [grain, grain_frequency, specular, shininess]
    return np.concatenate([np.stack(head, -1), colours, np.stack(tail, -1)], -1)


def plain(batch: int, colour: tuple[float, float, float]) -> np.ndarray:
    """One flat, matt material row [B, 1, columns] of a display colour."""
    row = np.zeros((batch, 1, len(COLUMNS)))
    row[..., COLUMN["frequency_u"] : COLUMN["cos"] + 1] = 1.0
    row[..., COLUMN["r0"] : COLUMN["b2"] + 1] = np.tile(linear_from_srgb(np.array(colour)), 3)
    row[..., COLUMN["grain_frequency"]] = row[..., COLUMN["shininess"]] = 1.0
    return row
