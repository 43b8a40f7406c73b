"""Poses and depths of a few keyframes at once, so that they explain the matches between them.

Bundle adjustment over dense matches with a prior on every depth (the dense layer of DROID-SLAM,
Teed and Deng, NeurIPS 2021, arXiv 2108.10869). Unknowns are xi of the free keyframes (world-to-
camera, from the left) and the logarithm of every inverse depth of the adjusted ones. Depths meet
only themselves in the normal matrix, so they are eliminated (Schur complement), and a system of six
numbers a keyframe remains. The prior, what the network sees in one picture and what other keyframes
said, holds depths where nothing moves sideways, and with them the scale.

Shapes: E matched pairs, K keyframes, N points of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everview.models.pairs.geometry import (
    adjoint,
    depth_direction,
    exp_se3,
    inverse_rigid,
    nearest_rigid,
    pose_jacobian,
    transfer,
)

_ITERATIONS = 5
_CUTOFF_PX = 2.0
_DAMPING = 1e-6
_LARGEST = 0.5  # step of a log inverse depth


@dataclass(frozen=True, eq=False)
class MatchedPairs:
    """Points of keyframes `source` [E] seen in keyframes `sink` [E]: target [E, N, 2] in the sink's
    plane z = 1; weight [E, N] in units of that plane."""

    source: Tensor
    sink: Tensor
    target: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class Adjusted:
    """w2c [K, 4, 4], rho [K, N], spread [K, N]: standard deviations of log rho, poses as given."""

    w2c: Tensor
    rho: Tensor
    spread: Tensor


def adjust(
    rays: Tensor,
    w2c: Tensor,
    rho: Tensor,
    prior: Tensor,
    prior_spread: Tensor,
    pairs: MatchedPairs,
    free: Tensor,
    adjusted: Tensor,
    pixel: float,
) -> Adjusted:
    """rays [K, N, 2], w2c [K, 4, 4], rho [K, N]; prior, prior_spread [K, N] of log rho. free [K]:
    poses that may change; adjusted [K]: depths that may. pixel: size of one in the plane z = 1.
    All float64; nothing given is written to."""
    keyframes, points = rho.shape
    slot = torch.full((keyframes,), -1, dtype=torch.long)
    slot[free] = torch.arange(int(free.sum()))
    log_rho = rho.log()
    strength = torch.where(adjusted[:, None], prior_spread.square().reciprocal(), 0.0)
    depths = torch.zeros(keyframes, points, dtype=rho.dtype)
    for _ in range(_ITERATIONS):
        left, right, corner, depths, gradient = _normal(
            rays, w2c, log_rho, pairs, slot, adjusted, pixel
        )
        depths = depths + strength + 1e-9
        gradient = gradient + strength * (prior - log_rho)
        # (A - C D^-1 C^T) xi = a - C D^-1 d
        scaled = corner / depths.flatten()
        poses = left - scaled @ corner.T
        wanted = right - scaled @ gradient.flatten()
        poses = poses + _DAMPING * poses.diagonal().mean() * torch.eye(len(poses), dtype=rho.dtype)
        xi = torch.linalg.solve_ex(poses, wanted).result if len(poses) else wanted
        if not bool(torch.isfinite(xi).all() & torch.isfinite(depths).all()):
            return Adjusted(w2c, log_rho.exp(), prior_spread)  # matches that say nothing at all
        step = (gradient.flatten() - corner.T @ xi) / depths.flatten()
        step = step.view(keyframes, points).clamp(-_LARGEST, _LARGEST)
        log_rho = torch.where(adjusted[:, None], log_rho + step, log_rho)
        w2c = w2c.clone()
        w2c[free] = nearest_rigid(exp_se3(xi.view(-1, 6)) @ w2c[free])
    return Adjusted(w2c, log_rho.exp(), depths.rsqrt())


def _normal(
    rays: Tensor,
    w2c: Tensor,
    log_rho: Tensor,
    pairs: MatchedPairs,
    slot: Tensor,
    adjusted: Tensor,
    pixel: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the poses: matrix [6 F, 6 F] and right side [6 F]; their corner with the depths
    [6 F, K N]; of the depths: diagonal and right side [K, N]."""
    keyframes, points = log_rho.shape
    dtype, free = log_rho.dtype, int(slot.max()) + 1
    motion = w2c[pairs.sink] @ inverse_rigid(w2c[pairs.source])
    rho = log_rho.exp()[pairs.source]
    seen = transfer(rays[pairs.source], rho, motion)
    error = pairs.target - seen.plane
    cutoff = (_CUTOFF_PX * pixel) ** 2
    robust = (cutoff / (cutoff + error.square().sum(-1))).square()
    weight = pairs.weight * robust * seen.front
    sink = pose_jacobian(seen, rho)  # [E, N, 2, 6]
    source = -sink @ adjoint(motion)[:, None]
    along = depth_direction(seen, rho, motion)
    along = along * adjusted[pairs.source, None, None]

    left = torch.zeros(free + 1, free + 1, 6, 6, dtype=dtype)
    right = torch.zeros(free + 1, 6, dtype=dtype)
    corner = torch.zeros(free + 1, keyframes, 6, points, dtype=dtype)
    # the last row and column take what belongs to poses that stay
    ends = {"sink": (slot[pairs.sink], sink), "source": (slot[pairs.source], source)}
    for rows, jacobian in ends.values():
        weighted = jacobian * weight[..., None, None]
        right.index_add_(0, rows % (free + 1), torch.einsum("enki,enk->ei", weighted, error))
        blocks = torch.einsum("enki,enk->ein", weighted, along)
        corner.index_put_((rows % (free + 1), pairs.source), blocks, accumulate=True)
        for columns, other in ends.values():
            blocks = torch.einsum("enki,enkj->eij", weighted, other)
            left.index_put_((rows % (free + 1), columns % (free + 1)), blocks, accumulate=True)
    depths = torch.zeros(keyframes, points, dtype=dtype)
    gradient = torch.zeros_like(depths)
    depths.index_add_(0, pairs.source, (along.square().sum(-1) * weight))
    gradient.index_add_(0, pairs.source, ((along * error).sum(-1) * weight))
    return (
        left[:free, :free].transpose(1, 2).reshape(6 * free, 6 * free),
        right[:free].flatten(),
        corner[:free].transpose(1, 2).reshape(6 * free, keyframes * points),
        depths,
        gradient,
    )
