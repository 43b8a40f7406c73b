"""Stored scenes come in an order that depends on nothing but the configuration and the seed."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from itertools import count, islice

import numpy as np
import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.errors import DataError
from everview.datasets.shards import Origin, PosedScene, write_shards
from everview.pipeline.errors import UsageError
from everview.pipeline.training import block_stream
from everview.pipeline.training.config import DataConfig, EpisodeShape
from everview.pipeline.training.feeding import Feeder
from everview.pipeline.training.learning_rate import constant
from everview.pipeline.training.ranks import Share
from everview.pipeline.training.scene_pool import ScenePool
from everview.pipeline.training.stored_scenes import StoredScenes, choose_views
from tests.pipeline.training.flat_scenes import render_planes

SIZE, VIEWS = 16, 6


def ring(views: int, radius: float = 3.0) -> Cameras:
    """Cameras on a circle that look at its middle."""
    angle = torch.arange(views) * (2 * torch.pi / views)
    pose = torch.eye(4).repeat(views, 1, 1).double()
    pose[:, :3, 2] = torch.stack([-angle.cos(), torch.zeros(views), -angle.sin()], -1)
    pose[:, :3, 1] = torch.tensor([0.0, 1.0, 0.0]).double()
    pose[:, :3, 0] = torch.linalg.cross(pose[:, :3, 1], pose[:, :3, 2])
    pose[:, :3, 3] = -radius * pose[:, :3, 2]
    intrinsics = torch.tensor([SIZE, SIZE, SIZE / 2, SIZE / 2]).double().expand(views, 4)
    return Cameras(SIZE, SIZE, intrinsics, pose)


def stored(name: int, views: int = VIEWS, deep: bool = True, radius: float = 3.0) -> PosedScene:
    """A scene whose pixels say its number, in steps that compression keeps apart."""
    images = np.full((views, SIZE, SIZE, 3), 8 * name, np.uint8)
    depth = np.full((views, SIZE, SIZE), radius, np.float32) if deep else None
    origin = Origin(f"w{name}", "metric" if deep else "up_to_scale", "CC0", "made here")
    return PosedScene(f"s{name:03d}", images, ring(views, radius), origin, depth)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two sets: scenes 0 to 22, and 24 to 28 without depth."""
    root = tmp_path_factory.mktemp("stored")
    write_shards(root / "a", (stored(i) for i in range(23)))
    write_shards(root / "b", (stored(24 + i, deep=False, radius=50.0) for i in range(5)))
    return str(root / "a"), str(root / "b")


def data(places, **changes) -> DataConfig:
    base = DataConfig(
        size=SIZE, views=4, pool_scenes=8, refresh_scenes=2, reuse=1.0, shards=places,
        stored_scenes=16, stored_share=constant(1.0), shapes=(EpisodeShape(4, 2, 2, (1, 2)),),
    )  # fmt: skip
    return replace(base, **changes)


def names(views) -> list[int]:
    return (views.images[:, 0, 0, 0, 0].float() / 8).round().int().tolist()


def pool(config, share=None, seed=0) -> ScenePool:
    sets = StoredScenes(config, seed)
    stream = partial(block_stream.block_stream, sets.make)
    return ScenePool(config, seed, torch.device("cpu"), render_planes, stream, share)


def test_an_epoch_of_a_part_shows_every_scene_of_its_share_once(places):
    config = data(places[:1])
    assert config.parts == 4
    sets = StoredScenes(config, 3)
    # 23 scenes in 4 parts: part 1 has 6 of them, three blocks of two
    seen = [name for turn in range(3) for name in names(sets.make(turn * 4 + 1))]
    assert len(set(seen)) == 6
    # part 3 has five: no more than two blocks of this epoch
    others = {
        name for turn in range(2) for p in (0, 2, 3) for name in names(sets.make(turn * 4 + p))
    }
    assert not set(seen) & others


def test_sets_are_mixed_by_their_shares(places):
    sets = StoredScenes(data(places, shard_shares=(3.0, 1.0)), 0)
    from_b = [sets.block(number).source for number in range(400)]
    assert sum(from_b) == pytest.approx(100, abs=2)


@pytest.mark.parametrize("step", [0, 3, 17])
def test_a_pool_that_is_opened_late_holds_what_one_that_ran_holds(places, step):
    config = data(places)
    ran, opened = pool(config), pool(config)
    for early in range(step + 1):
        ran.advance(early)
    opened.advance(step)
    assert torch.equal(ran.storage.images, opened.storage.images)
    assert torch.equal(ran.storage.c2w_cv, opened.storage.c2w_cv)


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_sees_the_same_batch(places, workers):
    config = data(places)
    whole = Feeder(pool(config), 0)
    parts = [Feeder(pool(config, Share(index, workers)), 0) for index in range(workers)]
    for step in (0, 5):
        batch, _ = whole.episode(step, 0.0)
        for index, feeder in enumerate(parts):
            share, _ = feeder.episode(step, 0.0)
            assert torch.equal(share.inputs.images, batch.inputs.images[index::workers])


def test_blocks_come_in_order_ahead_of_their_use_and_errors_where_they_belong():
    made: list[int] = []
    ahead = threading.Event()

    def make(number: int):
        made.append(number)
        if number == 4:
            ahead.set()
        if number == 5:
            raise DataError("shard-00001 differs from its manifest's hash")
        return number

    stream = block_stream.block_stream(make, count(0))
    assert list(islice(stream, 3)) == [0, 1, 2]
    assert ahead.wait(10)  # asked for by nobody yet
    assert max(made) <= 2 + block_stream.AHEAD
    assert [next(stream), next(stream)] == [3, 4]
    with pytest.raises(DataError, match="shard-00001"):
        next(stream)


@pytest.mark.parametrize("choice", ["random", "window", "coverage"])
def test_chosen_views_are_different_ones_in_order(choice):
    cameras = ring(12)
    for seed in range(5):
        chosen = choose_views(choice, cameras, 5, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == 5
        assert (np.diff(chosen) > 0).all()
    if choice == "window":
        assert (np.diff(chosen) == 1).all()


def test_coverage_leaves_no_gap_that_a_window_leaves():
    cameras = ring(36)
    covering = choose_views("coverage", cameras, 6, np.random.default_rng(0))
    gaps = np.diff([*covering, covering[0] + 36])
    assert gaps.max() <= 12


def test_a_world_of_unknown_unit_is_brought_near_the_others(places):
    far = StoredScenes(data(places[1:]), 0).make(0)
    distance = far.c2w_cv[..., :3, 3].norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 2.0), rtol=1e-4, atol=0)
    feeder = Feeder(pool(data(places[1:])), 0)
    episode, _ = feeder.episode(0, 0.0)
    assert bool(episode.gauge.scale.isfinite().all())


def test_what_does_not_fit_is_said(places, tmp_path):
    with pytest.raises(UsageError, match="at most 6 views"):
        StoredScenes(data(places, views=8), 0)
    with pytest.raises(ValueError, match="stored_scenes 20"):
        data(places, stored_scenes=20)
    with pytest.raises(ValueError, match="2 shares for 1"):
        data(places[:1], shard_shares=(1.0, 2.0))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_data_makes_the_blocks_that_threads_make(places, local_ray):
    sets = StoredScenes(data(places), 0)
    plain = list(islice(block_stream._by_threads(sets.make, count(3), 2), 5))
    stream = block_stream.block_stream(sets.make, count(3))
    fed = list(islice(stream, 5))
    stream.close()
    for ours, theirs in zip(fed, plain, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.depth, theirs.depth)
        assert torch.equal(ours.c2w_cv, theirs.c2w_cv)
