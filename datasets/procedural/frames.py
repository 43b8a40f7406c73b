"""Everything a kernel needs about a set of views, composed in float64 and laid out for streaming.

Poses, motion and cameras are combined here, once per view and body: the kernels then see each body
in its own frame, with ray directions given in the camera's, and never touch world coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.datasets.procedural.motion import place
from everview.datasets.procedural.scenes import BODIES, MATERIALS, SceneBatch

# Columns of `ViewTable.body`: direction matrix, origin, the shape, the bounding ball.
BODY_COLUMNS, VIEW_COLUMNS = 36, 48
DIRECTION, ORIGIN, HALF, LIGHT, QUADRIC, TAPER, CUT_CENTRE, CUT_INVERSE, CUT_QUADRIC, BALL = (
    slice(0, 9), slice(9, 12), slice(12, 15), slice(15, 18), slice(18, 21), slice(21, 23),
    slice(23, 26), slice(26, 29), slice(29, 32), slice(32, 36),
)  # fmt: skip
# Columns of `ViewTable.view`.
FOCAL, LIGHT_AT, UP, FILL_FROM, TURN, KEY, SKY, GROUND, FILL, SCALARS, RELIEF, WALLS = (
    slice(0, 4), slice(4, 7), slice(7, 10), slice(10, 13), slice(13, 22), slice(22, 25),
    slice(25, 28), slice(28, 31), slice(31, 34), slice(34, 38), slice(38, 42), slice(42, 48),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ViewTable:
    """M views, each of one scene.

    body [36, M, N + 2]: columns above; a ray (x, y, 1) t of the camera is  origin + t direction
    (x, y, 1)  in the body's unit frame; LIGHT is the key light there; BALL is the centre, in the
    camera's frame, and radius of a ball around the body.
    view [48, M]: intrinsics, lights in the camera's frame; SCALARS are the light's falloff, the
    shadow and relief flags with the extent between them.
    material_base [M] int64: first row of the scene in `material` [columns, B * MATERIALS].
    """

    body: Tensor
    view: Tensor
    material_base: Tensor
    material: Tensor

    def rows(self, index: Tensor) -> ViewTable:
        """The views `index` [m]."""
        return replace(
            self,
            body=self.body[:, index].contiguous(),
            view=self.view[:, index].contiguous(),
            material_base=self.material_base[index],
        )

    def to(self, *args: Any) -> ViewTable:
        """As Tensor.to, on the floating-point tensors."""
        cast = {
            f.name: getattr(self, f.name).to(*args)
            for f in fields(self)
            if getattr(self, f.name).is_floating_point()
        }
        return replace(self, **cast)


def view_table(scenes: SceneBatch, cameras: Cameras, time_s: Tensor) -> ViewTable:
    """Tables for cameras [B, V] at time_s [B, V], flattened to M = B V views; float64."""
    batch, views = cameras.shape
    options: dict[str, Any] = {"dtype": torch.float64, "device": scenes.device}
    owner = torch.arange(batch, device=scenes.device).repeat_interleave(views)
    c2w = cameras.c2w_cv.to(**options).reshape(-1, 4, 4)
    turn, eye = c2w[:, :3, :3], c2w[:, :3, 3]

    inverse, offset = place(scenes.motion.select(owner), time_s.to(**options).reshape(-1))
    track = scenes.track[owner]
    inverse = _take(inverse, track)
    offset = _take(offset, track)
    centre, half, rotation = (
        getattr(scenes, name)[owner] for name in ("centre", "half_size", "rotation")
    )
    # unit frame from world: 1/half R^T (F^-1 (q - offset) - centre)
    linear = (rotation / half[..., None, :]).transpose(-1, -2) @ inverse
    at_rest = (rotation.transpose(-1, -2) @ centre[..., None])[..., 0] / half

    def to_body(point: Tensor) -> Tensor:
        return (linear @ (point[:, None] - offset)[..., None])[..., 0] - at_rest

    light = scenes.light_position[owner]
    shape = torch.cat(
        [
            scenes.quadric,
            scenes.taper,
            scenes.cut_centre,
            1.0 / scenes.cut_half,
            scenes.cut_quadric,
        ],
        -1,
    )
    # the relief and the shell have no such columns; ones keep the arithmetic finite
    shape = torch.nn.functional.pad(shape, (0, 0, 0, 2), value=1.0)[owner]
    direction, origin = linear @ turn[:, None], to_body(eye)
    ball = _bounding_ball(direction, origin)
    body = torch.cat([direction.flatten(-2), origin, half, to_body(light), shape, ball], -1)

    to_camera = turn.transpose(-1, -2)
    up = to_camera[:, :, 2]
    fill_from = (to_camera @ scenes.fill_direction[owner][..., None])[..., 0]
    light_at = (to_camera @ (light - eye)[..., None])[..., 0]
    has_relief = torch.tensor(scenes.has_relief, dtype=torch.float64).to(scenes.device)
    scalars = [scenes.light_falloff, scenes.has_shadow, scenes.extent, has_relief]
    view = torch.cat(
        [
            cameras.intrinsics.to(**options).reshape(-1, 4),
            light_at,
            up,
            fill_from,
            turn.flatten(-2),
            *(
                getattr(scenes, n)[owner]
                for n in ("light", "ambient_sky", "ambient_ground", "fill")
            ),
            torch.stack(scalars, -1)[owner],
            scenes.relief_shape[owner],
            scenes.shell_visible[owner].double(),
        ],
        -1,
    )
    return ViewTable(
        body=body.permute(2, 0, 1).contiguous(),
        view=view.T.contiguous(),
        material_base=owner * MATERIALS,
        material=scenes.materials.flatten(0, 1).T.contiguous(),
    )


def _bounding_ball(direction: Tensor, origin: Tensor) -> Tensor:
    """Centre and radius [M, P, 4], in the camera's frame, of a ball around each unit box."""
    rows = direction.unbind(-2)
    cofactors = [torch.linalg.cross(rows[(k + 1) % 3], rows[(k + 2) % 3]) for k in range(3)]
    volume = (rows[0] * cofactors[0]).sum(-1)
    # columns of the inverse: where the body's axes lie in the camera's frame
    axes = torch.stack(cofactors, -1) / volume[..., None, None]
    centre = -(axes @ origin[..., None])[..., 0]
    radius = axes.abs().sum(-1).norm(dim=-1, keepdim=True)
    return torch.cat([centre, radius], -1)


def _take(per_track: Tensor, track: Tensor) -> Tensor:
    """per_track [M, T, ...] at track [M, P] -> [M, P, ...]."""
    rows = torch.arange(len(track), device=track.device)[:, None]
    return per_track[rows, track]


assert BODIES + 2 <= 64  # a reduction over bodies is one tile of the compiled kernel
