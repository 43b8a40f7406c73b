"""Depth is exact: it lies on the analytic surface, and carries colour from view to view."""

import numpy as np
import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.procedural import draw_cameras, draw_scenes, render_views
from everview.datasets.procedural.scenes import BODIES, SHELL_POSE, WORLDS

SEEDS = range(4)


def render(world, *, seeds=SEEDS, views=2, size=40, samples=1, dynamic=False, **options):
    scenes = draw_scenes(world, seeds, dynamic)
    cameras, time_s = draw_cameras(scenes, views, size, size)
    return scenes, cameras, render_views(scenes, cameras, time_s, samples, **options)


def world_points(cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Pixel centres at `depth` [B, V, H, W] to the world [B, V, H, W, 3]."""
    origins, directions = cameras.rays()
    along_axis = torch.einsum("bvhwi,bvi->bvhw", directions, cameras.forwards)
    return origins[:, :, None, None] + directions * (depth / along_axis)[..., None]


def surface_gap(scenes, points: torch.Tensor) -> torch.Tensor:
    """Distance (first order, metres) of points [B, P, 3] to the nearest face of a body."""
    half = scenes.half_size[:, :, None]
    local = torch.einsum(
        "bnij,bnpi->bnpj", scenes.rotation, points[:, None] - scenes.centre[:, :, None]
    )
    p = local / half

    def convex(p, half, quadric, a, b):
        slab = (p.abs() - 1.0) * half
        width = a + b * p[..., 2]
        value = (quadric * p * p).sum(-1) - width * width
        slope = 2.0 * quadric * p
        slope[..., 2] -= 2.0 * b * width
        steep = (slope / half).norm(dim=-1).clamp(min=1e-9)
        bent = torch.where(quadric.sum(-1) > 0, value / steep, -torch.inf)
        return torch.maximum(slab.amax(-1), bent)

    bodies = slice(0, BODIES)
    a, b = scenes.taper[:, :, None].unbind(-1)
    gap = convex(p[:, bodies], half[:, bodies], scenes.quadric[:, :, None], a, b).abs()
    cut_half = scenes.cut_half[:, :, None]
    cut = (p[:, bodies] - scenes.cut_centre[:, :, None]) / cut_half
    one = torch.ones_like(a)
    in_metres = cut_half * half[:, bodies]
    cut_gap = convex(cut, in_metres, scenes.cut_quadric[:, :, None], one, 0 * one).abs()
    wall = ((p[:, SHELL_POSE].abs() - 1.0) * half[:, SHELL_POSE]).abs().amin(-1)
    return torch.minimum(torch.minimum(gap, cut_gap).amin(1), wall)


@pytest.mark.parametrize("world", WORLDS)
def test_unprojected_depth_lies_on_a_surface_to_a_micrometre_in_float64(world):
    scenes, cameras, views = render(world, dtype=torch.float64)
    points = world_points(cameras, views.depth.double())
    for scene, has_relief in enumerate(scenes.has_relief):
        if has_relief:
            continue
        seen = views.depth[scene] > 0
        one = draw_scenes(world, [SEEDS[scene]])
        gap = surface_gap(one, points[scene][seen][None])
        # float32 storage of depth rounds at 1e-7 of some metres
        assert gap.max() < 3e-6


def test_a_relief_is_met_to_a_tenth_of_a_millimetre():
    from everview.datasets.procedural.relief import gradient, height, march

    generator = torch.Generator().manual_seed(3)
    eye = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator).double(), dim=-1)
    target = 0.3 * torch.randn(500, 3, generator=generator).double()
    o, d = (3.0 * eye).T[:, None].unbind(0), (target - 3.0 * eye).T[:, None].unbind(0)
    shape = tuple(torch.tensor([[v]], dtype=torch.float64) for v in (2.0, 0.3, 3.0, 17.0))
    t = march(o, d, shape)
    hit = torch.isfinite(t)
    assert hit.double().mean() > 0.5
    p = tuple((ok + t * dk)[hit] for ok, dk in zip(o, d, strict=True))
    flat = tuple(s[0] for s in shape)
    steep = torch.stack(gradient(p, flat)).norm(dim=0)
    assert ((height(p, flat).abs() / steep) < 1e-4).double().mean() > 0.99


@pytest.mark.parametrize("world", ["tabletop", "room"])
def test_depth_carries_the_colour_of_a_matt_scene_from_view_to_view(world):
    """A pixel's point, projected into the other view, finds the same colour where it is seen."""
    _, cameras, views = render(world, seeds=range(3), size=96, samples=1)
    points = world_points(cameras, views.depth.double())
    agreeing = compared = 0
    for b, second in enumerate(cameras.unbind()[1::2]):
        seen, depth = second.project(points[b, 0].reshape(-1, 3).numpy())
        column, row = np.floor(seen.T).astype(int)
        inside = (depth > 0) & (column >= 0) & (column < 96) & (row >= 0) & (row < 96)
        inside &= views.depth[b, 0].reshape(-1).numpy() > 0
        column, row = column[inside], row[inside]
        stored = views.depth[b, 1].numpy()[row, column]
        near = np.abs(stored - depth[inside]) < 0.02 * depth[inside]
        a = views.images[b, 0].reshape(-1, 3).numpy()[inside][near].astype(float)
        c = views.images[b, 1].numpy()[row, column][near].astype(float)
        compared += near.sum()
        agreeing += (np.abs(a - c).max(-1) < 40).sum()
    assert compared > 1000
    # point samples of sharp textures may fall on the other side of an edge
    assert agreeing / compared > 0.75


def test_the_white_background_of_orbit_has_depth_zero():
    _, _, views = render("orbit", samples=4)
    corner = views.images[:, :, 0, 0]
    assert (corner == 255).all()
    assert (views.depth[:, :, 0, 0] == 0).all()
    assert (views.depth > 0).flatten(2).any(-1).all()
    empty = views.depth == 0
    # away from silhouettes, unknown depth is white
    inner = -torch.nn.functional.max_pool2d(-empty.float().flatten(0, 1)[:, None], 3, 1, 1)
    assert (views.images.flatten(0, 1)[inner[:, 0] > 0] == 255).all()


@pytest.mark.parametrize("world", WORLDS)
def test_views_are_not_degenerate(world):
    """Every view shows something, in several colours, from outside of every body."""
    _, _, views = render(world, seeds=range(16), views=2, size=32)
    pixels = views.images.float().flatten(2, 3)
    assert torch.isfinite(views.depth).all()
    shown = (views.depth > 0).float().mean(dim=(2, 3))
    assert (shown > (0.01 if world == "orbit" else 0.5)).float().mean() > 0.95
    assert (pixels.std(dim=2).mean(-1) > 4.0).float().mean() > 0.9
    assert (pixels.mean(dim=(2, 3)) > 25.0).float().mean() > 0.9
