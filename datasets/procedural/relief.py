"""Height fields: a displaced body met by a fixed-step march and a few secant steps.

In its own frame the surface is f(p) = |p|_power - 1 + amplitude (1 - noise(frequency p)) = 0,
inside the unit ball (or superquadric box). Marching costs as much as all other bodies together, so
the renderer runs it only for scenes that have one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everview.datasets.procedural.intersection import Vector, convex_interval
from everview.datasets.procedural.noise import solid_noise

STEPS = 32
REFINEMENTS = 4

# power, amplitude, frequency, seed
Shape = tuple[Tensor, ...]  # four


def height(p: Vector, shape: Shape) -> Tensor:
    """f(p), negative inside."""
    power, amplitude, frequency, seed = shape
    x, y, z = (c.abs().clamp(min=1e-6) for c in p)
    largest = torch.maximum(torch.maximum(x, y), z)
    total = (x / largest) ** power + (y / largest) ** power + (z / largest) ** power
    norm = largest * total ** (1.0 / power)
    code = seed.to(torch.int32)
    fx, fy, fz = (c * frequency for c in p)
    coarse = solid_noise(fx, fy, fz, code)
    fine = solid_noise(2.3 * fx + 5.1, 2.3 * fy, 2.3 * fz, code + 3)
    return norm - 1.0 + amplitude * (1.0 - 0.7 * coarse - 0.3 * fine)


def march(o: Vector, d: Vector, shape: Shape) -> Tensor:
    """First t > 0 at which o + t d enters the relief; +inf where it doesn't.

    o, d: triples [M, R]; shape: each [M, 1]. The step is 1/STEPS of the chord through the unit
    box: features thinner than that can be missed, the same way in every view direction.
    """
    one = torch.ones_like(d[0])
    box = (torch.zeros_like(one),) * 3
    near, far = convex_interval(o, d, box, (one, torch.zeros_like(one)))
    near = near.clamp(min=1e-4)
    step = (far - near).clamp(min=0.0) / STEPS
    index = torch.arange(1, STEPS + 1, device=one.device, dtype=one.dtype)
    t = near[..., None] + step[..., None] * index
    p = tuple(ok[..., None] + t * dk[..., None] for ok, dk in zip(o, d, strict=True))
    inside = height(p, tuple(c[..., None] for c in shape)) < 0
    first = torch.where(inside, index, torch.full_like(t, torch.inf)).amin(-1)
    hits = torch.isfinite(first) & (near < far)
    first = torch.where(hits, first, 1.0)

    outer, inner = near + step * (first - 1.0), near + step * first
    f_outer = height(_at(o, d, outer), shape).clamp(min=1e-9)
    f_inner = height(_at(o, d, inner), shape).clamp(max=-1e-9)
    moved_inner = torch.full_like(hits, False)
    moved_outer = moved_inner
    for _ in range(REFINEMENTS):
        middle = outer + (inner - outer) * (f_outer / (f_outer - f_inner))
        f_middle = height(_at(o, d, middle), shape)
        is_inner = f_middle < 0
        # Illinois: the value of an end that stays put twice is halved, so that both ends close in
        f_outer, f_inner = (
            torch.where(is_inner, torch.where(moved_inner, 0.5, 1.0) * f_outer, f_middle),
            torch.where(is_inner, f_middle, torch.where(moved_outer, 0.5, 1.0) * f_inner),
        )
        f_outer, f_inner = f_outer.clamp(min=1e-12), f_inner.clamp(max=-1e-9)
        outer, inner = torch.where(is_inner, outer, middle), torch.where(is_inner, middle, inner)
        moved_inner, moved_outer = is_inner, ~is_inner
    t = outer + (inner - outer) * (f_outer / (f_outer - f_inner))
    return torch.where(hits, t, torch.full_like(t, torch.inf))


def _at(o: Vector, d: Vector, t: Tensor) -> Vector:
    return (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])


def gradient(p: Vector, shape: Shape) -> Vector:
    """Gradient of f at p by central differences."""
    e = 2e-3
    parts = []
    for axis in range(3):
        ahead = tuple(c + e if k == axis else c for k, c in enumerate(p))
        behind = tuple(c - e if k == axis else c for k, c in enumerate(p))
        parts.append((height(ahead, shape) - height(behind, shape)) / (2.0 * e))
    return tuple(parts)
