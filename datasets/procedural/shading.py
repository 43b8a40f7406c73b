"""From hits to light: the surface's frame, its texture, and a Lambert and Blinn-Phong sum.

All vectors are in the camera's frame. Light is linear; `rendering` averages the samples of a pixel
and encodes them with the power 1/2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everview.datasets.procedural import frames
from everview.datasets.procedural.frames import ViewTable
from everview.datasets.procedural.intersection import Vector, dot
from everview.datasets.procedural.materials import COLUMN
from everview.datasets.procedural.relief import gradient
from everview.datasets.procedural.scenes import (
    RELIEF_POSE,
    RELIEF_ROW,
    SHELL_POSE,
    SHELL_ROW,
    SKY_ROW,
)
from everview.datasets.procedural.textures import Colour, surface_colour
from everview.datasets.procedural.tracing import Hits


def _where3(condition: Tensor, a: Vector, b: Vector) -> Vector:
    return tuple(torch.where(condition, ak, bk) for ak, bk in zip(a, b, strict=True))


def _unit(a: Vector) -> Vector:
    scale = torch.rsqrt(dot(a, a).clamp(min=1e-30))
    return (a[0] * scale, a[1] * scale, a[2] * scale)


def _active_constraint(
    p: Vector, q: Vector, taper: tuple[Tensor, Tensor]
) -> tuple[Tensor, Vector, Tensor, Tensor]:
    """Which part of a convex body's surface p lies on.

    Returns the distance to it (in units of the frame), its outward normal, the axis of the slab
    (int32), and whether it is the quadric rather than a slab.
    """
    ax, ay, az = p[0].abs(), p[1].abs(), p[2].abs()
    is_x = (ax >= ay) & (ax >= az)
    is_y = ~is_x & (ay >= az)
    axis = torch.where(is_x, 0, torch.where(is_y, 1, 2)).to(torch.int32)
    slab = torch.maximum(torch.maximum(ax, ay), az) - 1.0
    zero = torch.zeros_like(ax)
    sides = tuple(torch.where(c < 0, -1.0, 1.0) for c in p)
    slab_normal = tuple(torch.where(axis == k, sides[k], zero) for k in range(3))

    width = taper[0] + taper[1] * p[2]
    value = q[0] * p[0] ** 2 + q[1] * p[1] ** 2 + q[2] * p[2] ** 2 - width * width
    slope = (q[0] * p[0], q[1] * p[1], q[2] * p[2] - taper[1] * width)
    length = torch.sqrt(dot(slope, slope))
    quadric = value / (2.0 * length).clamp(min=1e-6)
    # a box has no quadric: its value is -1 with no slope
    is_quadric = (quadric > slab) & (length > 1e-6)
    normal = _where3(is_quadric, slope, slab_normal)
    return torch.where(is_quadric, quadric, slab), normal, axis, is_quadric


def _surface(table: ViewTable, x: Tensor, y: Tensor, hits: Hits, relief: bool) -> tuple:
    """Normal in the camera's frame, u, v in metres, face code and material row of every hit."""
    poses = table.body.shape[-1]
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * poses + hits.pose
    body = table.body.flatten(1)[:, rows.reshape(-1)].unflatten(1, x.shape)
    t = torch.where(hits.is_sky, 0.0, hits.depth)
    m = body[frames.DIRECTION].unbind(0)
    o = body[frames.ORIGIN].unbind(0)
    p = tuple(o[k] + t * (m[3 * k] * x + m[3 * k + 1] * y + m[3 * k + 2]) for k in range(3))

    is_shell, is_bump = hits.pose == SHELL_POSE, hits.pose == RELIEF_POSE
    quadric = tuple(torch.where(is_shell, 0.0, c) for c in body[frames.QUADRIC].unbind(0))
    a, b = body[frames.TAPER].unbind(0)
    taper = (torch.where(is_shell, 1.0, a), torch.where(is_shell, 0.0, b))
    gap, normal, axis, is_round = _active_constraint(p, quadric, taper)

    centre, inverse, cut_quadric = (
        body[c].unbind(0) for c in (frames.CUT_CENTRE, frames.CUT_INVERSE, frames.CUT_QUADRIC)
    )
    pc = tuple((p[k] - centre[k]) * inverse[k] for k in range(3))
    one = torch.ones_like(a)
    cut_gap, cut_normal, cut_axis, cut_round = _active_constraint(pc, cut_quadric, (one, 0.0 * one))
    is_cut = (cut_gap.abs() < gap.abs()) & ~is_shell & ~is_bump
    cut_normal = tuple(-cut_normal[k] * inverse[k] for k in range(3))
    normal = _where3(is_cut, cut_normal, normal)
    axis = torch.where(is_cut, cut_axis, axis)
    is_round = torch.where(is_cut, cut_round, is_round)
    normal = _where3(is_shell, tuple(-c for c in normal), normal)
    if relief:
        shape = tuple(table.view[frames.RELIEF, :, None].unbind(0))
        normal = _where3(is_bump, gradient(p, shape), normal)
        is_round = is_round & ~is_bump

    half = body[frames.HALF].unbind(0)
    metric = tuple(p[k] * half[k] for k in range(3))
    around = torch.atan2(p[1], p[0]) * 0.5 * (half[0] + half[1])
    u = torch.where(is_round, around, torch.where(axis == 0, metric[1], metric[0]))
    v = torch.where(is_round | (axis != 2), metric[2], metric[1])
    side = (normal[0] + normal[1] + normal[2] > 0).to(torch.int32)
    face = torch.where(is_round, 6, 2 * axis + side)
    second = (((axis == 2) & ~is_round) | is_cut).to(torch.int64)
    row = torch.where(is_shell, SHELL_ROW + hits.wall, 2 * hits.pose + second)
    row = torch.where(is_bump, RELIEF_ROW, row)
    # normals transform with the transpose of the map from camera directions to the body's frame
    seen = tuple(m[k] * normal[0] + m[3 + k] * normal[1] + m[6 + k] * normal[2] for k in range(3))
    return _unit(seen), u, v, face, row


def shade(
    table: ViewTable, x: Tensor, y: Tensor, hits: Hits, lit: Tensor, *, relief: bool
) -> Colour:
    """Linear radiance [M, R] per channel of every ray; `lit` is the visibility of the key light."""
    normal, u, v, face, row = _surface(table, x, y, hits, relief)
    view = table.view[:, :, None]
    one = torch.ones_like(x)

    # the sky is a texture over azimuth and elevation, at a nominal 10 m
    turn = view[frames.TURN].unbind(0)
    ray = tuple(turn[3 * k] * x + turn[3 * k + 1] * y + turn[3 * k + 2] for k in range(3))
    azimuth = torch.atan2(ray[1], ray[0])
    elevation = torch.atan2(ray[2], torch.sqrt(ray[0] ** 2 + ray[1] ** 2))
    u, v = (
        torch.where(hits.is_sky, 10.0 * azimuth, u),
        torch.where(hits.is_sky, 10.0 * elevation, v),
    )
    face = torch.where(hits.is_sky, 0, face)
    row = torch.where(hits.is_sky, SKY_ROW, row)

    towards_eye = _unit((-x, -y, -one))
    facing = dot(normal, towards_eye)
    fx = view[frames.FOCAL][0]
    t = torch.where(hits.is_sky, 10.0, hits.depth)
    slant = torch.where(hits.is_sky, 1.0, facing.abs().clamp(min=0.12))
    footprint = 0.5 * t * torch.sqrt(x * x + y * y + 1.0) / (fx * slant)

    index = table.material_base[:, None] + row
    material = table.material[:, index.reshape(-1)].unflatten(1, x.shape).unbind(0)
    albedo = surface_colour(material, u, v, face, footprint)

    light_at = view[frames.LIGHT_AT].unbind(0)
    gap = (light_at[0] - t * x, light_at[1] - t * y, light_at[2] - t)
    falloff = view[frames.SCALARS][0]
    towards_light = _unit(gap)
    lambert = dot(normal, towards_light).clamp(min=0.0) * lit / (1.0 + falloff * dot(gap, gap))
    middle = _unit(tuple(a + b for a, b in zip(towards_light, towards_eye, strict=True)))
    shine = dot(normal, middle).clamp(min=1e-4) ** material[COLUMN["shininess"]]
    shine = shine * material[COLUMN["specular"]] * (lambert > 0).to(x.dtype) * lit
    up = 0.5 + 0.5 * dot(normal, view[frames.UP].unbind(0))
    fill = dot(normal, view[frames.FILL_FROM].unbind(0)).clamp(min=0.0)
    colours = []
    for k in range(3):
        sky, ground = view[frames.SKY][k], view[frames.GROUND][k]
        key = view[frames.KEY][k]
        ambient = ground + (sky - ground) * up + view[frames.FILL][k] * fill
        surface = albedo[k] * (ambient + key * lambert) + key * shine
        colours.append(torch.where(hits.is_sky, albedo[k], surface))
    return tuple(colours)
