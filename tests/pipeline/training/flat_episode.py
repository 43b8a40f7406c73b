"""An episode of the plane with waves, as the feeder makes them, on any device."""

from __future__ import annotations

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.models.episode import Episode
from everview.models.gauge import Gauge
from everview.models.state import map_tensors
from everview.models.views import Views
from everview.pipeline.training.config import World
from tests.pipeline.training.flat_scenes import render_planes

INPUTS, TARGETS = 4, 2


def plane_episode(
    seed: int, chunks: int, device: torch.device | str, scenes: int = 2, size: int = 16
) -> Episode:
    """Four inputs in `chunks` chunks and two targets of `scenes` planes, half the targets barred
    from the frame bank."""
    count = INPUTS + TARGETS
    seeds = np.arange(seed * scenes, (seed + 1) * scenes)
    shown = render_planes(World("room"), seeds, count, size, torch.device("cpu"))
    images, depth = shown.images.float() / 255, shown.depth.float()
    cameras = Cameras(size, size, shown.intrinsics, shown.c2w_cv)
    parts = [
        Views(images[:, part], cameras[:, part], shown.time_s[:, part], depth[:, part])
        for part in (slice(0, INPUTS), slice(INPUTS, count))
    ]
    gauge = Gauge(
        rotation=torch.eye(3, dtype=torch.float64).repeat(scenes, 1, 1),
        origin=torch.zeros(scenes, 3, dtype=torch.float64),
        scale=torch.full((scenes,), 0.5, dtype=torch.float64),
        rule="median depth",
    )
    mask = torch.arange(scenes * TARGETS).reshape(scenes, TARGETS) % 2 == 0
    episode = Episode(*parts, (INPUTS // chunks,) * chunks, gauge, mask)
    return map_tensors(lambda tensor: tensor.to(device), episode)
