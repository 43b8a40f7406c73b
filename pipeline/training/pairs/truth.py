"""What the matches, depths and motions of pairs really are, from exact depth and poses.

A match is right where the scene stands still: what moves by itself is not seen where the camera's
motion says, and is told apart by its depth. Inverse depth 0 is the sky.

Shapes: P pairs, H rows, W columns, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from everview.models.pairs.geometry import transfer
from everview.models.pairs.matcher import points_of, to_plane

_EDGE = 0.15  # depths around a point that differ by more, as a share, are an edge
_SAME = 0.04  # inverse depths that differ by less are of one surface
_FAR = 0.01  # so are those that differ by less in units of the median


@dataclass(frozen=True, eq=False)
class PairViews:
    """Two views of each of P scenes. images_a, images_b [P, 3, S, S] in [0, 1]; depth_a, depth_b
    [P, H, W], z in metres, 0 at the sky; intrinsics_a, intrinsics_b [P, 4] for the pictures' size
    S; motion [P, 4, 4] from a's axes to b's. Depth may be finer than the pictures."""

    images_a: Tensor
    images_b: Tensor
    depth_a: Tensor
    depth_b: Tensor
    intrinsics_a: Tensor
    intrinsics_b: Tensor
    motion: Tensor

    @property
    def size(self) -> int:
        """S."""
        return self.images_a.shape[-1]

    def both_ways(self) -> PairViews:
        """The pairs, and the same backwards: [2 P]."""
        turned = self.motion[:, :3, :3].transpose(1, 2)
        back = self.motion.clone()
        back[:, :3, :3] = turned
        back[:, :3, 3:] = -turned @ self.motion[:, :3, 3:]
        return PairViews(
            torch.cat([self.images_a, self.images_b]),
            torch.cat([self.images_b, self.images_a]),
            torch.cat([self.depth_a, self.depth_b]),
            torch.cat([self.depth_b, self.depth_a]),
            torch.cat([self.intrinsics_a, self.intrinsics_b]),
            torch.cat([self.intrinsics_b, self.intrinsics_a]),
            torch.cat([self.motion, back]),
        )


@dataclass(frozen=True, eq=False)
class PairTruth:
    """Of the points of a at one stride, all [P, N, ...].

    rays: in the plane z = 1. rho: inverse depth in units of the median's. position: in b, pixels.
    visible: seen in b. judged: whether `visible` is to be trusted (no edge on either side). known:
    inverse depth is that of a surface. motion [P, 4, 4]: its shift in units of the median depth.
    """

    rays: Tensor
    rho: Tensor
    position: Tensor
    visible: Tensor
    judged: Tensor
    known: Tensor
    motion: Tensor


@torch.no_grad()
def pair_truth(pairs: PairViews, stride: int) -> PairTruth:
    """At every `stride` pixels of the pictures."""
    size = pairs.size
    points = points_of(size // stride, size // stride, stride, pairs.motion.device)
    points = points.flatten(0, 1).expand(len(pairs.motion), -1, -1)
    inverse_a, inverse_b = _inverse(pairs.depth_a), _inverse(pairs.depth_b)
    metre = _median(inverse_a)
    rho, is_edge = _at(inverse_a, points / size)
    rays = to_plane(points, pairs.intrinsics_a)
    seen = transfer(rays, rho, pairs.motion)
    focal, middle = pairs.intrinsics_b[:, None, :2], pairs.intrinsics_b[:, None, 2:]
    position = seen.plane * focal + middle
    inside = seen.front & (position > 0).all(-1) & (position < size).all(-1)
    there, is_edge_there = _at(inverse_b, (position / size).clamp(0, 1))
    expected = rho / seen.ahead.clamp(min=1e-3)
    apart = (expected - there).abs()
    is_same = apart < torch.maximum(_SAME * expected, _FAR * metre[:, None])
    known = rho > 0
    motion = pairs.motion.clone()
    motion[:, :3, 3] *= metre[:, None]
    return PairTruth(
        rays=rays,
        rho=rho / metre[:, None],
        position=position,
        visible=inside & is_same & known,
        judged=~is_edge & (~inside | ~is_edge_there),
        known=known & ~is_edge,
        motion=motion,
    )


def _inverse(depth: Tensor) -> Tensor:
    depth = depth.float()
    return torch.where(depth > 0, 1.0 / depth.clamp(min=1e-3), 0.0)


def _median(inverse: Tensor) -> Tensor:
    """[P]: of what isn't sky; 1 where all is."""
    known = torch.where(inverse > 0, inverse, torch.nan).flatten(1)
    return known.nanmedian(1).values.nan_to_num(nan=1.0)


def _at(inverse: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depth [P, N] at places [P, N, 2] of [0, 1], and whether there is an edge."""
    grid = (2.0 * places - 1.0)[:, :, None]
    maps = inverse[:, None]
    high = functional.max_pool2d(maps, 3, 1, 1)
    low = -functional.max_pool2d(-maps, 3, 1, 1)
    looked = functional.grid_sample(maps, grid, align_corners=False, padding_mode="border")
    ends = torch.cat([high, low], 1)
    ends = functional.grid_sample(ends, grid, mode="nearest", align_corners=False)
    high, low = ends[:, 0, :, 0], ends[:, 1, :, 0]
    # a slanted surface has different depths too, but no further apart than this
    return looked[:, 0, :, 0], high - low > _EDGE * high
