"""Rays of M views against the bodies of their scenes: nearest hits and shadows.

Index legend: M views, R rays (the same pixel samples in every view), N bodies. x, y [M, R] are the
camera-plane coordinates of a ray, whose direction is (x, y, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everview.datasets.procedural import frames
from everview.datasets.procedural.frames import ViewTable
from everview.datasets.procedural.intersection import Vector, box_exit, entry
from everview.datasets.procedural.relief import march
from everview.datasets.procedural.scenes import BODIES, RELIEF_POSE, SHELL_POSE

# A shadow ray starts this share of the scene's extent off its surface.
SHADOW_BIAS = 2e-3


@dataclass(frozen=True, eq=False)
class Hits:
    """depth [M, R] (+inf at the sky); pose [M, R] int64 row of the pose table (the shell's at the
    sky); wall [M, R] int64 of the shell; is_sky [M, R]."""

    depth: Tensor
    pose: Tensor
    wall: Tensor
    is_sky: Tensor


def camera_plane(table: ViewTable, pixel_u: Tensor, pixel_v: Tensor) -> tuple[Tensor, Tensor]:
    """x, y [M, R] of the pixel positions [R]."""
    fx, fy, cx, cy = table.view[frames.FOCAL].unbind(0)
    x = (pixel_u - cx[:, None]) / fx[:, None]
    y = (pixel_v - cy[:, None]) / fy[:, None]
    return x, y


def _local_ray(body: Tensor, x: Tensor, y: Tensor) -> tuple[Vector, Vector]:
    """Origins and directions in the frames of body [36, ...], broadcast against x, y."""
    m = body[frames.DIRECTION].unbind(0)
    d = tuple(m[3 * k] * x + m[3 * k + 1] * y + m[3 * k + 2] for k in range(3))
    return tuple(body[frames.ORIGIN].unbind(0)), d


def _solid(body: Tensor) -> tuple[Any, Any]:
    """The arguments `body` and `cutter` of `intersection.entry`."""
    cutter = (frames.CUT_CENTRE, frames.CUT_INVERSE, frames.CUT_QUADRIC)
    quadric, taper = tuple(body[frames.QUADRIC].unbind(0)), tuple(body[frames.TAPER].unbind(0))
    return (quadric, taper), tuple(tuple(body[c].unbind(0)) for c in cutter)


def nearest_hits(
    table: ViewTable, x: Tensor, y: Tensor, *, relief: bool, keep: Tensor | None = None
) -> Hits:
    """What every ray meets first. keep: the bodies worth testing, default all."""
    body = table.body[:, :, None, :BODIES]
    if keep is not None:
        body = body[..., keep]
    o, d = _local_ray(body, x[..., None], y[..., None])
    if body.shape[-1] == 0:
        depth = torch.full_like(x, torch.inf)
        pose = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    else:
        depth, pose = entry(o, d, *_solid(body), 1e-4).min(-1)
        pose = pose if keep is None else keep[pose]

    wall_depth, wall = box_exit(*_local_ray(table.body[:, :, None, SHELL_POSE], x, y))
    visible = table.view[frames.WALLS].T.reshape(-1)
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    wall_depth = torch.where(visible[rows * 6 + wall] > 0, wall_depth, torch.inf)
    if relief:
        shape = tuple(table.view[frames.RELIEF, :, None].unbind(0))
        bump_depth = march(*_local_ray(table.body[:, :, None, RELIEF_POSE], x, y), shape)
        pose = torch.where(bump_depth < depth, RELIEF_POSE, pose)
        depth = torch.minimum(depth, bump_depth)
    pose = torch.where(depth < wall_depth, pose, SHELL_POSE)
    depth = torch.minimum(depth, wall_depth)
    return Hits(depth, pose, wall, torch.isinf(depth))


def shadows(
    table: ViewTable, x: Tensor, y: Tensor, depth: Tensor, *, keep: Tensor | None = None
) -> Tensor:
    """[M, R], 1 where the key light reaches the point at `depth`, 0 where a body is in between."""
    body = table.body[:, :, None, :BODIES]
    if keep is not None:
        body = body[..., keep]
    if body.shape[-1] == 0:
        return torch.ones_like(depth)
    t = torch.where(torch.isinf(depth), 0.0, depth)
    light_at = table.view[frames.LIGHT_AT][:, :, None]
    gap = torch.sqrt(
        (light_at[0] - x * t) ** 2 + (light_at[1] - y * t) ** 2 + (light_at[2] - t) ** 2
    )
    _, casts, extent, _ = table.view[frames.SCALARS][:, :, None].unbind(0)
    bias = SHADOW_BIAS * extent / gap

    o, d = _local_ray(body, x[..., None], y[..., None])
    p = tuple(ok + t[..., None] * dk for ok, dk in zip(o, d, strict=True))
    light = body[frames.LIGHT].unbind(0)
    towards = tuple(lk - pk for lk, pk in zip(light, p, strict=True))
    first = entry(p, towards, *_solid(body), bias[..., None]).amin(-1)
    return torch.where((first < 1.0) & (casts > 0), 0.0, torch.ones_like(depth))
