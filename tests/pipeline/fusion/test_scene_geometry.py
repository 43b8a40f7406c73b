"""Geometry that grows with a stream: bounded, evenly spread, the same after a kill."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.pipeline.fusion.depth_views import voxel_size_for
from everview.pipeline.fusion.keyframes import Keyframe, Keyframes
from everview.pipeline.fusion.moving_pixels import moving_pixels
from everview.pipeline.fusion.scene_geometry import SceneGeometry
from tests.pipeline.fusion.test_fused_plane import PLANE_Z, plane_view

VOXEL = voxel_size_for(PLANE_Z)


def keyframe(x: float, y: float = 0.0, number: int = 0) -> Keyframe:
    view = plane_view((x, y, 0.0))
    frame = Frame(number, f"{number}.png", view.image, view.camera, None, view.depth)
    return Keyframe(frame, np.full(view.depth.shape, 255, np.uint8))


def walk(count: int, step: float = 0.4) -> list[Keyframe]:
    return [keyframe(step * number, number=number) for number in range(count)]


def grown(keyframes: list[Keyframe], most: int, **options) -> SceneGeometry:
    scene = SceneGeometry(Keyframes(most, PLANE_Z), VOXEL, **options)
    for each in keyframes:
        if scene.keyframes.is_apart(each.frame.camera):
            scene.add(each)
    return scene


def test_a_camera_that_stands_still_adds_one_keyframe():
    scene = grown([keyframe(0.0)] * 5, 8, has_mesh=False)
    assert scene.num_views == 1


def test_keyframes_of_a_long_walk_are_bounded_apart_and_never_far_away():
    views = walk(60)
    scene = grown(views, 12, has_mesh=False)
    kept = scene.keyframes
    assert 4 <= len(kept.items) <= 12
    assert kept.items[0].frame.index == 0
    for number, item in enumerate(kept.items):
        others = Keyframes(12, PLANE_Z, kept.spacing)
        others.items = kept.items[:number]
        assert others.is_apart(item.frame.camera)
    # a frame that was let go was near one that was let go, and so on: a geometric series
    reach = Keyframes(12, PLANE_Z, 3 * kept.spacing)
    reach.items = kept.items
    assert not any(reach.is_apart(view.frame.camera) for view in views)


def test_turning_on_the_spot_counts_as_a_new_view():
    keyframes = Keyframes(4, PLANE_Z)
    first = keyframe(0.0)
    keyframes.add(first)
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    camera: Camera = first.frame.camera
    assert not keyframes.is_apart(camera)
    assert keyframes.is_apart(camera.moved(camera.c2w_cv @ turned))


@pytest.mark.parametrize("most", [6, 64], ids=["thinned", "whole"])
def test_geometry_made_again_from_its_keyframes_is_the_same_bytes(most: int, tmp_path: Path):
    """What a snapshot holds is enough: points and mesh are bit for bit those of the first life."""
    pytest.importorskip(
        "open3d", reason="the mesh needs the extra `geometry`", exc_type=ImportError
    )
    views = walk(14)
    scene = grown(views, most)
    again = Keyframes(most, PLANE_Z, scene.keyframes.spacing)
    again.items = list(scene.keyframes.items)
    restored = SceneGeometry(again, VOXEL, mesh_voxel_size=scene.mesh_voxel_size)
    for name, geometry in (("live", scene), ("restored", restored)):
        (tmp_path / name).mkdir()
        geometry.write(tmp_path / name)
    for file in ("points.ply", "mesh.ply"):
        live, again_ = ((tmp_path / name / file).read_bytes() for name in ("live", "restored"))
        assert live == again_, file
        assert len(live) > 10_000


def test_a_grid_that_would_outgrow_its_budget_gets_coarser_and_keeps_its_extent():
    pytest.importorskip(
        "open3d", reason="the mesh needs the extra `geometry`", exc_type=ImportError
    )
    fine, coarse = grown(walk(8), 64), grown(walk(8), 64, grid_gib=0.002)
    assert coarse.mesh_voxel_size > fine.mesh_voxel_size == VOXEL
    wide = [np.ptp(scene.mesh().vertices[:, 0]) for scene in (fine, coarse)]
    assert wide[1] > 0.9 * wide[0]


def test_what_the_memory_was_sure_of_and_did_not_find_has_moved():
    random = np.random.default_rng(1)
    still = random.integers(60, 190, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    frame = still.copy()
    frame[16:32, 16:32] = 255 - frame[16:32, 16:32] // 4
    sure = np.full((64, 64), 0.9, np.float32)
    sure[:, 48:] = 0.1
    frame[:, 48:] = 0  # new to the memory: says nothing about motion
    moved = moving_pixels(frame, still, sure)
    assert moved[18:30, 18:30].all()
    assert not moved[:, 52:].any()
    assert not moved[44:, :40].any()


def test_a_prediction_at_half_the_size_finds_the_same_motion():
    still = np.full((64, 64, 3), 90, np.uint8)
    frame = still.copy()
    frame[20:44, 20:44] = 230
    sure = np.full((32, 32), 0.9, np.float32)
    moved = moving_pixels(frame, still[::2, ::2], sure)
    assert moved.shape == (64, 64)
    assert moved[20:44, 20:44].all()
    assert not moved[:12].any()


def test_noise_and_sharpness_alone_do_not_move_anything():
    random = np.random.default_rng(2)
    frame = random.integers(98, 159, (64, 64, 3)).astype(np.uint8)
    blurred = np.full_like(frame, 128)
    assert moving_pixels(frame, blurred, np.ones((64, 64), np.float32)).mean() < 0.05


def test_depth_of_no_keyframe_is_fused_where_it_is_zero():
    blank = keyframe(0.0)
    blank = replace(blank, frame=replace(blank.frame, depth=np.zeros_like(blank.frame.depth)))
    scene = grown([blank], 4, has_mesh=False)
    assert len(scene.points().points) == 0
