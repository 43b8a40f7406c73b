"""Which bodies a tile of rays can meet: conservative tests with bounding balls, for the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from everview.datasets.procedural import frames
from everview.datasets.procedural.frames import ViewTable
from everview.datasets.procedural.scenes import BODIES


def _bounding_balls(one: ViewTable) -> tuple[Tensor, Tensor]:
    """Centres [N, 3] in the camera's frame and radii [N] of the bodies of one view."""
    ball = one.body[frames.BALL, 0, :BODIES].double()
    return ball[:3].T, ball[3]


def bodies_in_tile(one: ViewTable, x: Tensor, y: Tensor) -> Tensor:
    """Indices of bodies whose ball reaches into the frustum of rays x, y [1, R]."""
    centre, radius = _bounding_balls(one)
    touches = centre[:, 2] + radius > 0
    for plane, sign in ((x, 0), (y, 1)):
        low, high = float(plane.min()), float(plane.max())
        for slope, direction in ((low, 1.0), (high, -1.0)):
            # the plane through the eye at this slope, its normal towards the inside
            distance = direction * (centre[:, sign] - slope * centre[:, 2]) / (1 + slope**2) ** 0.5
            touches &= distance > -radius
    return torch.nonzero(touches)[:, 0]


def bodies_in_light(one: ViewTable, x: Tensor, y: Tensor, depth: Tensor) -> Tensor:
    """Indices of bodies whose ball reaches into the hull of the tile's hits and the light."""
    t = depth[torch.isfinite(depth)].double()
    if len(t) == 0:
        return torch.zeros(0, dtype=torch.int64)
    seen = torch.isfinite(depth)
    points = torch.stack([x[seen] * t, y[seen] * t, t], -1)
    low, high = points.amin(0), points.amax(0)
    middle, spread = (low + high) / 2.0, float((high - low).norm()) / 2.0
    light = one.view[frames.LIGHT_AT, 0].double()
    centre, radius = _bounding_balls(one)
    axis = light - middle
    share = ((centre - middle) @ axis / axis.square().sum()).clamp(0.0, 1.0)
    gap = (centre - middle - share[:, None] * axis).norm(dim=-1)
    return torch.nonzero(gap < radius + spread)[:, 0]
