"""The smallest real scenes: a plane with waves of colour, seen by cameras that move along it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.models import config as models
from everview.pipeline.training.config import (
    DataConfig,
    EpisodeShape,
    EvaluationConfig,
    TrainConfig,
    World,
)
from everview.pipeline.training.learning_rate import Budget, RateSchedule
from everview.pipeline.training.scene_pool import SceneViews


def render_planes(
    world: World, seeds: np.ndarray, views: int, size: int, device: torch.device
) -> SceneViews:
    """Scenes z = 2 with waves of colour, a camera a view between x = -0.5 and 0.5."""
    random = [np.random.default_rng([int(seed), len(world.name)]) for seed in seeds]
    draws = torch.tensor(np.stack([r.random(12) for r in random]), dtype=torch.float32)
    scenes = len(seeds)
    poses = torch.eye(4).repeat(scenes, views, 1, 1)
    poses[..., 0, 3] = torch.linspace(-0.5, 0.5, views)
    poses[..., 1, 3] = draws[:, None, 9] - 0.5
    intrinsics = torch.tensor([size, size, size / 2, size / 2], dtype=torch.float32)
    intrinsics = intrinsics.expand(scenes, views, 4).contiguous()
    origins, directions = Cameras(size, size, intrinsics, poses).rays()
    points = origins[:, :, None, None] + directions * (2.0 / directions[..., 2:])
    frequency = 2 + 6 * draws[:, None, None, None, 0:3]
    phase = 6.28 * draws[:, None, None, None, 3:6]
    mix = draws[:, None, None, None, 6:9]
    time = torch.linspace(0, 2, views).expand(scenes, views)
    shift = time[..., None, None, None] if world.dynamic else 0.0
    waves = mix * points[..., 0:1] + (1 - mix) * points[..., 1:2]
    colours = 0.5 + 0.5 * torch.sin(frequency * waves + phase + shift)
    return SceneViews(
        images=(colours.movedim(-1, 2) * 255).round().to(torch.uint8).to(device),
        depth=torch.full((scenes, views, size, size), 2.0, dtype=torch.float16, device=device),
        intrinsics=intrinsics.to(device),
        c2w_cv=poses.to(device),
        time_s=(time if world.dynamic else torch.full_like(time, torch.nan)).to(device),
        moving=torch.full((scenes,), world.dynamic, device=device),
    )


def render_for_a_run(world, seeds, views, size, device, samples_per_pixel):
    """`render_planes` with the signature of `sources.render_scenes`."""
    return render_planes(world, seeds, views, size, device)


def plane_run(steps: int) -> TrainConfig:
    """A run of `steps` steps on two worlds of planes, whose batches have two parts."""
    return TrainConfig(
        name="planes",
        budget=Budget(steps=steps),
        model=replace(models.tiny(), stack="WTF"),
        data=DataConfig(
            worlds=(World("room"), World("room", dynamic=True)),
            size=16,
            views=8,
            pool_scenes=4,
            refresh_scenes=2,
            reuse=2,
            shapes=(EpisodeShape(2, 4, 2, (1, 2, 4)),),
        ),
        rate=RateSchedule(warm_up_steps=2),
        evaluation=EvaluationConfig(scenes=2, inputs=4, targets=2, chunks=(1, 2), every_s=1e9),
        device="cpu",
        commit_every_s=1e9,
        report_every=1,
    )
