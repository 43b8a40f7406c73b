"""Copying from other views: exact where depth is true; and the sweep, which finds that depth."""

from __future__ import annotations

import math

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig
from everview.models.heads import Refinement, TokenHead
from everview.models.sweep import MatchingFeatures, PlaneSweep, shared_range
from everview.models.warping import (
    gather_frames,
    pixel_grid,
    point_rays,
    project_into_sources,
    sample_along_rays,
    sample_sources,
)
from tests.models.scenes import above_plane, plane_views


def sources_of(cameras, first: int = 1):
    """All cameras but the first as the sources [B, 1, S] of the first."""
    rest = cameras[:, None, first:]
    index = torch.arange(first, cameras.shape[1]).view(1, 1, -1)
    return rest, index


def test_true_depth_copies_what_the_other_camera_saw() -> None:
    cameras = above_plane().to(torch.float32)
    seen = plane_views(above_plane())
    sources, index = sources_of(cameras)
    rays = point_rays(cameras[:, :1], pixel_grid(64, 64, 1, torch.device("cpu")))
    depth = seen.depth[:, :1].flatten(2)[..., None]
    coordinates, inside = project_into_sources(cameras[:, :1], rays, depth, sources)
    copied = sample_sources(gather_frames(seen.images, index), coordinates)[..., 0]
    truth = seen.images[:, :1].flatten(3)[:, :, None]
    error = (copied - truth).abs().amax(3)
    assert inside[..., 0].float().mean() > 0.6
    # a pixel inside by its centre may still blend with the border's, half a pixel in
    core = (coordinates[..., 0, :].abs().amax(-1) < 1 - 1 / 64) & inside[..., 0]
    assert float(error[core].max()) < 1e-2


def test_a_wrong_depth_does_not() -> None:
    cameras = above_plane().to(torch.float32)
    seen = plane_views(above_plane())
    sources, index = sources_of(cameras)
    depth = 1.2 * seen.depth[:, :1].flatten(2)[..., None]
    valid = torch.ones_like(index, dtype=torch.bool)
    seen_by = seen.images, sources, index, valid
    copied = sample_along_rays(cameras[:, :1], 1, depth, *seen_by)[0][..., 0]
    assert (copied - seen.images[:, :1].flatten(3)[:, :, None]).abs().mean() > 5e-2


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("depths", ["a depth a block", "one for all"])
def test_samples_along_rays_are_the_named_frames_and_only_valid_ones_see(stride, depths) -> None:
    cameras = above_plane().to(torch.float32)
    seen = plane_views(above_plane())
    frames = sources_of(cameras)[1].flip(-1)  # not in the bank's order
    sources = cameras[:, None][:, :, frames.flatten()]
    valid = frames == frames.max()
    depth = seen.depth[:, :1, stride // 2 :: stride, stride // 2 :: stride].flatten(2)[..., None]
    depth = depth if depths == "a depth a block" else depth[:, :, :1]
    samples, inside = sample_along_rays(
        cameras[:, :1], stride, depth, seen.images, sources, frames, valid
    )
    rays = point_rays(cameras[:, :1], pixel_grid(64, 64, stride, torch.device("cpu")))
    unseen = False
    for place, frame in enumerate(frames.flatten().tolist()):
        one = cameras[:, None, frame : frame + 1]
        coordinates, reached = project_into_sources(cameras[:, :1], rays, depth, one)
        expected = sample_sources(seen.images[:, None, frame : frame + 1], coordinates)
        torch.testing.assert_close(samples[:, :, place], expected[:, :, 0])
        assert torch.equal(inside[:, :, place], reached[:, :, 0] & valid[0, 0, place])
        unseen = unseen or bool(reached.any() and not valid[0, 0, place])
    assert inside.any()
    assert unseen  # a frame that isn't valid would have seen some


def test_a_camera_finds_its_own_pixels_at_any_depth() -> None:
    camera = above_plane(1).to(torch.float32)
    pixels = pixel_grid(64, 64, 8, torch.device("cpu"))
    depth = torch.rand(1, 1, 64, 3) * 5 + 0.1
    coordinates, inside = project_into_sources(
        camera, point_rays(camera, pixels), depth, camera[:, None]
    )
    expected = (pixels / 32 - 1)[None, None, None, :, None].expand_as(coordinates)
    torch.testing.assert_close(coordinates, expected, rtol=0, atol=1e-5)
    assert inside.all()


def test_points_behind_or_outside_a_source_are_not_seen() -> None:
    cameras = above_plane(2).to(torch.float32)
    rays = point_rays(cameras[:, :1], pixel_grid(64, 64, 64, torch.device("cpu")))
    away = cameras[:, :1].c2w_cv.clone()
    away[..., :3, 0:3:2] *= -1  # turned about: the point lies on its axis, behind it
    behind = type(cameras)(64, 64, cameras.intrinsics[:, :1], away)[:, None]
    depth = torch.full((1, 1, 1, 1), 2.0)
    coordinates, inside = project_into_sources(cameras[:, :1], rays, depth, behind)
    assert not inside.any()
    assert coordinates.abs().max() <= 2
    _, inside = project_into_sources(cameras[:, :1], rays, depth, cameras[:, None, 1:])
    assert inside.all()


def test_blocks_are_sampled_at_their_centres() -> None:
    grid = pixel_grid(16, 24, 8, torch.device("cpu"))
    assert grid.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_the_sweep_varies_least_at_the_true_depth() -> None:
    """Raw colours as features: the sources agree where the plane is."""
    config = BankConfig(hypotheses=33, near=1.0, far=4.0, features=1, groups=1)
    sweep = PlaneSweep(config, dim=8, patch=8)
    cameras = above_plane().to(torch.float32)
    seen = plane_views(above_plane())
    sources, index = sources_of(cameras)
    depths = 4.0**sweep.steps
    maps = torch.cat([torch.ones(1, 5, 1, 64, 64), seen.images], 2)
    seen_by = maps, sources, index, torch.ones_like(index, dtype=torch.bool)
    samples, inside = sample_along_rays(cameras[:, :1], 8, depths.view(1, 1, 1, -1), *seen_by)
    evidence, opinion = sweep._agreement(samples, inside, rows=8)
    variance = evidence.unflatten(-1, (33, 6))[..., 1]
    variance = torch.where(inside.all(2), variance, torch.inf)
    judged = inside.all(2).sum(-1) > 20  # patches that all sources see over most of the range
    best = depths[variance.argmin(-1)]
    truth = seen.depth[:, :1].unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).flatten(2)
    error = 32 * (best / truth).log().abs()[judged] / math.log(4)  # in steps of the sweep
    assert judged.sum() > 30
    assert (error < 1.01).float().mean() > 0.95
    likely = (opinion.detach().softmax(-1) * depths.log()).sum(-1).exp()
    assert float((likely / truth).log().abs()[judged].median()) < 0.15


def around_an_object(views: int, distance: float = 1.0) -> Cameras:
    """Cameras [1, views] on a level circle, 50 degrees wide, all looking at its middle."""
    turn = torch.arange(views) * (2 * math.pi / views)
    back = torch.stack([turn.cos(), turn.sin(), torch.zeros(views)], -1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand(views, 3)
    pose = torch.eye(4).repeat(1, views, 1, 1)
    pose[0, :, :3, 0] = torch.linalg.cross(down, -back)
    pose[0, :, :3, 1], pose[0, :, :3, 2] = down, -back
    pose[0, :, :3, 3] = distance * back
    focal = 32 / math.tan(math.radians(25))
    return Cameras(64, 64, torch.tensor([focal, focal, 32, 32]).expand(1, views, 4), pose)


def test_around_an_object_only_depths_near_it_are_tried() -> None:
    cameras = around_an_object(9)
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    sources = cameras[:, None, torch.tensor([1, 2, 7, 8])]
    bounds = shared_range(cameras[:, :1], sources, valid, 0.2, 16.0)
    near, far = bounds[0, 0].tolist()
    radius = math.sin(math.radians(25))  # of the ball that all of them see
    assert 0.2 < near < 1 - radius / 2
    assert 1 + radius / 2 < far < 3


def test_depths_that_most_sources_share_are_all_tried_along_a_walk() -> None:
    cameras = around_an_object(1)
    steps = torch.eye(4).repeat(1, 5, 1, 1)
    steps[0, :, 1, 3] = 0.05 * torch.arange(5)  # sideways
    walk = Cameras(64, 64, cameras.intrinsics.expand(1, 5, 4), steps @ cameras.c2w_cv)
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    near, far = shared_range(walk[:, :1], walk[:, None, 1:], valid, 0.2, 16.0)[0, 0].tolist()
    assert near < 0.35
    assert far == pytest.approx(16.0)


def test_the_far_end_may_ask_for_fewer_sources_and_moves_nothing_else() -> None:
    cameras = around_an_object(9)
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    sources = cameras[:, None, torch.tensor([1, 2, 7, 8])]
    near, far = shared_range(cameras[:, :1], sources, valid, 0.2, 16.0)[0, 0].tolist()
    wide = shared_range(cameras[:, :1], sources, valid, 0.2, 16.0, 0.5)[0, 0].tolist()
    assert wide[0] == near
    assert wide[1] > 1.05 * far
    strict = shared_range(cameras[:, :1], sources, valid, 0.2, 16.0, 1.0)[0, 0].tolist()
    assert strict == [near, far]


def test_a_view_that_shares_nothing_tries_the_full_range() -> None:
    cameras = around_an_object(4)
    valid = torch.zeros(1, 1, 3, dtype=torch.bool)
    outward = cameras.c2w_cv.clone()
    outward[..., :3, 0:3:2] *= -1
    away = Cameras(64, 64, cameras.intrinsics, outward)
    for sources, used in ((cameras, valid), (away, ~valid)):
        chosen = sources[:, None, torch.tensor([0, 1, 3])]
        bounds = shared_range(cameras[:, 2:3], chosen, used, 0.2, 16.0)
        torch.testing.assert_close(bounds, torch.tensor([[[0.2, 16.0]]]))


def test_a_depth_that_one_source_sees_is_doubted_more_than_one_that_two_agree_on() -> None:
    sweep = PlaneSweep(BankConfig(features=4, groups=2, hypotheses=3), dim=8, patch=8)
    samples = torch.full((1, 1, 2, 7, 1, 3), 0.5)
    samples[0, 0, 1, :, 0, 1] = 0.9  # the second depth: the two disagree
    inside = torch.ones(1, 1, 2, 1, 3, dtype=torch.bool)
    inside[0, 0, 1, 0, 2] = False  # the third: one alone
    _, opinion = sweep._agreement(samples, inside, rows=1)
    agreed, apart, alone = opinion[0, 0, 0].tolist()
    assert agreed > alone > apart


def test_the_sweeps_evidence_is_the_sources_variance_mean_and_share() -> None:
    sweep = PlaneSweep(BankConfig(features=4, groups=2, hypotheses=5), dim=8, patch=8)
    samples = torch.randn(1, 2, 3, 7, 6, 5)
    inside = torch.rand(1, 2, 3, 6, 5) > 0.4
    evidence = sweep._agreement(samples, inside, rows=2)[0].view(1, 2, 6, 5, 2 + 1 + 3 + 1)
    for point in range(6):
        for j in range(5):
            chosen = samples[0, 1, inside[0, 1, :, point, j], :, point, j]
            got = evidence[0, 1, point, j]
            assert float(got[6]) == pytest.approx(len(chosen) / 3)
            if len(chosen) == 0:
                assert not got.any()
                continue
            groups = chosen.var(0, correction=0).split([2, 2, 3])
            expected = 8 * torch.stack([group.sum() for group in groups])
            torch.testing.assert_close(got[:3], expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(got[3:6], chosen[:, 4:].mean(0), rtol=1e-4, atol=1e-5)


def test_matching_features_lie_over_their_pixels() -> None:
    """Mirroring the image and the kernels mirrors the map: no half-cell shift is built in."""
    torch.manual_seed(0)
    features = MatchingFeatures(4)
    pictures = torch.rand(1, 1, 3, 16, 16)
    straight = features(pictures)
    for module in features.layers:
        if hasattr(module, "weight"):
            module.weight.data = module.weight.data.flip(-1).contiguous()
    mirrored = features(pictures.flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, straight, rtol=0, atol=1e-5)


@torch.no_grad()
def test_at_first_the_refinement_shares_alike_among_copies_that_agree() -> None:
    """With its last layer at zero: the mean over valid copies and the direct colour."""
    config = BankConfig(sources=4, refine_offsets=(0.0,))
    refine = Refinement(config)
    torch.nn.init.zeros_(refine.mix.weight)
    torch.nn.init.zeros_(refine.mix.bias)
    cameras = above_plane().to(torch.float32)
    seen = plane_views(above_plane())
    sources, index = sources_of(cameras)
    decoded = TokenHead(8, 8, (0.2, 16.0, 5))(torch.randn(1, 1, 64, 8), 64, 64)
    decoded = decoded._replace(log_depth=seen.depth[:, :1].log())
    valid = torch.tensor([[[True, True, False, False]]])
    rgb, log_depth, log_scale = refine(decoded, cameras[:, :1], seen.images, sources, index, valid)
    core = (slice(None), slice(None), slice(None), slice(24, 40), slice(24, 40))
    expected = (decoded.rgb + 2 * seen.images[:, :1]) / 3
    torch.testing.assert_close(rgb[core], expected[core], rtol=0, atol=1e-2)
    torch.testing.assert_close(log_depth, decoded.log_depth)
    torch.testing.assert_close(log_scale, decoded.log_scale)
