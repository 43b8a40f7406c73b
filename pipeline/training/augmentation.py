"""What happens to scenes between the pool and the model, vectorised over scenes on the device.

Each function takes and returns plain tensors and draws from the generator it is given, so that an
episode is a function of its seed.

Shapes: B scenes, V views, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.gauge import Gauge
from everview.pipeline.training.config import Augmentation
from everview.pipeline.training.ranks import Share


class Chance:
    """Random tensors of one device from one generator, the first axis scenes.

    share, total: of a batch of `total` scenes only those of the share are wanted. All are drawn
    and cut, so that a scene's chance doesn't depend on who else trains.
    """

    def __init__(
        self, generator: torch.Generator, share: Share | None = None, total: int | None = None
    ) -> None:
        self.generator = generator
        self.device = generator.device
        self._share, self._total = share or Share(), total

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in [low, high)."""
        values = torch.rand(self._drawn(shape), generator=self.generator, device=self.device)
        return low + (high - low) * values[self._share.positions]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        values = torch.randn(self._drawn(shape), generator=self.generator, device=self.device)
        return values[self._share.positions]

    def event(self, probability: float, *shape: int) -> Tensor:
        """Booleans, true with `probability`."""
        return self.uniform(*shape) < probability

    def _drawn(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        total = shape[0] if self._total is None else self._total
        if self._share.size(total) != shape[0]:
            raise ValueError(f"{shape[0]} scenes are not {self._share} of {total}")
        return total, *shape[1:]


def mirror(
    chosen: Tensor, images: Tensor, depth: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Cameras]:
    """Left-right mirror images of the scenes `chosen` [B]: the world's x axis is negated.

    With M = diag(-1, 1, 1, 1), a camera P sees the mirrored world through M P M, which is rigid,
    and its picture is flipped: cx becomes width - cx.
    """
    scenes = chosen.view(-1, 1, 1, 1)
    images = torch.where(scenes[..., None], images.flip(-1), images)
    depth = torch.where(scenes, depth.flip(-1), depth)
    sign = torch.ones(4, 4, dtype=cameras.c2w_cv.dtype, device=chosen.device)
    sign[0, 1:] = -1
    sign[1:, 0] = -1
    poses = torch.where(scenes, cameras.c2w_cv * sign, cameras.c2w_cv)
    fx, fy, cx, cy = cameras.intrinsics.unbind(-1)
    cx = torch.where(chosen[:, None], cameras.width - cx, cx)
    return (
        images,
        depth,
        replace(cameras, intrinsics=torch.stack([fx, fy, cx, cy], -1), c2w_cv=poses),
    )


def jitter_exposure(chance: Chance, config: Augmentation, images: Tensor) -> Tensor:
    """Gains per view and colour for a share of the scenes [B, V, 3, H, W]; clamped to [0, 1]."""
    scenes, views = images.shape[:2]
    log_gain = chance.normal(scenes, views, 1) + chance.normal(scenes, views, 3) / 3
    chosen = chance.event(config.exposure_share, scenes, 1, 1)
    gain = (log_gain * config.exposure * chosen).exp()
    return (images * gain[..., None, None]).clamp(max=1.0)


def jitter_poses(chance: Chance, config: Augmentation, cameras: Cameras, depth: Tensor) -> Cameras:
    """Noisy poses for a share of the scenes; positions in units of the median known depth."""
    scenes, views = cameras.shape
    chosen = chance.event(config.pose_noise_share, scenes, 1)
    unit = median_depth(depth)[:, None] * chosen
    offset = chance.normal(scenes, views, 3) * (config.pose_noise * unit)[..., None]
    angle = math.radians(config.pose_noise_deg) * chosen[..., None]
    turn = rotation_from_vector(chance.normal(scenes, views, 3) * angle)
    poses = cameras.c2w_cv.clone()
    poses[..., :3, :3] = cameras.c2w_cv[..., :3, :3] @ turn
    poses[..., :3, 3] += offset
    return replace(cameras, c2w_cv=poses)


def shake_gauge(chance: Chance, config: Augmentation, gauge: Gauge) -> Gauge:
    """The gauge turned, tilted, scaled and moved, as another first chunk would have given it.

    The model's y axis points down (OpenCV axes of the middle camera): yaw turns about it.
    """
    scenes = gauge.scale.shape[0]
    yaw = chance.uniform(scenes, low=-math.pi, high=math.pi)
    yaw = yaw * chance.event(config.yaw_share, scenes)
    tilt = chance.normal(scenes, 3) * math.radians(config.tilt_deg)
    zero = torch.zeros_like(yaw)
    turn = rotation_from_vector(tilt) @ rotation_from_vector(torch.stack([zero, yaw, zero], -1))
    span = math.log(config.scale_range)
    factor = chance.uniform(scenes, low=-span, high=span).exp()
    return gauge.composed(turn, factor, chance.normal(scenes, 3) * config.offset)


def median_depth(depth: Tensor) -> Tensor:
    """Median of the known depths of each scene [B, V, H, W] -> [B]; 1 where none is known."""
    flat = depth[:, :, ::4, ::4].flatten(1).float()
    median = torch.where(flat > 0, flat, torch.nan).nanmedian(1).values
    return torch.where(torch.isfinite(median), median, 1.0)


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of rotation vectors [..., 3] (axis times angle, radians)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    angle = vector.norm(dim=-1)[..., None, None]
    first = torch.sinc(angle / math.pi)
    second = torch.sinc(angle / (2 * math.pi)).square() / 2
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return eye + first * cross + second * (cross @ cross)
