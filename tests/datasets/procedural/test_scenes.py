"""Scenes are functions of their seeds, alike on every device; only moving ones move."""

from dataclasses import fields

import pytest
import torch

from everview.datasets.errors import DataError
from everview.datasets.procedural import (
    draw_cameras,
    draw_scenes,
    render_episode_views,
    render_views,
)
from everview.datasets.procedural.rendering import sample_offsets
from everview.datasets.procedural.scenes import BODIES, WORLDS


def tensors(scenes):
    return {
        f.name: getattr(scenes, f.name)
        for f in fields(scenes)
        if isinstance(getattr(scenes, f.name), torch.Tensor)
    }


@pytest.mark.parametrize("world", WORLDS)
def test_a_scene_does_not_depend_on_the_scenes_drawn_beside_it(world):
    alone, among = draw_scenes(world, [7], True), draw_scenes(world, [3, 7, 11], True)
    for name, value in tensors(alone).items():
        assert torch.equal(value[0], tensors(among)[name][1]), name
    camera, time_s = draw_cameras(alone, 3, 32, 32)
    cameras, times = draw_cameras(among, 3, 32, 32)
    assert torch.equal(camera.c2w_cv[0], cameras.c2w_cv[1])
    assert torch.equal(time_s[0], times[1])


@pytest.mark.parametrize("world", WORLDS)
def test_equal_seeds_give_equal_pictures_and_others_do_not(world):
    first = render_episode_views(world, [5], 1, 32, samples_per_pixel=1)
    again = render_episode_views(world, [5], 1, 32, samples_per_pixel=1)
    other = render_episode_views(world, [6], 1, 32, samples_per_pixel=1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("world", WORLDS)
def test_float32_agrees_with_float64_but_on_edges(world):
    """Stated tolerance: 99 % of pixels within 1e-4 of depth and 97 % within 3 grey levels."""
    scenes = draw_scenes(world, range(4), dynamic=True)
    cameras, time_s = draw_cameras(scenes, 1, 48, 48)
    single = render_views(scenes, cameras, time_s, 1)
    double = render_views(scenes, cameras, time_s, 1, dtype=torch.float64)
    gap = (single.depth - double.depth).abs() / double.depth.clamp(min=0.1)
    off = (single.images.float() - double.images.float()).abs().amax(-1)
    assert (gap < 1e-4).float().mean() > 0.99
    assert (off <= 3).float().mean() > 0.97


def test_tiles_with_culled_bodies_equal_whole_views():
    """The CPU's culling is conservative: leaving out bodies changes nothing."""
    from everview.datasets.procedural import rendering
    from everview.datasets.procedural.frames import view_table

    for world in WORLDS:
        scenes = draw_scenes(world, range(3), dynamic=True)
        cameras, time_s = draw_cameras(scenes, 1, 32, 32)
        table = view_table(scenes, cameras, time_s).to(torch.float32)
        grid = rendering._pixel_samples(
            32, 32, sample_offsets(1), torch.device("cpu"), torch.float32
        )
        tiles, tile_depth = rendering._tiles(scenes, table, grid)
        slabs, slab_depth = rendering._slabs(scenes, table, grid)
        assert torch.allclose(tile_depth, slab_depth, rtol=1e-5)
        assert (tiles.int() - slabs.int()).abs().max() <= 1


def at_times(world, dynamic, times, seed):
    """Pictures [times, 3 views, ...] of one scene from three unmoved cameras."""
    scenes = draw_scenes(world, [seed], dynamic)
    cameras, _ = draw_cameras(scenes, 3, 32, 32)
    cameras = cameras[:, [0, 1, 2] * len(times)]
    time_s = torch.tensor([times]).repeat_interleave(3, 1)
    return render_views(scenes, cameras, time_s, 1).images[0].unflatten(0, (-1, 3))


@pytest.mark.parametrize("world", WORLDS)
def test_only_dynamic_scenes_change_with_time(world):
    for seed in (1, 2):
        still = at_times(world, False, [0.0, 3.1], seed)
        assert torch.equal(still[0], still[1])
    moved = [at_times(world, True, [0.0, 1.1, 4.7], seed) for seed in range(4)]
    assert sum(bool((m[0] != m[1:]).any()) for m in moved) >= 2


def test_motion_is_smooth_and_periodic():
    from everview.datasets.procedural.motion import place

    scenes = draw_scenes("tabletop", [4], dynamic=True)
    time_s = torch.linspace(0.0, 20.0, 4001, dtype=torch.float64)
    rows = torch.zeros(4001, dtype=torch.int64)
    _, offset = place(scenes.motion.select(rows), time_s)
    speed = (offset[1:] - offset[:-1]).norm(dim=-1) / (20.0 / 4000)
    assert speed.max() < 10.0
    assert speed[:, 1:].max() > 0.01
    period = scenes.motion.period[:1]
    _, later = place(scenes.motion.select(rows[:1]), time_s[:1])
    for track in range(4):
        _, turned = place(scenes.motion.select(rows[:1]), period[:, track])
        assert torch.allclose(later[0, track + 1], turned[0, track + 1], atol=1e-9)


def test_video_frames_do_not_depend_on_where_the_video_is_entered():
    for world in WORLDS:
        scenes = draw_scenes(world, [9])
        cameras, time_s = draw_cameras(scenes, 6, 32, 32, trajectory="video")
        later, later_s = draw_cameras(scenes, 2, 32, 32, trajectory="video", first_frame=4)
        assert torch.allclose(cameras.c2w_cv[:, 4:], later.c2w_cv, atol=1e-12)
        assert torch.equal(time_s[:, 4:], later_s)


def test_a_walk_takes_steps_of_a_person():
    """Between frames: 4 to 30 cm, and some turns of more than 8 degrees."""
    scenes = draw_scenes("room", range(8))
    cameras, _ = draw_cameras(scenes, 60, 32, 32, trajectory="video")
    step = (cameras.centres[:, 1:] - cameras.centres[:, :-1]).norm(dim=-1)
    assert 0.04 < step.mean() < 0.3
    assert step.max() < 0.5
    cosine = (cameras.forwards[:, 1:] * cameras.forwards[:, :-1]).sum(-1).clamp(-1, 1)
    assert torch.rad2deg(torch.arccos(cosine)).max() > 8.0


def test_cameras_are_inside_the_room_and_rigid():
    for world in WORLDS:
        scenes = draw_scenes(world, range(8))
        for trajectory in ("random", "video"):
            cameras, _ = draw_cameras(scenes, 12, 32, 32, trajectory=trajectory)
            r = cameras.c2w_cv[..., :3, :3]
            eye = torch.eye(3, dtype=r.dtype).expand_as(r)
            assert torch.allclose(r @ r.transpose(-1, -2), eye, atol=1e-9)
            assert torch.allclose(torch.linalg.det(r), torch.ones(r.shape[:2], dtype=r.dtype))
            off = (cameras.centres - scenes.centre[:, None, -1]).abs()
            assert (off < scenes.half_size[:, None, -1]).all()


def test_every_object_fills_its_scene_turned_over_or_not():
    """An absent body that counts as present shrinks all others to nothing."""
    scenes = draw_scenes("orbit", range(120))
    bodies = slice(0, BODIES)
    size = scenes.half_size[:, bodies].norm(dim=-1)
    is_near = scenes.centre[:, bodies].norm(dim=-1) < 2
    largest = torch.where(is_near, size, 0).amax(1)
    has_bodies = ~torch.tensor(scenes.has_relief)  # those about a relief may be few and small
    assert (largest[has_bodies] > 0.2).all()


def test_samples_end_at_the_pixel_centre():
    assert sample_offsets(1) == [(0.5, 0.5)]
    assert sample_offsets(4)[-1] == (0.5, 0.5)
    assert len(sample_offsets(4)) == 5
    assert len(sample_offsets(9)) == 9
    with pytest.raises(ValueError, match="not a square"):
        sample_offsets(3)


@pytest.mark.parametrize(("world", "seeds"), [("tabeltop", [1]), ("room", []), ("room", [-1])])
def test_what_can_not_be_drawn_is_refused(world, seeds):
    with pytest.raises(DataError):
        draw_scenes(world, seeds)
