"""The gauge: the rules in their order, and what a similarity of the world must not change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models.gauge import GaugeError, fit_gauge
from everview.models.queries import Query
from tests.models.scenes import above_plane, episode, looking_at, orbit, scene_model, streamed


def turn(seed: int = 0) -> torch.Tensor:
    """A random rotation, float64."""
    random = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=random))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


def transformed(
    cameras: Cameras, rotation: torch.Tensor, scale: float, shift: torch.Tensor
) -> Cameras:
    """The cameras after the world moved by x -> scale R x + shift."""
    pose = cameras.c2w_cv.clone()
    pose[..., :3, :3] = rotation @ pose[..., :3, :3]
    pose[..., :3, 3] = scale * (rotation @ cameras.centres[..., None])[..., 0] + shift
    return replace(cameras, c2w_cv=pose)


def parallel(spacing: float = 0.3, views: int = 4) -> Cameras:
    """Cameras side by side with one viewing direction, the world's origin two units ahead."""
    poses = torch.eye(4, dtype=torch.float64).repeat(1, views, 1, 1)
    poses[0, :, 0, 3] = spacing * (torch.arange(views) - (views - 1) / 2)
    poses[0, :, 2, 3] = -2.0
    lens = torch.tensor([20.0, 20, 8, 8], dtype=torch.float64).expand(1, views, 4)
    return Cameras(16, 16, lens, poses)


def test_the_first_rule_that_applies_gives_the_scale() -> None:
    cameras = orbit(1, 4)
    depth = torch.full((1, 4, 8, 8), 5.0)
    points = torch.tensor([[0.0, 0.0, 0.0]])
    everything = {"points_world": points, "scale": "metric"}
    measured = fit_gauge(cameras, depth=depth, **everything)
    assert (measured.rule, measured.scale.tolist()) == ("median depth", [0.2])
    assert fit_gauge(cameras, **everything).rule == "focus distance"
    unknown = fit_gauge(cameras, depth=torch.zeros(1, 4, 8, 8), **everything)
    assert unknown.rule == "focus distance"
    seen = fit_gauge(parallel(), **everything)
    assert seen.rule == "median triangulated depth"
    assert seen.scale.tolist() == pytest.approx([0.5])
    plain = fit_gauge(parallel(), "metric")
    assert plain.rule == "2 m of a metric capture"
    assert plain.scale.tolist() == [0.5]


def test_depth_that_is_unknown_or_not_finite_does_not_count() -> None:
    depth = torch.tensor([0.0, torch.nan, torch.inf, -1.0, 3.0, 4.0, 5.0, 0.0]).view(1, 1, 2, 4)
    assert fit_gauge(parallel(views=1), depth=depth).scale.tolist() == [0.25]


def test_the_focus_distance_of_an_orbit_is_its_radius() -> None:
    radius = math.hypot(2.8, 1.1)
    assert fit_gauge(orbit(1, 6)).scale.tolist() == pytest.approx([1 / radius])
    part = orbit(1, 40)[:, :5]  # a short arc, anywhere in the world
    far = transformed(part, turn(3), 7.0, torch.tensor([100.0, -50, 20]).double())
    assert fit_gauge(far).scale.tolist() == pytest.approx([1 / (7 * radius)])


@pytest.mark.parametrize("kind", ["parallel", "nearly", "single", "turning", "outwards", "apart"])
def test_cameras_that_do_not_look_at_one_point_are_refused(kind: str) -> None:
    """Wherever the world's origin lies: a parallel rig has no focus in front of it."""
    cameras = parallel()
    pose = cameras.c2w_cv.clone()
    if kind == "single":
        cameras, pose = cameras[:, :1], pose[:, :1]
    elif kind == "nearly":  # toed in by rounding alone
        pose[..., 0, 2] = -1e-8 * pose[..., 0, 3]
    elif kind != "parallel":
        pose = orbit(1, 6).c2w_cv.clone()
        cameras = orbit(1, 6)
        if kind == "turning":
            pose[..., :3, 3] = torch.tensor([0.3, -0.7, 0.1]).double()
        elif kind == "outwards":
            pose[..., :3, 1:3] *= -1
        elif kind == "apart":
            pose[:, ::2, :3, 3] += torch.tensor([0.0, 0, 9]).double()
    for shift in ([0.0, 0, 0], [0.1, 0.2, 5.0], [-30.0, 4.0, 1000.0]):
        moved = pose.clone()
        moved[..., :3, 3] += torch.tensor(shift).double()
        with pytest.raises(GaugeError, match="scale can't be told"):
            fit_gauge(replace(cameras, c2w_cv=moved))


@pytest.mark.parametrize("rule", ["depth", "focus", "points"])
def test_a_similarity_of_the_world_changes_nothing_in_the_model(rule: str) -> None:
    rotation, scale, shift = turn(1), 3.7, torch.tensor([12.0, -5.0, 900.0]).double()
    cameras = orbit(1, 5)
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(2)).double() * 0.3
    depth = torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(3)).double() + 1
    world = transformed(cameras, rotation, scale, shift)
    moved_points = scale * points @ rotation.T + shift
    given = {"depth": {"depth": depth}, "focus": {}, "points": {"points_world": points}}[rule]
    moved = {
        "depth": {"depth": scale * depth},
        "focus": {},
        "points": {"points_world": moved_points},
    }[rule]
    if rule == "points":  # so that no focus comes first
        cameras = parallel()
        world = transformed(cameras, rotation, scale, shift)
    first, second = fit_gauge(cameras, **given), fit_gauge(world, **moved)
    torch.testing.assert_close(
        second.cameras_to_model(world).c2w_cv,
        first.cameras_to_model(cameras).c2w_cv,
        rtol=0,
        atol=1e-5,
    )
    inside = first.points_to_world(torch.ones(1, 2, 3))
    outside = second.points_to_world(torch.ones(1, 2, 3))
    torch.testing.assert_close(outside, scale * inside @ rotation.T + shift, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_pictures_do_not_depend_on_the_worlds_frame() -> None:
    model = scene_model()
    seen = episode((3,), batch=1)
    rotation, scale, shift = turn(4), 0.2, torch.tensor([1.0, 2.0, -3.0]).double()
    moved = transformed(seen.inputs.cameras, rotation, scale, shift)
    away = replace(seen, inputs=seen.inputs.in_cameras(moved))
    asked = transformed(seen.targets.cameras, rotation, scale, shift)
    there = model.render(asked, streamed(model, away, gauge=fit_gauge(away.inputs.cameras)))
    own = model.render(
        seen.targets.cameras, streamed(model, seen, gauge=fit_gauge(seen.inputs.cameras))
    )
    torch.testing.assert_close(there.rgb, own.rgb, rtol=0, atol=1e-4)
    torch.testing.assert_close(there.depth, scale * own.depth, rtol=1e-3, atol=0)


def test_the_middle_camera_is_the_origin_and_the_axes() -> None:
    cameras = orbit(2, 5)
    middle = fit_gauge(cameras).cameras_to_model(cameras).c2w_cv[:, 2]
    torch.testing.assert_close(middle, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-6)


def test_with_gravity_only_yaw_is_taken_from_the_camera() -> None:
    up = torch.tensor([0.0, 0.0, 1.0])
    cameras = orbit(1, 5)
    gauge = fit_gauge(cameras, gravity_up=up)
    raised = (gauge.rotation @ up.double()[:, None])[0, :, 0]
    torch.testing.assert_close(raised, torch.tensor([0.0, -1, 0]).double())  # y points down
    assert torch.linalg.det(gauge.rotation).tolist() == pytest.approx([1])
    forward = gauge.cameras_to_model(cameras).forwards[0, 2]
    assert abs(float(forward[0])) < 1e-6, "the middle camera looks straight ahead"
    assert float(forward[2]) > 0
    down = looking_at(torch.tensor([0.0, 1e-9, 3]).double(), torch.zeros(3).double())
    steep = Cameras(16, 16, cameras.intrinsics[:, :1], down[None, None])
    assert fit_gauge(steep, "metric", gravity_up=up).rotation.isfinite().all()


def test_points_and_depth_come_back_from_the_model() -> None:
    cameras = above_plane()
    gauge = fit_gauge(cameras, depth=torch.full((1, 5, 4, 4), 1.7))
    inside = gauge.cameras_to_model(cameras)
    torch.testing.assert_close(
        gauge.points_to_world(inside.centres), cameras.centres, rtol=0, atol=1e-6
    )
    depth = torch.rand(1, 5, 4, 4)
    torch.testing.assert_close(gauge.depth_to_world(gauge.depth_to_model(depth)), depth)
    assert gauge.depth_to_model(torch.zeros(1, 1, 2, 2)).eq(0).all()


def test_composing_is_one_similarity_after_the_other() -> None:
    cameras = orbit(2, 4)
    first = fit_gauge(cameras)
    rotation, offset = turn(6).expand(2, 3, 3), torch.randn(2, 3).double()
    scale = torch.tensor([2.0, 0.6]).double()
    joint = first.composed(rotation, scale, offset)
    inside = first.cameras_to_model(cameras).centres.double()
    expected = scale[:, None, None] * inside @ rotation[0].T + offset[:, None]
    torch.testing.assert_close(
        joint.cameras_to_model(cameras).centres.double(), expected, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(joint.points_to_world(expected), cameras.centres, atol=1e-5, rtol=0)


@torch.no_grad()
def test_depth_is_answered_in_the_captures_units() -> None:
    model = scene_model()
    seen = episode((3,))
    state = streamed(model, seen)
    shown = model.query(Query(seen.targets.cameras), model.freeze(state), ("depth",))
    expected = shown.log_depth.exp() / state.gauge.scale.view(2, 1, 1, 1).float()
    torch.testing.assert_close(shown.depth, expected)
    assert shown.rgb is None
