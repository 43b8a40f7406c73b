"""How a camera moved between two frames, from their matches alone, and how deep the points are.

Depth from one picture errs over whole regions. Where the camera moves by much, a pose that is
fitted to such depths bends to explain them and settles tens of degrees away, however good the
matches are. The epipolar constraint needs no depth: hypotheses from twelve matches each (the
eight-point algorithm, Hartley, TPAMI 1997), drawn by weight, judged by Sampson distances, the best
improved by reweighted least squares (locally optimised RANSAC, Chum et al. 2003). Depths follow
from the motion; the network's say only how long the step was, one number, as a median.

Shapes: N points. rays, target [N, 2] in the planes z = 1; weight [N], one over the variance of a
match's coordinates; float64. The draws are the same for the same N, so that answers are too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everview.models.pairs.geometry import cross_matrix, transfer

_DRAWS, _EACH = 192, 12  # twelve matches say it with less noise than eight, and few are wild
_BEST, _SWEEPS, _JUDGES = 6, 6, 192
_WIDEST = 4.0  # hypotheses are judged, and first improved, at so many cutoffs
_NORMAL = 2.5  # brings the plane's coordinates to about 1
_SEED = 8
_LEAST_POINTS = 16
_LEAST_TOLD = 0.05  # share of the weight whose depth must follow, for the step's length to


@dataclass(frozen=True, eq=False)
class Stepped:
    """motion [4, 4], its shift in the unit of the depths given; rho [N], spread [N]: inverse depths
    that the matches say, and standard deviations of their logarithms."""

    motion: Tensor
    rho: Tensor
    spread: Tensor


def homogeneous(points: Tensor) -> Tensor:
    """[..., 2] to [..., 3], with a 1."""
    return torch.cat([points, torch.ones_like(points[..., :1])], -1)


def essential(motion: Tensor) -> Tensor:
    """[..., 3, 3] with target^T E ray = 0, for motions [..., 4, 4]; zero where nothing shifts."""
    shift = motion[..., :3, 3]
    unit = shift / shift.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return cross_matrix(unit) @ motion[..., :3, :3]


def line_distance(rays: Tensor, target: Tensor, matrix: Tensor) -> Tensor:
    """Squared Sampson distances [..., N] of matches from E [..., 3, 3], in the planes z = 1."""
    a, b = homogeneous(rays), homogeneous(target)
    ahead, back = a @ matrix.transpose(-1, -2), b @ matrix
    scale = ahead[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)
    return (b * ahead).sum(-1).square() / scale.clamp(min=1e-18)


def line_support(
    rays: Tensor, target: Tensor, weight: Tensor, matrix: Tensor, cutoff: float
) -> Tensor:
    """Share of the weight, 0 to 1, of matches whose distance is small beside `cutoff`, [...]."""
    kept = 1.0 / (1.0 + line_distance(rays, target, matrix) / cutoff**2)
    return (weight * kept).sum(-1) / weight.sum().clamp(min=1e-12)


def triangulate(
    rays: Tensor, target: Tensor, weight: Tensor, motion: Tensor
) -> tuple[Tensor, Tensor]:
    """Inverse depths [N] that put points on their matches under a motion, and their standard
    deviations; not above 0 where a point is behind, infinitely unsure where it doesn't shift."""
    turned = homogeneous(rays) @ motion[:3, :3].T
    along = motion[:2, 3] - target * motion[2, 3]
    off = target * turned[:, 2:] - turned[:, :2]
    square = along.square().sum(-1)
    rho = (along * off).sum(-1) / square.clamp(min=1e-18)
    ahead = (turned[:, 2] + rho * motion[2, 3]).abs().clamp(min=1e-3)
    return rho, ahead / (weight * square).clamp(min=1e-18).sqrt()


def epipolar_motion(rays: Tensor, target: Tensor, weight: Tensor, cutoff: float) -> Tensor | None:
    """The motion [4, 4] with a shift of length 1 that most matches agree on; None with too few.
    cutoff: distance in the planes z = 1 at which a match counts half."""
    if int((weight > 0).sum()) < _LEAST_POINTS:
        return None
    chance = torch.Generator().manual_seed(_SEED)
    share = weight / weight.sum()
    drawn = torch.multinomial(share, _DRAWS * _EACH, replacement=True, generator=chance).view(
        -1, _EACH
    )
    judges = torch.multinomial(share, _JUDGES, replacement=True, generator=chance)
    a, b = homogeneous(rays), homogeneous(target)
    normal = torch.tensor([_NORMAL, _NORMAL, 1.0], dtype=rays.dtype)
    table = ((b * normal)[:, :, None] * (a * normal)[:, None]).flatten(1)  # [N, 9]
    asked = table[drawn]
    found = _nearest(asked.transpose(1, 2) @ asked, normal)
    equal = torch.ones_like(share[judges])
    said = line_support(rays[judges], target[judges], equal, found, _WIDEST * cutoff)
    found = found[said.topk(_BEST).indices]
    best, most = found[0], 0.0
    for sweep in range(_SWEEPS):
        ahead, back = a @ found.transpose(1, 2), b @ found
        scale = ahead[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)
        scale = scale.clamp(min=1e-18)
        distance = (b * ahead).sum(-1).square() / scale
        kept = 1.0 / (1.0 + distance / cutoff**2)
        said = (kept * share).sum(-1)
        if float(said.max()) > most:
            best, most = found[said.argmax()], float(said.max())
        width = cutoff * _WIDEST ** max(0.0, 1.0 - 1.5 * sweep / _SWEEPS)
        counted = (1.0 / (1.0 + distance / width**2)).square() * share / scale
        found = _nearest((table.T * counted[:, None]) @ table, normal)
    return _in_front(rays, target, weight, best, cutoff)


def _nearest(squares: Tensor, normal: Tensor) -> Tensor:
    """Essential matrices [K, 3, 3] of least |A e| for A^T A [K, 9, 9], of points times `normal`."""
    _, vectors = torch.linalg.eigh(squares)
    matrix = normal[:, None] * vectors[..., 0].unflatten(-1, (3, 3)) * normal
    u, _, vt = torch.linalg.svd(matrix)
    return u[..., :2] @ vt[..., :2, :]


def _in_front(
    rays: Tensor, target: Tensor, weight: Tensor, matrix: Tensor, cutoff: float
) -> Tensor:
    """Of the four motions of an essential matrix, the one that most points lie before."""
    u, _, vt = torch.linalg.svd(matrix)
    u, vt = u * torch.linalg.det(u).sign(), vt * torch.linalg.det(vt).sign()
    quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=rays.dtype)
    counted = weight / (1.0 + line_distance(rays, target, matrix) / cutoff**2)
    best, most = torch.eye(4, dtype=rays.dtype), -1.0
    for turn in (u @ quarter @ vt, u @ quarter.T @ vt):
        for shift in (u[:, 2], -u[:, 2]):
            motion = torch.eye(4, dtype=rays.dtype)
            motion[:3, :3], motion[:3, 3] = turn, shift
            rho, _ = triangulate(rays, target, weight, motion)
            is_before = (rho > 0) & transfer(rays, rho, motion).front
            said = float((counted * is_before).sum())
            if said > most:
                best, most = motion, said
    return best


def stepped(
    rays: Tensor,
    target: Tensor,
    weight: Tensor,
    motion: Tensor,
    rho: Tensor,
    spread: Tensor,
    cutoff: float,
) -> Stepped | None:
    """A motion whose shift has any length, with the length that depths `rho` [N], whose logarithms
    err by `spread` [N], say; the matches' own depths, `rho` where they say none. None where too few
    points shift for that."""
    seen, deviation = triangulate(rays, target, weight, motion)
    unsure = deviation / seen.clamp(min=1e-12)
    counted = weight / (1.0 + line_distance(rays, target, essential(motion)) / cutoff**2)
    is_told = (seen > 0) & (unsure < 0.5) & transfer(rays, seen, motion).front
    if float((counted * is_told).sum()) < _LEAST_TOLD * float(weight.sum()):
        return None
    apart = (seen.clamp(min=1e-12) / rho).log()
    trust = (counted * is_told) / (unsure.square() + spread.square())
    length = _weighted_median(apart[is_told], trust[is_told]).exp()
    scaled = motion.clone()
    scaled[:3, 3] = motion[:3, 3] * length
    return Stepped(
        scaled,
        torch.where(is_told, seen / length, rho),
        torch.where(is_told, unsure, spread),
    )


def _weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    order = values.argsort()
    reached = weight[order].cumsum(0)
    return values[order][int((reached < 0.5 * reached[-1]).sum())]
