"""Motion: closed SE(3) splines with rests, and a breathing stretch, one per track of a scene.

Track k moves a point p of its bodies to  pivot + shift(t) + turn(t) stretch(t) (p - pivot), with
shift and turn (a rotation vector) on closed uniform cubic B-splines of eight knots. Once a period
the track rests, then goes round its loop once with a smooth start and stop, so it never jumps and
never ends: a capture may last for hours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everview.datasets.procedural.draws import Draws

TRACKS = 4
KNOTS = 8


@dataclass(frozen=True, eq=False)
class Motion:
    """Parameters of TRACKS tracks in B scenes.

    pivot [B, T, 3] metres; shift, turn [B, T, KNOTS, 3] metres and radians; period, rest, phase
    [B, T]: seconds, share of the period spent still, share of a period; stretch [B, T, 3] relative
    amplitude along the world's axes; lag [B, T, 3] radians.
    """

    pivot: Tensor
    shift: Tensor
    turn: Tensor
    period: Tensor
    rest: Tensor
    phase: Tensor
    stretch: Tensor
    lag: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Motion:
        """As Tensor.to, on every tensor."""
        parts = {f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)}
        return replace(self, **parts)

    def select(self, rows: Tensor) -> Motion:
        """The scenes `rows`, repeats allowed."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def draw_motion(draws: Draws, pivot: np.ndarray, reach_m: np.ndarray, dynamic: bool) -> Motion:
    """Random tracks about `pivot` [B, T, 3] that stray by some `reach_m` [B]; or still ones."""
    amplitude = reach_m[:, None, None, None] * draws.uniform(TRACKS, 1, 1, low=0.4, high=1.0)
    shift = draws.normal(TRACKS, KNOTS, 3) * amplitude * np.array([1.0, 1.0, 0.35])
    turn = draws.normal(TRACKS, KNOTS, 3) * draws.uniform(TRACKS, 1, 1, high=0.8)
    stretch = draws.uniform(TRACKS, 3, high=0.35) * draws.chance(0.4, TRACKS)[..., None]
    on = 1.0 if dynamic else 0.0
    parts = {
        "pivot": pivot,
        "shift": shift * on,
        "turn": turn * np.array([0.3, 0.3, 1.0]) * on,
        "period": draws.log_uniform(TRACKS, low=2.5, high=9.0),
        "rest": draws.uniform(TRACKS, high=0.5),
        "phase": draws.uniform(TRACKS),
        "stretch": stretch * on,
        "lag": draws.uniform(TRACKS, 3, high=2.0 * np.pi),
    }
    return Motion(**{name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in parts.items()})


def _loop_position(motion: Motion, time_s: Tensor) -> Tensor:
    """How far round its loop each track is at `time_s` [M]: [M, T] in [0, 1)."""
    turns = time_s[:, None] / motion.period + motion.phase
    share = turns - torch.floor(turns)
    move = ((share - motion.rest) / (1.0 - motion.rest)).clamp(0.0, 1.0)
    return move * move * (3.0 - 2.0 * move)


def _closed_spline(knots: Tensor, position: Tensor) -> Tensor:
    """Uniform cubic B-spline through the ring `knots` [M, T, KNOTS, 3] at [M, T] in [0, 1]."""
    scaled = position * KNOTS
    start = torch.floor(scaled)
    f = (scaled - start)[..., None]
    ring = (start.long()[..., None] + torch.arange(4, device=knots.device)) % KNOTS
    p = torch.gather(knots, 2, ring[..., None].expand(*ring.shape, 3))
    g = 1.0 - f
    weights = (
        g**3,
        3.0 * f**3 - 6.0 * f**2 + 4.0,
        -3.0 * f**3 + 3.0 * f**2 + 3.0 * f + 1.0,
        f**3,
    )
    blended = sum(w * p[..., k, :] for k, w in enumerate(weights))
    assert isinstance(blended, Tensor)
    return blended / 6.0


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotation vectors [..., 3] to matrices [..., 3, 3] (Rodrigues), smooth through zero."""
    angle = vector.norm(dim=-1, keepdim=True)
    small = angle < 1e-6
    safe = torch.where(small, torch.ones_like(angle), angle)
    x, y, z = (vector / safe).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    angle = torch.where(small, torch.zeros_like(angle), angle)[..., None]
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return eye + torch.sin(angle) * cross + (1.0 - torch.cos(angle)) * (cross @ cross)


def place(motion: Motion, time_s: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map of every track at `time_s` [M], one scene a row.

    Returns inverse linear parts [M, 1 + T, 3, 3] and offsets [M, 1 + T, 3], track 0 the identity:
    a moved point q was at  inverse (q - offset)  before.
    """
    position = _loop_position(motion, time_s)
    shift = _closed_spline(motion.shift, position)
    turn = rotation_from_vector(_closed_spline(motion.turn, position))
    swing = torch.sin(2.0 * torch.pi * position[..., None] + motion.lag)
    inverse_stretch = 1.0 / (1.0 + motion.stretch * swing)
    inverse = inverse_stretch[..., :, None] * turn.transpose(-1, -2)
    # q = pivot + shift + F (p - pivot)  =>  p = F^-1 (q - (pivot + shift - F pivot))
    forward_pivot = (turn @ (motion.pivot / inverse_stretch)[..., None])[..., 0]
    offset = motion.pivot + shift - forward_pivot
    eye = torch.eye(3, dtype=inverse.dtype, device=inverse.device).expand(len(inverse), 1, 3, 3)
    zero = offset.new_zeros(len(offset), 1, 3)
    return torch.cat([eye, inverse], 1), torch.cat([zero, offset], 1)
