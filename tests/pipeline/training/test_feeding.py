"""Episodes are a function of seed and step, and geometry survives every augmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from everview.models.config import tiny
from everview.models.gauge import fit_gauge
from everview.models.scene_model import SceneModel
from everview.pipeline.training.augmentation import Chance, mirror, rotation_from_vector
from everview.pipeline.training.config import (
    Augmentation,
    DataConfig,
    EpisodeShape,
    EvaluationConfig,
    SceneFeature,
    TrainConfig,
    World,
)
from everview.pipeline.training.feeding import Feeder, choose_views, draw_times
from everview.pipeline.training.held_out import means_over_worlds, measure, render_held_out
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.model_card import _table
from everview.pipeline.training.scene_pool import HELD_OUT_SEEDS, ScenePool, SceneViews
from everview.pipeline.training.sources import render_scenes
from tests.pipeline.training.flat_scenes import render_planes

CPU = torch.device("cpu")
DATA = DataConfig(
    worlds=(World("room", share=0.75), World("orbit", dynamic=True, share=0.25)),
    size=16,
    views=12,
    pool_scenes=8,
    refresh_scenes=2,
    reuse=4,
    shapes=(EpisodeShape(4, 4, 3, (1, 2, 4)), EpisodeShape(2, 8, 2, (2,), share=0.5, start=0.5)),
)
STILL = Augmentation(
    flip_share=0, yaw_share=0, tilt_deg=0, scale_range=1, offset=0, exposure_share=0,
    pose_noise_share=0,
)  # fmt: skip


def feeder(data: DataConfig = DATA, seed: int = 3) -> Feeder:
    return Feeder(ScenePool(data, seed, CPU, render_planes), seed)


def chance(seed: int = 0) -> Chance:
    return Chance(torch.Generator().manual_seed(seed))


def same(one: SceneViews, other: SceneViews) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.c2w_cv, other.c2w_cv)


def test_a_pool_is_a_function_of_seed_and_step():
    """Walked to step by step, or entered at once as a resumed run does."""
    walked = ScenePool(DATA, 3, CPU, render_planes)
    for step in range(60):
        walked.advance(step)
    entered = ScenePool(DATA, 3, CPU, render_planes)
    entered.advance(59)
    assert same(walked.storage, entered.storage)
    other = ScenePool(DATA, 4, CPU, render_planes)
    other.advance(59)
    assert not same(walked.storage, other.storage)


def test_scenes_are_replaced_before_they_are_seen_too_often():
    rendered: list[int] = []

    def counted(world, seeds, *rest):
        rendered.extend(seeds)
        return render_planes(world, seeds, *rest)

    pool = ScenePool(DATA, 0, CPU, counted)
    steps = 400
    for step in range(steps):
        pool.advance(step)
    assert len(set(rendered)) == len(rendered)
    assert max(rendered) < HELD_OUT_SEEDS
    drawn = steps * max(shape.scenes for shape in DATA.shapes)
    assert drawn / len(rendered) == pytest.approx(DATA.reuse, rel=0.1)


def test_worlds_meet_their_shares():
    pool = ScenePool(DATA, 0, CPU, render_planes)
    names = [pool.world_of(block).name for block in range(400)]
    assert names.count("room") == pytest.approx(300, abs=4)


def test_an_episode_is_a_function_of_seed_and_step():
    one, other = feeder(), feeder()
    one.episode(0, 0.0)
    for step in (17, 5):
        (first, schedule), (second, again) = one.episode(step, 0.3), other.episode(step, 0.3)
        assert schedule is again
        assert torch.equal(first.inputs.images, second.inputs.images)
        assert torch.equal(first.gauge.rotation, second.gauge.rotation)
        assert torch.equal(first.bank_mask, second.bank_mask)
        assert first.chunk_views == second.chunk_views
    assert not torch.equal(
        one.episode(1, 0.3)[0].inputs.images, feeder(seed=9).episode(1, 0.3)[0].inputs.images
    )


def test_shapes_come_from_the_fixed_set_and_long_ones_from_the_middle():
    early = {feeder().episode(step, 0.2)[0].chunk_views for step in range(20)}
    assert early == {(4,), (2, 2), (1, 1, 1, 1)}
    late = {feeder().episode(step, 0.6)[0].chunk_views for step in range(30)}
    assert late == early | {(4, 4)}


def test_a_curriculum_draws_its_stages_in_their_time():
    """Many small scenes, then both, then few large ones; at the very end still the last."""
    small = EpisodeShape(4, 4, 3, (1,), end=0.6, size=8)
    large = EpisodeShape(2, 4, 2, (2,), start=0.4)
    drawn = feeder(replace(DATA, shapes=(small, large)))
    sides = {
        progress: {
            (len(images), images.shape[-1])
            for images in (drawn.episode(s, progress)[0].inputs.images for s in range(12))
        }
        for progress in (0.0, 0.39, 0.4, 0.59, 0.6, 1.0)
    }
    few, many = {(2, 16)}, {(4, 8)}
    assert list(sides.values()) == [many, many, many | few, many | few, few, few]


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ((EpisodeShape(size=12),), "12 px"),
        ((EpisodeShape(size=32),), "32 px"),
        ((EpisodeShape(start=0.1),), "progress 0 of"),
        ((EpisodeShape(end=0.3), EpisodeShape(start=0.5)), "progress 0.3 of"),
        ((EpisodeShape(end=0.3), EpisodeShape(end=0.7)), "progress 0.7 of"),
    ],
)
def test_sizes_that_do_not_divide_and_stretches_without_a_shape_are_refused(shapes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(DATA, views=16, shapes=shapes)


def test_a_size_that_the_models_patches_do_not_divide_is_refused():
    shapes = (replace(DATA.shapes[0], size=4),)
    with pytest.raises(ValueError, match="views of 4 px can't be cut into the model's patches"):
        TrainConfig("small", Budget(steps=1), data=replace(DATA, shapes=shapes))


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.8, 0.2)])
def test_a_stretch_that_no_run_has_is_refused(start, end):
    with pytest.raises(ValueError, match="no stretch"):
        EpisodeShape(start=start, end=end)


@pytest.mark.parametrize("sparse", [0.0, 1.0], ids=["a stretch", "anywhere"])
def test_views_are_distinct_and_inputs_in_order(sparse):
    shape = EpisodeShape(64, 4, 3, (1,))
    views = choose_views(chance(), shape, 12, sparse)
    assert all(len(set(row.tolist())) == 7 for row in views)
    assert torch.equal(views[:, :4], views[:, :4].sort(1).values)
    span = (views.amax(1) - views.amin(1)).float().mean()
    assert span > 9 if sparse else span < 9


def test_a_stretch_has_targets_on_both_sides_of_inputs():
    views = choose_views(chance(), EpisodeShape(256, 4, 4, (1,)), 12, 0.0).float()
    inputs, targets = views[:, :4].mean(1), views[:, 4:].mean(1)
    assert (inputs > targets).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("size", [None, 8], ids=["as held", "reduced"])
def test_true_depth_and_colour_stay_true_under_mirror_and_gauge(size):
    """Every pixel of the plane z = 2 lies on one plane of the model's frame, mirrored or not."""
    data = replace(DATA, augmentation=replace(STILL, flip_share=0.5, yaw_share=1, scale_range=2))
    data = replace(data, shapes=(replace(data.shapes[0], size=size),))
    episode, _ = feeder(data).episode(0, 0.0)
    for views in (episode.inputs, episode.targets):
        assert views.images.shape[-2:] == views.depth.shape[-2:] == (size or 16, size or 16)
        origins, directions = views.cameras.rays()
        axis = views.cameras.forwards[..., None, None, :]
        along = (directions * axis).sum(-1)
        points = origins[:, :, None, None] + directions * (views.depth / along)[..., None]
        torch.testing.assert_close(points[..., 2], torch.full_like(points[..., 2], 2.0))
        model = episode.gauge.cameras_to_model(views.cameras)
        ratio = episode.gauge.depth_to_model(views.depth)[:, 0, 0, 0] / 2
        torch.testing.assert_close(ratio, episode.gauge.scale.float())
        assert torch.linalg.det(model.c2w_cv[..., :3, :3]).min() > 0.999


def test_held_out_scenes_keep_what_training_goes_without():
    drawn = []

    def render(world, seeds, views, size, device):
        drawn.append(world)
        return render_planes(world, seeds, views, size, device)

    bare = tuple(replace(w, without=get_args(SceneFeature)) for w in DATA.worlds)
    held_out = render_held_out(replace(DATA, worlds=bare), EvaluationConfig(), render, CPU)
    assert drawn == list(DATA.worlds)
    assert list(held_out.scenes) == ["room", "orbit-dynamic"]


def test_streams_follow_the_paths_longer_than_an_episode_and_their_late_targets_are_told_apart():
    worlds = World("room"), World("room", trajectory="video")
    data = replace(DATA, worlds=worlds)
    config = EvaluationConfig(scenes=2, inputs=4, targets=4, chunks=(1,), streams=(3, 6))
    held_out = render_held_out(data, config, render_planes, CPU)
    assert [(name, v.views) for name, v in held_out.streams.items()] == [("room-video", 10)]
    measured = measure(SceneModel(replace(tiny(), stack="S")), held_out)
    streams = [name for name in measured if "stream" in name]
    assert streams == [
        f"room-video/{stream}/{picture}"
        for length in (3, 6)
        for picture in ("rgb", "memory_rgb")
        for stream in (f"stream{length}", f"stream{length}-late")
    ]
    late = measured["room-video/stream6-late/rgb"]
    assert late != measured["room-video/stream6/rgb"]
    means = means_over_worlds(measured)
    assert means["stream6-late/rgb"] == pytest.approx(late)
    table = _table(means)
    assert table[0].endswith("| set | stream3 | stream3-late | stream6 | stream6-late |")
    assert table[2].startswith("| room |")
    assert table[2].endswith("|  |  |  |  |")


def test_a_world_without_cuts_renders_other_pictures_of_the_same_views():
    world, seeds = World("room"), np.arange(4)
    full = render_scenes(world, seeds, 2, 32, CPU, 1)
    whole = render_scenes(replace(world, without=("boolean_cuts",)), seeds, 2, 32, CPU, 1)
    assert torch.equal(full.c2w_cv, whole.c2w_cv)
    assert not torch.equal(full.images, whole.images)


def test_mirror_twice_is_nothing_and_moves_the_principal_point():
    scenes = render_planes(World("room"), np.arange(3), 4, 16, CPU)
    episode, _ = feeder(replace(DATA, augmentation=STILL)).episode(0, 0.0)
    cameras, images = episode.inputs.cameras, scenes.images[:, :4].float()
    cameras = replace(cameras[:3], intrinsics=cameras.intrinsics[:3] + torch.tensor([0, 0, 1.5, 0]))
    depth = scenes.depth[:, :4].float()
    chosen = torch.tensor([True, False, True])
    once = mirror(chosen, images, depth, cameras)
    assert torch.equal(once[0][0], images[0].flip(-1))
    assert torch.equal(once[0][1], images[1])
    assert once[2].intrinsics[0, 0, 2] == 16 - cameras.intrinsics[0, 0, 2]
    twice = mirror(chosen, *once)
    assert torch.equal(twice[0], images)
    torch.testing.assert_close(twice[2].c2w_cv, cameras.c2w_cv)


def test_noise_reaches_inputs_and_spares_targets_and_truth():
    noisy = replace(STILL, exposure_share=1.0, exposure=0.2, pose_noise_share=1.0, pose_noise=0.05)
    plain, _ = feeder(replace(DATA, augmentation=STILL)).episode(0, 0.0)
    jittered, _ = feeder(replace(DATA, augmentation=noisy)).episode(0, 0.0)
    assert torch.equal(plain.targets.images, jittered.targets.images)
    assert torch.equal(plain.targets.cameras.c2w_cv, jittered.targets.cameras.c2w_cv)
    assert torch.equal(plain.inputs.depth, jittered.inputs.depth)
    assert not torch.equal(plain.inputs.images, jittered.inputs.images)
    moved = (plain.inputs.cameras.centres - jittered.inputs.cameras.centres).norm(dim=-1).mean()
    assert moved == pytest.approx(0.05 * 2 * 1.6, rel=0.5)


def test_the_gauge_comes_from_the_first_chunk_alone():
    data = replace(DATA, augmentation=replace(STILL, depth_gauge_share=1.0))
    drawn = feeder(data)
    episode = next(
        episode
        for episode, _ in (drawn.episode(step, 0.0) for step in range(50))
        if episode.chunk_views == (2, 2)
    )
    first = episode.inputs[slice(0, 2)]
    expected = fit_gauge(first.cameras, "metric", depth=first.depth)
    torch.testing.assert_close(episode.gauge.origin, expected.origin)
    torch.testing.assert_close(episode.gauge.scale, expected.scale)


def test_static_scenes_get_any_time_or_none_and_moving_ones_keep_their_intervals():
    time_s = torch.arange(4.0).expand(200, 4)
    moving = torch.arange(200) % 2 == 0
    drawn = draw_times(chance(), Augmentation(), time_s, moving)
    assert torch.allclose(drawn[moving].diff(dim=1), torch.ones(100, 3), atol=1e-4)
    none = drawn[~moving].isnan()
    assert torch.equal(none.any(1), none.all(1))
    assert 20 < none.all(1).sum() < 80


def test_rotation_vectors_are_rotations():
    vectors = torch.cat([torch.zeros(1, 3), torch.randn(20, 3, dtype=torch.float64)])
    turned = rotation_from_vector(vectors)
    eye = torch.eye(3, dtype=turned.dtype).expand_as(turned)
    torch.testing.assert_close(turned @ turned.mT, eye)
    torch.testing.assert_close((turned @ vectors[..., None])[..., 0], vectors)
    traces = turned.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(traces, 1 + 2 * vectors.norm(dim=-1).cos())
