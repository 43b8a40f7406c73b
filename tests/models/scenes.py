"""What the model's tests look at: an orbit of cameras, episodes of noise, a textured plane."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.config import ModelConfig, tiny
from everview.models.episode import Episode
from everview.models.gauge import Gauge, fit_gauge
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, Schedule
from everview.models.state import SceneState
from everview.models.views import Views


def looking_at(eye: Tensor, focus: Tensor) -> Tensor:
    """c2w_cv [4, 4] of an upright camera at `eye` that looks at `focus` (z is up)."""
    forward = (focus - eye) / (focus - eye).norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    right = right / right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def orbit(batch: int, views: int, height: int = 16, width: int = 16) -> Cameras:
    """Cameras [B, V] on circles of radius 3 around the origin, float64."""
    poses = [
        looking_at(_on_circle(2 * math.pi * v / views + 0.1 * b), torch.zeros(3).double())
        for b in range(batch)
        for v in range(views)
    ]
    lens = torch.tensor([1.2 * width, 1.2 * width, width / 2, height / 2], dtype=torch.float64)
    return Cameras(
        width, height, lens.expand(batch, views, 4), torch.stack(poses).view(batch, views, 4, 4)
    )


def _on_circle(angle: float) -> Tensor:
    return torch.tensor([2.8 * math.cos(angle), 2.8 * math.sin(angle), 1.1], dtype=torch.float64)


def episode(
    chunks: tuple[int, ...] = (2, 1),
    targets: int = 2,
    batch: int = 2,
    size: tuple[int, int] = (16, 16),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Episode:
    """Noise seen from an orbit; pixel values that 8 bits hold; times 0.3 s apart."""
    random = torch.Generator().manual_seed(seed)
    inputs, (height, width) = sum(chunks), size
    total = inputs + targets
    cameras = orbit(batch, total, height, width)[:, torch.randperm(total, generator=random)]
    levels = torch.randint(256, (batch, total, 3, height, width), generator=random)
    views = Views(
        levels.to(dtype) / 255,
        cameras,
        5 + 0.3 * torch.arange(total, dtype=torch.float64).expand(batch, -1),
    )
    return Episode(views[:inputs], views[inputs:], chunks, fit_gauge(cameras[:, :total]))


def scene_model(seed: int = 0, **changes) -> SceneModel:
    """A tiny model in eval mode whose copy from the bank is switched on; fields as for the config.

    Without a bank unless one is given: then every output is a matter of the layers alone.
    """
    config: ModelConfig = replace(tiny(), **({"bank": None} | changes))
    torch.manual_seed(seed)
    model = SceneModel(config).eval()
    if model.refine is not None:
        torch.nn.init.normal_(model.refine.mix.weight, std=0.1)
    return model


def streamed(
    model: SceneModel,
    seen: Episode,
    schedule: Schedule = CHUNK_CAUSAL,
    state: SceneState | None = None,
    gauge: Gauge | None = None,
) -> SceneState:
    """The state after observing an episode's inputs chunk by chunk."""
    state = state or model.init_state(seen.inputs.cameras.shape[0])
    start = 0
    for count in seen.chunk_views:
        views = seen.inputs[start : start + count]
        start += count
        first = (gauge or seen.gauge) if state.gauge is None else None
        assert views.images is not None
        state = model.observe(
            views.images, views.cameras, views.time_s, state, gauge=first, schedule=schedule
        )
    return state


def plane_texture(x: Tensor, y: Tensor) -> Tensor:
    """Smooth colours of a plane, [..., 3] in [0, 1]; about four waves a unit of length."""
    waves = torch.stack([3.1 * x + 1.3 * y, 2.7 * y - 0.8 * x, 2.2 * (x + y)], -1)
    return 0.5 + 0.4 * torch.sin(2.5 * waves)


def plane_views(cameras: Cameras, height_z: float = 0.0) -> Views:
    """The plane z = `height_z` with `plane_texture`, seen by cameras [B, V] above it."""
    origins, directions = cameras.rays()
    distance = (height_z - origins[..., 2])[..., None, None] / directions[..., 2]
    points = origins[..., None, None, :] + distance[..., None] * directions
    images = plane_texture(points[..., 0], points[..., 1]).movedim(-1, -3).float()
    along = (directions * cameras.forwards[..., None, None, :]).sum(-1)
    return Views(images, cameras, None, (distance * along).float())


def above_plane(views: int = 5, size: int = 64) -> Cameras:
    """Cameras [1, V] about two units above the plane z = 0, all looking down at its middle."""
    poses = [
        looking_at(
            torch.tensor([0.5 * math.cos(2.4 * v), 0.5 * math.sin(2.4 * v) - 0.8, 2.0]).double(),
            torch.tensor([0.05 * v, 0.0, 0.0]).double(),
        )
        for v in range(views)
    ]
    lens = torch.tensor([1.5 * size, 1.5 * size, size / 2, size / 2], dtype=torch.float64)
    return Cameras(size, size, lens.expand(1, views, 4), torch.stack(poses)[None])
