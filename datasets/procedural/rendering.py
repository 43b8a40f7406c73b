"""Rendering: scenes and cameras in, uint8 pictures and exact z-depth out, in bounded memory.

One formulation, two executions. The torch functions of `tracing` and `shading` are the definition;
on the CPU they run over tiles of pixels, each with only the bodies whose bounding balls touch its
frustum or its light cone. On a CUDA device `kernel` does the same sums in one launch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.datasets.procedural import kernel
from everview.datasets.procedural.culling import bodies_in_light, bodies_in_tile
from everview.datasets.procedural.frames import ViewTable, view_table
from everview.datasets.procedural.scenes import SceneBatch
from everview.datasets.procedural.shading import shade
from everview.datasets.procedural.tracing import camera_plane, nearest_hits, shadows

Backend = Literal["kernel", "eager"]

# Rays of an eager call on a GPU (32 bodies, some 20 temporaries alive), and of a tile on the CPU.
_RAYS_EAGER = 1 << 20
_RAYS_TILE = 1 << 12


@dataclass(frozen=True, eq=False)
class RenderedViews:
    """images uint8 [B, V, H, W, 3] sRGB; depth float32 [B, V, H, W] along z in metres, 0: sky."""

    images: Tensor
    depth: Tensor


def sample_offsets(samples_per_pixel: int) -> list[tuple[float, float]]:
    """Positions (u, v) inside a pixel, the centre last: depth is taken there.

    1 is the centre alone; n^2 a regular n x n grid, to which an even n adds the centre as one more
    sample (so 4 traces, and averages, 5).
    """
    n = math.isqrt(samples_per_pixel)
    if n < 1 or n * n != samples_per_pixel:
        raise ValueError(f"samples_per_pixel={samples_per_pixel} is not a square of a whole number")
    steps = [(k + 0.5) / n for k in range(n)]
    grid = [(u, v) for v in steps for u in steps if (u, v) != (0.5, 0.5)]
    return [*grid, (0.5, 0.5)]


def _pixel_samples(
    width: int,
    height: int,
    offsets: list[tuple[float, float]],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Pixel coordinates u, v [S, H, W] of every sample."""
    shift = torch.tensor(offsets, dtype=dtype).to(device)
    column = torch.arange(width, device=device, dtype=dtype)
    row = torch.arange(height, device=device, dtype=dtype)
    u = column + shift[:, 0, None, None] + torch.zeros_like(row)[:, None]
    v = row[:, None] + shift[:, 1, None, None] + torch.zeros_like(column)
    return u, v


def _trace(
    table: ViewTable, pixel_u: Tensor, pixel_v: Tensor, *, relief: bool
) -> tuple[Tensor, Tensor]:
    """Linear colour [3, M, R] and depth [M, R] (inf at the sky) of M views at pixels [R]."""
    x, y = camera_plane(table, pixel_u, pixel_v)
    hits = nearest_hits(table, x, y, relief=relief)
    lit = shadows(table, x, y, hits.depth)
    return torch.stack(shade(table, x, y, hits, lit, relief=relief)), hits.depth


def _encode(linear: Tensor) -> Tensor:
    """Linear colours to uint8 display values (power 1/2.2)."""
    return (linear.clamp(0.0, 1.0) ** (1.0 / 2.2) * 255.0 + 0.5).to(torch.uint8)


def render_views(
    scenes: SceneBatch,
    cameras: Cameras,
    time_s: Tensor,
    samples_per_pixel: int = 4,
    *,
    backend: Backend | None = None,
    dtype: torch.dtype = torch.float32,
) -> RenderedViews:
    """Pictures of every scene from its own cameras, on the scenes' device.

    cameras [B, V]; time_s [B, V] seconds; samples_per_pixel 1, 4, 9... backend: default the kernel
    where CUDA source can be built, which needs float32; eager runs everywhere, and with dtype
    float64 is the reference. Memory does not grow with B V but for the results.
    """
    device = scenes.device
    if backend is None:
        is_fast = kernel.is_available(device) and dtype == torch.float32
        backend = "kernel" if is_fast else "eager"
    batch, views = cameras.shape
    width, height = cameras.width, cameras.height
    offsets = sample_offsets(samples_per_pixel)
    table = view_table(scenes, cameras.to(device), time_s.to(device)).to(dtype)
    if backend == "kernel":
        images, depth = kernel.render(table, width, height, math.isqrt(samples_per_pixel))
    else:
        grid = _pixel_samples(width, height, offsets, device, dtype)
        pick = _slabs if device.type != "cpu" else _tiles
        images, depth = pick(scenes, table, grid)
    lead = (batch, views, height, width)
    return RenderedViews(images.reshape(*lead, 3), depth.reshape(lead).float())


def _slabs(
    scenes: SceneBatch, table: ViewTable, grid: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Whole views, some at a time: uint8 [M, H, W, 3], depth [M, H, W]."""
    samples, height, width = grid[0].shape
    total = table.view.shape[1]
    per_scene = total // len(scenes)
    size = max(1, _RAYS_EAGER // (samples * height * width))
    images = torch.empty(total, height, width, 3, dtype=torch.uint8, device=scenes.device)
    depth = torch.empty(total, height, width, dtype=grid[0].dtype, device=scenes.device)
    u, v = (part.reshape(-1) for part in grid)
    for relief in (False, True):
        # known to the host, so that no device value is waited for
        rows = [
            scene * per_scene + view
            for scene, has in enumerate(scenes.has_relief)
            if has == relief
            for view in range(per_scene)
        ]
        for start in range(0, len(rows), size):
            index = torch.tensor(rows[start : start + size]).to(scenes.device)
            colour, z = _trace(table.rows(index), u, v, relief=relief)
            colour = colour.unflatten(2, (samples, height, width)).mean(2)
            z = z.unflatten(1, (samples, height, width))[:, -1]
            images[index] = _encode(colour).permute(1, 2, 3, 0)
            depth[index] = torch.where(torch.isinf(z), 0.0, z)
    return images, depth


def _tiles(
    scenes: SceneBatch, table: ViewTable, grid: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """As `_slabs`, by square tiles of one view with the bodies that can matter there."""
    samples, height, width = grid[0].shape
    total = table.view.shape[1]
    per_scene = total // len(scenes)
    images = torch.empty(total, height, width, 3, dtype=torch.uint8)
    depth = torch.empty(total, height, width, dtype=grid[0].dtype)
    casts = (scenes.has_shadow > 0).tolist()
    side = max(8, math.isqrt(_RAYS_TILE // samples))
    for row in range(total):
        one = table.rows(torch.tensor([row]))
        relief, has_shadow = scenes.has_relief[row // per_scene], casts[row // per_scene]
        for top in range(0, height, side):
            for left in range(0, width, side):
                tile = (slice(top, top + side), slice(left, left + side))
                u, v = (part[:, *tile] for part in grid)
                colour, z = _trace_tile(one, u.reshape(-1), v.reshape(-1), relief, has_shadow)
                colour = colour.reshape(3, *u.shape).mean(1)
                z = z.reshape(u.shape)[-1]
                images[row][tile] = _encode(colour).permute(1, 2, 0)
                depth[row][tile] = torch.where(torch.isinf(z), 0.0, z)
    return images, depth


def _trace_tile(
    one: ViewTable, u: Tensor, v: Tensor, relief: bool, has_shadow: bool
) -> tuple[Tensor, Tensor]:
    """As `_trace`, for one view, leaving out bodies that no ray of the tile can meet."""
    x, y = camera_plane(one, u, v)
    hits = nearest_hits(one, x, y, relief=relief, keep=bodies_in_tile(one, x, y))
    lit = torch.ones_like(x)
    if has_shadow:
        lit = shadows(one, x, y, hits.depth, keep=bodies_in_light(one, x, y, hits.depth))
    return torch.stack(shade(one, x, y, hits, lit, relief=relief)), hits.depth
