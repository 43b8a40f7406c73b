"""What is taken away from scenes goes, and nothing else changes."""

from dataclasses import fields
from typing import get_args

import pytest
import torch

from everview.datasets.errors import DataError
from everview.datasets.procedural import (
    SCENE_FEATURES,
    WORLDS,
    draw_cameras,
    draw_scenes,
    leave_out,
    render_views,
)
from everview.datasets.procedural.materials import COLUMNS
from everview.pipeline.training.config import SceneFeature


def changed(full, left):
    names = (f.name for f in fields(full) if isinstance(getattr(full, f.name), torch.Tensor))
    return {name for name in names if not torch.equal(getattr(full, name), getattr(left, name))}


def pictures(scenes):
    cameras, time_s = draw_cameras(scenes, 2, 32, 32)
    return render_views(scenes, cameras, time_s, 1, dtype=torch.float64)


@pytest.mark.parametrize("world", WORLDS)
def test_without_cuts_a_scene_keeps_everything_else_and_its_bodies_are_whole(world):
    full = draw_scenes(world, range(6), True)
    whole = leave_out(full, ["boolean_cuts"])
    assert changed(full, whole) == {"cut_centre", "cut_half", "cut_quadric"}
    assert full.has_relief == whole.has_relief
    assert (whole.cut_centre.abs().amin(-1) > whole.cut_half.amax(-1) + 2).all()


@pytest.mark.parametrize("world", WORLDS)
def test_without_height_fields_the_displaced_bodies_are_smooth_and_nothing_else_changes(world):
    full = draw_scenes(world, range(24))
    smooth = leave_out(full, ["height_fields"])
    assert changed(full, smooth) == {"relief_shape"}
    assert full.has_relief == smooth.has_relief
    with_relief = torch.tensor(full.has_relief)
    assert with_relief.any()
    depths = []
    for scenes in (full, smooth):
        cameras, time_s = draw_cameras(scenes, 1, 24, 24)
        depths.append(render_views(scenes, cameras, time_s, 1).depth)
    differs = (depths[0] != depths[1]).flatten(1).any(1)
    assert not differs[~with_relief].any()
    assert differs[with_relief].any()


def test_a_smooth_relief_is_the_superquadric_it_is_displaced_from():
    scenes = leave_out(draw_scenes("orbit", range(40)), ["height_fields"])
    balls = [k for k in range(40) if scenes.has_relief[k] and scenes.relief_shape[k, 0] == 2]
    cameras, time_s = draw_cameras(scenes, 1, 32, 32)
    depth = render_views(scenes, cameras, time_s, 1, dtype=torch.float64).depth
    origins, directions = cameras.rays()
    along = (directions * cameras.forwards[..., None, None, :]).sum(-1)
    for k in balls:
        points = origins[k, 0] + directions[k, 0] * (depth[k, 0] / along[k, 0])[..., None]
        offset = (points - scenes.centre[k, 32]) @ scenes.rotation[k, 32]
        norm = (offset / scenes.half_size[k, 32]).norm(dim=-1)[depth[k, 0] > 0]
        assert ((norm - 1).abs() < 1e-3).float().mean() > 0.6  # the rest are its attachments


@pytest.mark.parametrize("world", WORLDS)
def test_without_textures_and_lights_a_body_has_one_colour_and_depths_stay(world):
    full = draw_scenes(world, range(4))
    plain = leave_out(full, ["textures"])
    assert changed(full, plain) == {"materials"}
    columns = (full.materials != plain.materials).flatten(0, 1).any(0)
    assert {name for name, differs in zip(COLUMNS, columns, strict=True) if differs} == {
        "kind",
        "grain",
    }
    bare = leave_out(full, ["textures", "lights"])
    shown, textured = pictures(bare), pictures(full)
    assert torch.equal(shown.depth, textured.depth)
    for scene in range(4):
        # two materials a body, six walls, the relief and the sky: no more colours than rows
        colours = shown.images[scene].reshape(-1, 3).unique(dim=0)
        assert len(colours) <= full.materials.shape[1]
        assert len(textured.images[scene].reshape(-1, 3).unique(dim=0)) > 2 * len(colours)


@pytest.mark.parametrize("world", WORLDS)
def test_without_lights_nothing_casts_a_shadow_and_textures_stay(world):
    full = draw_scenes(world, range(12))
    even = leave_out(full, ["lights"])
    assert changed(full, even) == {"light", "fill", "ambient_sky", "ambient_ground", "has_shadow"}
    was_even = (full.light == 0).all(-1)
    assert was_even.any() or world != "orbit"
    lit, unlit = pictures(full).images, pictures(even).images
    assert torch.equal(lit[was_even], unlit[was_even])
    assert (lit[~was_even] != unlit[~was_even]).flatten(1).any(1).all()


def test_all_that_can_be_left_out_is_what_a_world_can_be_without():
    assert get_args(SceneFeature) == tuple(SCENE_FEATURES)
    with pytest.raises(DataError, match="did you mean 'textures'"):
        leave_out(draw_scenes("orbit", [0]), ["texture"])
