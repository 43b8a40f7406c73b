"""Integer-hash noise, the same bits on every device: what the textures and reliefs are made of.

Sine-based hashes differ between devices in the last bits and so in every bit; wrapping int32
arithmetic does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0x7FFFFFFF


def hash_cells(i: Tensor, j: Tensor, seed: Tensor) -> Tensor:
    """31 well-mixed bits, int32 in [0, 2^31), for every integer cell (i, j) under `seed`; int32."""
    h = i * 374761393 + j * 668265263 + seed * 1013904223
    h = (h ^ ((h >> 15) & 0x1FFFF)) * -2048144789
    h = (h ^ ((h >> 13) & 0x7FFFF)) * -1028477379
    return (h ^ ((h >> 16) & 0xFFFF)) & _MASK


def unit_from_hash(h: Tensor, dtype: torch.dtype) -> Tensor:
    """A float in [0, 1) from the upper 23 bits of a 31-bit hash (exact in float32)."""
    return (h >> 8).to(dtype) * (1.0 / 8388608.0)


def remix(h: Tensor, salt: int) -> Tensor:
    """Another 31-bit hash from one (for a second, third... number of the same cell)."""
    h = (h + salt * 97531) * 747796405
    return (h ^ ((h >> 14) & 0x3FFFF)) & _MASK


def value_noise(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """2-D value noise in [0, 1] with quintic fading; features have size 1."""
    iu, iv = torch.floor(u), torch.floor(v)
    fu, fv = u - iu, v - iv
    i, j = iu.to(torch.int32), iv.to(torch.int32)
    fu = fu * fu * fu * (fu * (fu * 6.0 - 15.0) + 10.0)
    fv = fv * fv * fv * (fv * (fv * 6.0 - 15.0) + 10.0)
    n00 = unit_from_hash(hash_cells(i, j, seed), u.dtype)
    n10 = unit_from_hash(hash_cells(i + 1, j, seed), u.dtype)
    n01 = unit_from_hash(hash_cells(i, j + 1, seed), u.dtype)
    n11 = unit_from_hash(hash_cells(i + 1, j + 1, seed), u.dtype)
    low = n00 + (n10 - n00) * fu
    high = n01 + (n11 - n01) * fu
    return low + (high - low) * fv


def solid_noise(x: Tensor, y: Tensor, z: Tensor, seed: Tensor) -> Tensor:
    """3-D value noise in [0, 1], continuously differentiable; features have size 1."""
    ix, iy, iz = torch.floor(x), torch.floor(y), torch.floor(z)
    fx, fy, fz = x - ix, y - iy, z - iz
    i, j, k = ix.to(torch.int32), iy.to(torch.int32), iz.to(torch.int32)
    fx = fx * fx * fx * (fx * (fx * 6.0 - 15.0) + 10.0)
    fy = fy * fy * fy * (fy * (fy * 6.0 - 15.0) + 10.0)
    fz = fz * fz * fz * (fz * (fz * 6.0 - 15.0) + 10.0)
    layers = []
    for dz in (0, 1):
        layer = seed + (k + dz) * 1597
        n00 = unit_from_hash(hash_cells(i, j, layer), x.dtype)
        n10 = unit_from_hash(hash_cells(i + 1, j, layer), x.dtype)
        n01 = unit_from_hash(hash_cells(i, j + 1, layer), x.dtype)
        n11 = unit_from_hash(hash_cells(i + 1, j + 1, layer), x.dtype)
        low = n00 + (n10 - n00) * fx
        high = n01 + (n11 - n01) * fx
        layers.append(low + (high - low) * fy)
    return layers[0] + (layers[1] - layers[0]) * fz
