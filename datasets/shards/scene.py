"""One scene as shards hold it: V posed views of one size, with what is known beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.captures import Scale
from everview.datasets.errors import DataError

SCALES: tuple[Scale, ...] = ("metric", "up_to_scale", "normalised")


@dataclass(frozen=True)
class Origin:
    """Where a scene comes from and what its numbers mean.

    world: whose coordinates they are; scenes of one world (parts of one capture, one object under
    two lights) share them. scale: the unit of the world. licence, source: in words.
    """

    world: str
    scale: Scale
    licence: str
    source: str


@dataclass(frozen=True)
class CameraSummary:
    """What the cameras of a scene do, so that sets can be chosen by it without reading them.

    fov_deg: horizontal field of view, mean. extent: largest distance of a camera from their mean
    place, in world units. turn_deg: largest angle between two optical axes.
    """

    fov_deg: float
    extent: float
    turn_deg: float

    @staticmethod
    def of(cameras: Cameras) -> CameraSummary:
        """The summary of cameras [V], rounded to 6 digits."""
        fov = 2.0 * torch.rad2deg(torch.atan(cameras.width / (2.0 * cameras.intrinsics[:, 0])))
        centres, axes = cameras.centres.double(), cameras.forwards.double()
        extent = (centres - centres.mean(0)).norm(dim=-1).max()
        # of all pairs only the lowest is asked for: a thousand views take 8 MB
        turn = torch.rad2deg(torch.acos((axes @ axes.T).min().clamp(-1.0, 1.0)))
        return CameraSummary(*(float(f"{float(x):.6g}") for x in (fov.mean(), extent, turn)))

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class PosedScene:
    """What is written into shards and read from them. Raises DataError when its parts don't fit.

    name, variant: together unique in a set; variant is the set-up (a light), or "".
    images: uint8 [V, H, W, 3]. cameras: [V] of that size, float64, in the world of `origin`.
    depth: float32 [V, H, W] along z in world units, 0 unknown; None: no view has any.
    time_s: float64 [V]; None: there is no clock. view_names: [V], as the source calls them.
    distance: of what its cameras typically see, in world units, where no depth and no unit of
    length tells it; 0: not known.
    """

    name: str
    images: np.ndarray
    cameras: Cameras
    origin: Origin
    depth: np.ndarray | None = None
    time_s: np.ndarray | None = None
    view_names: tuple[str, ...] = ()
    variant: str = ""
    distance: float = 0.0

    def __post_init__(self) -> None:
        shape = self.images.shape
        if len(shape) != 4 or shape[3] != 3 or shape[0] == 0 or self.images.dtype != np.uint8:
            raise DataError(f"scene {self.title!r} has images {self.images.dtype} of shape {shape}")
        views, height, width = shape[:3]
        for what, found in (
            ("depth", None if self.depth is None else self.depth.shape),
            ("cameras", (*self.cameras.shape, self.cameras.height, self.cameras.width)),
        ):
            if found is not None and tuple(found) != (views, height, width):
                raise DataError(
                    f"scene {self.title!r} has images of shape {shape[:3]} but {what} of "
                    f"{tuple(found)}"
                )
        if self.time_s is not None and self.time_s.shape != (views,):
            raise DataError(f"scene {self.title!r} has {views} views but {len(self.time_s)} times")
        if len(self.view_names) not in (0, views):
            raise DataError(f"scene {self.title!r} names {len(self.view_names)} of {views} views")
        if self.origin.scale not in SCALES:
            raise DataError(f"scene {self.title!r} states the scale {self.origin.scale!r}")
        if not 0 <= self.distance < float("inf"):
            raise DataError(f"scene {self.title!r} states the distance {self.distance}")
        _check_cameras(self.title, self.cameras)

    @property
    def title(self) -> str:
        """Name and variant in one word."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def views(self) -> int:
        """V."""
        return len(self.images)


def _check_cameras(title: str, cameras: Cameras) -> None:
    poses, lens = cameras.c2w_cv.double(), cameras.intrinsics.double()
    if not (torch.isfinite(poses).all() and torch.isfinite(lens).all()):
        raise DataError(f"scene {title!r} has cameras with numbers that are not finite")
    rotation = poses[:, :3, :3]
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max()
    if off > 1e-3 or (torch.linalg.det(rotation) < 0).any() or (lens[:, :2] <= 0).any():
        raise DataError(f"scene {title!r} has cameras that are not rigid or have no focal length")
