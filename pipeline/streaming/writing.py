"""A chunk of frames into a state: one update of the model, and the gauge of a state's first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.models.captured import Write
from everview.models.gauge import Gauge, GaugeError, fit_gauge, moved_gauge
from everview.models.scene_model import SceneModel
from everview.models.state import SceneState
from everview.pipeline.rendering.renderer import image_tensor, time_tensor
from everview.pipeline.streaming.frame_tensors import stacked_depth
from everview.pipeline.streaming.learning import PLAIN, ChunkWrite
from everview.pipeline.streaming.published import World
from everview.pipeline.training.precision import mixed_precision


def written(
    model: SceneModel,
    write: Write,
    frames: Sequence[Frame],
    state: SceneState,
    gauge: Gauge | None,
    plan: ChunkWrite = PLAIN,
) -> SceneState:
    """The state after one update by frames of one size; gauge: with a state's first."""
    device = model.device
    cameras = Cameras.stack([frame.camera for frame in frames])[None].to(
        device=device, non_blocking=True
    )
    images = image_tensor([frame.image for frame in frames], device)
    times = time_tensor([frame.time_s for frame in frames], device)
    given: dict[str, Any] = {} if gauge is None else {"gauge": gauge.to(device)}
    given |= {"write": write, **plan.arguments(device)}
    with torch.no_grad(), mixed_precision(device):
        return model.observe(images, cameras, times, state, **given)


def fitted_gauge(chunk: Sequence[Frame], world: World, before: Gauge | None) -> Gauge:
    """Of the frames that begin a segment; where they don't tell the scale, a later segment keeps
    that of the one before. Raises DataError for a first one that tells none."""
    cameras = Cameras.stack([frame.camera for frame in chunk])
    depth, points = stacked_depth(chunk), world.points_world
    try:
        return fit_gauge(
            cameras,
            world.scale,
            depth=None if depth is None else torch.from_numpy(depth),
            points_world=None if points is None else torch.from_numpy(np.asarray(points)),
        )
    except GaugeError as error:
        if before is not None:
            return moved_gauge(before, cameras)
        first, last = chunk[0].name, chunk[-1].name
        raise DataError(f"frames {first} to {last}: {error}") from error
