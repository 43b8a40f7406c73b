"""Reduced views show what the pool's views show, through the same rays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from everview.datasets.cameras import Cameras
from everview.pipeline.training.config import World
from everview.pipeline.training.reduction import reduced
from tests.models.crossings import Crossings
from tests.pipeline.training.flat_scenes import render_planes

CPU = torch.device("cpu")
SIDE, SMALL = 64, 16
LENS = torch.tensor([70.0, 66.0, 30.7, 34.1], dtype=torch.float64)


def blocks(picture: torch.Tensor) -> torch.Tensor:
    """Every block of pixels that a small pixel covers: [..., SMALL, SMALL, pixels]."""
    step = SIDE // SMALL
    rows = picture.unfold(-2, step, step).unfold(-2, step, step)
    return rows.flatten(-2)


def cameras(views: int = 1) -> Cameras:
    """One scene, unequal focal lengths, the principal point off the middle."""
    poses = torch.eye(4, dtype=torch.float64).expand(1, views, 4, 4)
    return Cameras(SIDE, SIDE, LENS.expand(1, views, 4), poses)


def nothing() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, 1, 3, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)


def test_a_small_pixels_ray_is_the_middle_of_its_blocks_rays():
    big = cameras()
    small = reduced(*nothing(), big, SMALL)[2]
    assert (small.width, small.height) == (SMALL, SMALL)
    torch.testing.assert_close(small.intrinsics, big.intrinsics * SMALL / SIDE)
    fine, coarse = (
        lines[0, 0, :2] / lines[0, 0, 2:] for lines in (big.sight_lines(), small.sight_lines())
    )
    torch.testing.assert_close(coarse, blocks(fine).mean(-1), atol=1e-14, rtol=0)
    assert torch.equal(small.c2w_cv, big.c2w_cv)


def test_colours_are_the_means_of_blocks_and_the_scene_that_the_small_camera_sees():
    fine, coarse = (render_planes(World("room"), np.arange(2), 3, s, CPU) for s in (SIDE, SMALL))
    held = Cameras(SIDE, SIDE, fine.intrinsics, fine.c2w_cv)
    images, depth, small = reduced(fine.images, fine.depth, held, SMALL)
    torch.testing.assert_close(images, blocks(fine.images.float()).mean(-1))
    torch.testing.assert_close(small.intrinsics, coarse.intrinsics)
    torch.testing.assert_close(depth, coarse.depth.float())
    error = (images - coarse.images.float()).abs()
    shifted = (images[..., 1:] - coarse.images[..., :-1].float()).abs()
    assert shifted.mean() > 5 * error.mean()


def test_points_of_a_slanted_plane_stay_on_it():
    """x/4 - y/3 + z = 3, seen at an angle: depth changes by a tenth over a block."""
    big = cameras()
    normal = torch.tensor([0.25, -1 / 3, 1.0], dtype=torch.float64)

    def depth_of(seen: Cameras) -> torch.Tensor:
        lines = seen.sight_lines()[0, 0]
        lines = lines / lines[2:]
        return 3.0 / torch.einsum("c,chw->hw", normal, lines)

    images, _ = nothing()
    _, depth, small = reduced(images, depth_of(big)[None, None].float(), big, SMALL)
    torch.testing.assert_close(depth[0, 0].double(), depth_of(small), rtol=1e-6, atol=0)


def test_unknown_depth_is_left_out_and_stays_unknown_where_there_is_nothing_else():
    images, depth = nothing()
    depth[0, 0, :, SIDE // 2 :] = 2.0
    depth[0, 0, 0, SIDE // 2 + 1] = 0.0
    depth[0, 0, 5, 5] = 7.0
    small = reduced(images, depth.half(), cameras(), SMALL)[1][0, 0]
    expected = torch.zeros(SMALL, SMALL)
    expected[:, SMALL // 2 :] = 2.0
    expected[1, 1] = 7.0
    torch.testing.assert_close(small, expected)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_views_of_the_pools_size_are_what_they_were(kind):
    images, depth = nothing()
    images = torch.randint(0, 255, images.shape).to(kind)
    given = images, depth, replace(cameras(), width=SIDE)
    assert all(one is other for one, other in zip(reduced(*given, SIDE), given, strict=True))


def test_nothing_is_copied_from_the_host():
    """Told without a GPU, on tensors that have shapes and devices but no values."""
    with FakeTensorMode():
        images = torch.zeros(1, 2, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")
        depth = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.half, device="cuda")
        lens, poses = (torch.zeros(1, 2, *shape, device="cuda") for shape in ((4,), (4, 4)))
        with Crossings("cuda") as crossings:
            reduced(images, depth, Cameras(SIDE, SIDE, lens, poses), SMALL)
    assert crossings.found == []
