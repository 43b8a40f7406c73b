"""Rigid motions and the camera pose that matches say, as batched least squares.

A motion takes points of frame a's axes to b's. Matched points have inverse depth rho in a, so that
what is far, and the sky (rho = 0), still tells how the camera turned: with (x, y, 1) the ray of a
point, its image in b is that of  R (x, y, 1) + rho t.

Gauss-Newton on reprojection errors (Hartley and Zisserman, Multiple View Geometry, A6) with Geman
and McClure's weights against wrong matches; steps are  exp(xi) T  with xi = (shift, turn).

Shapes: B pairs, N points. Everything works in the type it is given; use float32 or wider.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_NEAR = 0.05  # a point this close to the camera plane, as a share of its ray, is behind it


def cross_matrix(v: Tensor) -> Tensor:
    """[..., 3] to [..., 3, 3]: cross_matrix(v) w = v x w."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def exp_se3(xi: Tensor) -> Tensor:
    """Rigid [..., 4, 4] of twists [..., 6] = (shift, turn in radians)."""
    shift, turn = xi[..., :3], xi[..., 3:]
    square = turn.square().sum(-1)[..., None, None]
    angle = square.clamp(min=1e-12).sqrt()
    small = square < 1e-8
    a = torch.where(small, 1 - square / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    c = torch.where(small, 1 / 6 - square / 120, (angle - angle.sin()) / angle.pow(3))
    k = cross_matrix(turn)
    k2 = k @ k
    eye = torch.eye(3, dtype=xi.dtype, device=xi.device)
    top = torch.cat([eye + a * k + b * k2, (eye + b * k + c * k2) @ shift[..., None]], -1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=xi.dtype, device=xi.device)
    return torch.cat([top, last.expand(*top.shape[:-2], 1, 4)], -2)


def rotation_error(a: Tensor, b: Tensor) -> Tensor:
    """Angle in radians between rotations [..., 3, 3], differentiable at 0."""
    off = a.transpose(-1, -2) @ b
    sine = torch.stack([off[..., 2, 1] - off[..., 1, 2], off[..., 0, 2] - off[..., 2, 0],
                        off[..., 1, 0] - off[..., 0, 1]], -1) / 2  # fmt: skip
    cosine = (off.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2((sine.square().sum(-1) + 1e-12).sqrt(), cosine)


class Seen(NamedTuple):
    """Points where a motion puts them. plane [..., N, 2]: in b's plane z = 1; ahead [..., N]: z
    over the length that the ray had; front: whether it lies before the camera."""

    plane: Tensor
    ahead: Tensor
    front: Tensor
    moved: Tensor


def transfer(rays: Tensor, rho: Tensor, motion: Tensor) -> Seen:
    """rays [..., N, 2] in a's plane z = 1, inverse depths rho [..., N], motion [..., 4, 4]."""
    full = torch.cat([rays, torch.ones_like(rays[..., :1])], -1)
    moved = full @ motion[..., :3, :3].transpose(-1, -2)
    moved = moved + rho[..., None] * motion[..., None, :3, 3]
    z = moved[..., 2]
    front = z > _NEAR
    return Seen(moved[..., :2] / z.clamp(min=_NEAR)[..., None], z, front, moved)


def pose_jacobian(seen: Seen, rho: Tensor) -> Tensor:
    """d plane / d xi of `transfer`, [..., N, 2, 6]."""
    inverse = 1 / seen.ahead.clamp(min=_NEAR)
    x, y = seen.plane.unbind(-1)
    zero = torch.zeros_like(x)
    d = rho * inverse
    du = torch.stack([d, zero, -x * d, -x * y, 1 + x * x, -y], -1)
    dv = torch.stack([zero, d, -y * d, -1 - y * y, x * y, x], -1)
    return torch.stack([du, dv], -2)


class PoseFit(NamedTuple):
    """motion [B, 4, 4]; information [B, 6, 6] of xi about it; support [B]: share of the weight
    that agrees with it, 0 to 1."""

    motion: Tensor
    information: Tensor
    support: Tensor


def fit_pose(
    rays: Tensor,
    rho: Tensor,
    target: Tensor,
    weight: Tensor,
    start: Tensor,
    steps: int = 8,
    cutoff: float = 0.03,
    widest: float = 32.0,
    damping: float = 1e-4,
    spread: Tensor | None = None,
) -> PoseFit:
    """The motion that puts points on their matches, from `start`.

    rays, target [B, N, 2] in the planes z = 1; rho, weight [B, N], one over the variance of a
    match's coordinates; start [B, 4, 4]. spread [B, N]: standard deviations of log rho. Where a
    depth errs, a point moves along its epipolar line, by as much as it has parallax; depths are
    marginalised, so that such errors count little and the line itself counts fully. cutoff: error
    in those planes at which a match counts a quarter; at first it is `widest` times that, so that a
    start far away is no reason to reject everything (graduated non-convexity, Blake and Zisserman
    1987). With few points or none, damping keeps the motion where it is.
    """
    motion = start
    eye = torch.eye(6, dtype=rays.dtype, device=rays.device)
    total = weight.sum(-1).clamp(min=1e-9)
    for step in range(steps):
        width = cutoff * widest ** max(0.0, 1.0 - 1.7 * step / steps)
        h, g, _ = _pose_normal(rays, rho, target, weight, motion, width, spread)
        xi = torch.linalg.solve_ex(h + damping * total[:, None, None] * eye, g).result
        # a far start must not be thrown out by one bad step
        xi = xi * (1.0 / xi.norm(dim=-1, keepdim=True).clamp(min=1.0))
        motion = exp_se3(xi) @ motion
    h, _, counted = _pose_normal(rays, rho, target, weight, motion, cutoff, spread)
    return PoseFit(motion, h, counted.sum(-1) / total)


def _pose_normal(
    rays: Tensor,
    rho: Tensor,
    target: Tensor,
    weight: Tensor,
    motion: Tensor,
    width: float,
    spread: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix [B, 6, 6] and right side [B, 6] of xi, and what every match counts [B, N]."""
    seen = transfer(rays, rho, motion)
    error = target - seen.plane
    jacobian = pose_jacobian(seen, rho)
    squared = error.square().sum(-1)
    if spread is not None:
        # (I / w + s^2 g g^T)^-1 = w (I - k k^T), with g = d plane / d log rho
        along = depth_direction(seen, rho, motion)
        reach = weight * spread.square()
        shrink = (reach / (1.0 + reach * along.square().sum(-1))).sqrt()
        along = along * shrink[..., None]
        off = (along * error).sum(-1)
        squared = squared - off.square()
    counted = weight * (width**2 / (width**2 + squared)).square() * seen.front
    h = torch.einsum("bnki,bnkj->bij", jacobian * counted[..., None, None], jacobian)
    g = torch.einsum("bnki,bnk->bi", jacobian, error * counted[..., None])
    if spread is not None:
        lost = torch.einsum("bnki,bnk->bni", jacobian, along)
        h = h - torch.einsum("bni,bnj->bij", lost * counted[..., None], lost)
        g = g - (lost * (off * counted)[..., None]).sum(1)
    return h, g, counted


def depth_direction(seen: Seen, rho: Tensor, motion: Tensor) -> Tensor:
    """d plane / d log rho of `transfer`, [..., N, 2]: along the epipolar line."""
    shift = motion[..., None, :3, 3]
    ahead = seen.ahead.clamp(min=_NEAR)[..., None]
    return (shift[..., :2] - seen.plane * shift[..., 2:]) / ahead * rho[..., None]


def inverse_rigid(matrix: Tensor) -> Tensor:
    """Inverse of rigid [..., 4, 4]."""
    turned = matrix[..., :3, :3].transpose(-1, -2)
    top = torch.cat([turned, -turned @ matrix[..., :3, 3:]], -1)
    return torch.cat([top, matrix[..., 3:, :]], -2)


def nearest_rigid(matrix: Tensor) -> Tensor:
    """[..., 4, 4] with its rotation replaced by the nearest true one (Procrustes).

    A pose that is made from poses that were made from poses needs it: `inverse_rigid` transposes,
    which doubles what a rotation lacks of being one, and a few dozen doublings are enough.
    """
    u, _, vt = torch.linalg.svd(matrix[..., :3, :3])
    top = torch.cat([u @ vt, matrix[..., :3, 3:]], -1)
    return torch.cat([top, matrix[..., 3:, :]], -2)


def log_se3(matrix: Tensor) -> Tensor:
    """Twists [..., 6] of rigid [..., 4, 4], for turns of less than half a circle."""
    rotation, shift = matrix[..., :3, :3], matrix[..., :3, 3]
    off = torch.stack([rotation[..., 2, 1] - rotation[..., 1, 2],
                       rotation[..., 0, 2] - rotation[..., 2, 0],
                       rotation[..., 1, 0] - rotation[..., 0, 1]], -1) / 2  # fmt: skip
    sine = off.norm(dim=-1, keepdim=True)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None] - 1) / 2
    angle = torch.atan2(sine, cosine)
    turn = torch.where(sine > 1e-7, off * angle / sine.clamp(min=1e-12), off)
    square = angle.square()[..., None]
    half = angle[..., None] / 2
    third = torch.where(
        square > 1e-8, (1 - half / half.tan().clamp(min=1e-12)) / square.clamp(min=1e-12), 1 / 12
    )
    k = cross_matrix(turn)
    eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    back = eye - k / 2 + third * (k @ k)
    return torch.cat([(back @ shift[..., None])[..., 0], turn], -1)


def adjoint(matrix: Tensor) -> Tensor:
    """[..., 6, 6]: M exp(xi) = exp(adjoint(M) xi) M, for rigid M [..., 4, 4]."""
    rotation = matrix[..., :3, :3]
    corner = cross_matrix(matrix[..., :3, 3]) @ rotation
    top = torch.cat([rotation, corner], -1)
    bottom = torch.cat([torch.zeros_like(rotation), rotation], -1)
    return torch.cat([top, bottom], -2)
