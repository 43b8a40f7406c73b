"""The gauge: the similarity that takes a capture's world into the model's.

A stream has no future poses, so the gauge comes from the first chunk alone and is kept in the
state. Origin and axes are those of the chunk's middle camera (yaw only, when gravity is known).
The scale puts a typical distance at 1, by the first rule that applies:

    median depth             of the chunk's known depths
    focus distance           if nearly all axes look at one point: the least-squares focus, missed
                             by less than a quarter of its distance
    median triangulated depth  of sparse points in front of the chunk's cameras
    2 m                      for a metric capture

x_model = scale * R (x_world - origin). Shapes: B scenes, V views, N points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras

_METRIC_DISTANCE_M = 2.0
_FOCUS_MISS = 0.25
_FOCUS_SHARE = 0.8
_AXES_SPREAD = 1e-4  # mean squared sine between the axes, about: rms 0.6 degrees


class GaugeError(ValueError):
    """No rule gives the scale of this capture."""


@dataclass(frozen=True, eq=False)
class Gauge:
    """rotation [B, 3, 3] (world to model), origin [B, 3] in the world, scale [B], all float64;
    rule: which one gave the scale."""

    rotation: Tensor
    origin: Tensor
    scale: Tensor
    rule: str

    def cameras_to_model(self, cameras: Cameras) -> Cameras:
        """Cameras [B, V] of the capture's world in the model's frame, composed in float64 and
        returned in float32."""
        pose = cameras.c2w_cv.to(self.rotation)
        out = pose.clone()
        out[..., :3, :3] = self.rotation[:, None] @ pose[..., :3, :3]
        offset = pose[..., :3, 3] - self.origin[:, None]
        turned = torch.einsum("bij,bvj->bvi", self.rotation, offset)
        out[..., :3, 3] = turned * self.scale[:, None, None]
        return replace(cameras, c2w_cv=out.float(), intrinsics=cameras.intrinsics.float())

    def cameras_to_world(self, cameras: Cameras) -> Cameras:
        """Inverse of `cameras_to_model`, float64."""
        pose = cameras.c2w_cv.to(self.rotation).clone()
        pose[..., :3, :3] = self.rotation.mT[:, None] @ pose[..., :3, :3]
        pose[..., :3, 3] = self.points_to_world(pose[..., :3, 3])
        return replace(cameras, c2w_cv=pose)

    def points_to_world(self, points: Tensor) -> Tensor:
        """Model points [B, N, 3] in the capture's world, float64."""
        unscaled = points.to(self.rotation) / self.scale[:, None, None]
        return torch.einsum("bji,bnj->bni", self.rotation, unscaled) + self.origin[:, None]

    def depth_to_world(self, depth: Tensor) -> Tensor:
        """z-depth [B, ...] in gauge units to the capture's units."""
        scale = self.scale.to(depth.dtype).view(-1, *([1] * (depth.ndim - 1)))
        return depth / scale

    def depth_to_model(self, depth: Tensor) -> Tensor:
        """z-depth [B, ...] in the capture's units to gauge units (0 stays 0: unknown)."""
        return depth * self.scale.to(depth.dtype).view(-1, *([1] * (depth.ndim - 1)))

    def composed(self, rotation: Tensor, scale: Tensor, offset: Tensor) -> Gauge:
        """This gauge followed by x -> scale R x + offset, for augmentation.

        rotation [B, 3, 3], scale [B], offset [B, 3] in gauge units.
        """
        rotation, scale, offset = (t.to(self.rotation) for t in (rotation, scale, offset))
        joint = rotation @ self.rotation
        total = scale * self.scale
        shift = torch.einsum("bji,bj->bi", joint, offset) / total[:, None]
        return Gauge(joint, self.origin - shift, total, self.rule)

    def to(self, device: torch.device | str) -> Gauge:
        """On another device."""
        return replace(
            self,
            rotation=self.rotation.to(device),
            origin=self.origin.to(device),
            scale=self.scale.to(device),
        )


def fit_gauge(
    cameras: Cameras,
    scale: str = "up_to_scale",
    depth: Tensor | None = None,
    points_world: Tensor | None = None,
    gravity_up: Tensor | None = None,
) -> Gauge:
    """The gauge of a first chunk.

    cameras: [V], or [B, V] for B scenes at once. scale: "metric", "up_to_scale" or "normalised".
    depth: z-depth [.., V, H, W] in world units, 0 unknown. points_world: [N, 3] sparse points (one
    scene). gravity_up: unit up vector [3] of the world, if known. With several scenes, each takes
    the first rule that applies to it. Raises GaugeError where none does.
    """
    if len(cameras.shape) == 1:
        cameras = cameras[None]
        depth = None if depth is None else depth[None]
    pose = cameras.c2w_cv.double()
    middle = pose[:, pose.shape[1] // 2]
    axes = middle[:, :3, :3] if gravity_up is None else _level(middle[:, :3, :3], gravity_up)
    distance, rules = _typical_distance(cameras, scale, depth, points_world)
    return Gauge(axes.mT.contiguous(), middle[:, :3, 3].clone(), 1.0 / distance, rules)


def moved_gauge(gauge: Gauge, cameras: Cameras) -> Gauge:
    """A gauge [1] whose scale is kept, with origin and axes at the middle one of cameras [V]: for
    frames that don't tell the scale themselves."""
    middle = cameras.c2w_cv[len(cameras.c2w_cv) // 2].double()[None]
    axes, origin = middle[:, :3, :3].mT.contiguous(), middle[:, :3, 3].clone()
    return Gauge(axes, origin, gauge.scale.cpu(), f"kept: {gauge.rule.removeprefix('kept: ')}")


def _typical_distance(
    cameras: Cameras, scale: str, depth: Tensor | None, points_world: Tensor | None
) -> tuple[Tensor, str]:
    """The distance [B] that becomes 1, and the rule's name (of the first scene)."""
    candidates: list[tuple[str, Tensor]] = []
    if depth is not None:
        depth = depth.to(cameras.c2w_cv.device).double()
        candidates.append(("median depth", _masked_median(depth.flatten(1))))
    candidates.append(("focus distance", _focus_distance(cameras)))
    if points_world is not None:
        candidates.append(("median triangulated depth", _points_depth(cameras, points_world)))
    if scale == "metric":
        fixed = candidates[0][1].new_full(cameras.shape[:1], _METRIC_DISTANCE_M)
        candidates.append(("2 m of a metric capture", fixed))
    distance = torch.full_like(candidates[0][1], torch.nan)
    for _, value in candidates:
        distance = torch.where(distance.isnan(), value, distance)
    if cameras.c2w_cv.device.type == "cpu":  # on a GPU a check would stall training's queue
        if distance.isnan().any():
            raise GaugeError(
                "the scene's scale can't be told: no depth, the cameras don't look at one point, "
                "there are no sparse points, and the capture isn't metric; give depth or points"
            )
        rule = next(name for name, value in candidates if not value[0].isnan())
        return distance, rule
    return distance, candidates[0][0]


def _masked_median(values: Tensor) -> Tensor:
    """Median [B] over the positive, finite entries of [B, M]; NaN where there are none."""
    known = (values > 0) & values.isfinite()
    return torch.where(known, values, torch.nan).nanmedian(dim=1).values


def _focus_distance(cameras: Cameras) -> Tensor:
    """Median distance [B] to the least-squares meeting point of the optical axes, or NaN.

    The focus counts if it lies in front of nearly all cameras and their axes miss it by less than
    a quarter of its distance.
    """
    centres, forwards = cameras.centres.double(), cameras.forwards.double()
    middle = centres.mean(1, keepdim=True)
    eye = torch.eye(3, dtype=torch.float64, device=centres.device)
    across = eye - forwards[..., :, None] * forwards[..., None, :]
    normal = across.sum(1)
    # parallel axes meet nowhere: their system is singular, and a small ridge keeps it solvable
    right = (across @ (centres - middle)[..., None]).sum(1)
    focus = torch.linalg.solve_ex(normal + 1e-9 * eye, right)[0][..., 0] + middle[:, 0]
    # (solve_ex, and a determinant by hand: no host wait)
    columns = (normal / forwards.shape[1]).unbind(-1)
    spread = (torch.linalg.cross(columns[0], columns[1]) * columns[2]).sum(-1)
    to_focus = focus[:, None] - centres
    along = (to_focus * forwards).sum(-1)
    miss = (to_focus - along[..., None] * forwards).norm(dim=-1)
    looks = (along > 0) & (miss < _FOCUS_MISS * along)
    distance = along.median(dim=1).values
    baseline = (centres - middle).norm(dim=-1).amax(1)
    sound = (looks.double().mean(1) >= _FOCUS_SHARE) & (baseline > 0.05 * distance)
    sound = sound & (spread > _AXES_SPREAD) & distance.isfinite()
    return torch.where(sound, distance, torch.nan)


def _points_depth(cameras: Cameras, points_world: Tensor) -> Tensor:
    """Median z-depth [B] of the points that the cameras see, or NaN."""
    points = points_world.to(cameras.c2w_cv.device).double()
    pose = cameras.c2w_cv.double()
    seen = torch.einsum(
        "bvji,bvnj->bvni", pose[..., :3, :3], points - pose[..., None, :3, 3]
    )  # fmt: skip
    depth = seen[..., 2]
    fx, fy, cx, cy = cameras.intrinsics.double()[..., None].unbind(-2)
    u = fx * seen[..., 0] / depth + cx
    v = fy * seen[..., 1] / depth + cy
    inside = (u >= 0) & (u <= cameras.width) & (v >= 0) & (v <= cameras.height)
    return _masked_median(torch.where(inside, depth, 0.0).flatten(1))


def _level(axes: Tensor, up: Tensor) -> Tensor:
    """Camera axes [B, 3, 3] (columns x right, y down, z forward) turned upright about `up` [3]."""
    down = -(up.to(axes) / up.to(axes).norm()).expand(axes.shape[0], 3)
    forward = axes[:, :, 2] - (axes[:, :, 2] * down).sum(-1, keepdim=True) * down
    steep = forward.norm(dim=-1, keepdim=True) < 1e-3  # looking straight up or down: use its top
    forward = torch.where(steep, -axes[:, :, 1], forward)
    forward = forward - (forward * down).sum(-1, keepdim=True) * down
    forward = forward / forward.norm(dim=-1, keepdim=True)
    return torch.stack([torch.linalg.cross(down, forward), down, forward], dim=-1)
