"""A matcher that knows the answer: matches from the exact depth and poses of given frames, with
noise, for everything that is built on a matcher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from everview.datasets.captures import Frame
from everview.models.pairs.config import STRIDE
from everview.models.pairs.geometry import inverse_rigid, transfer
from everview.models.pairs.matcher import FrameCode, Matches, points_of, to_plane


class ExactMatcher:
    """Frames are told apart by their pictures, at any size. noise: of matches, pixels; a tenth are
    wild. Depths are off by a scale of each frame's own and a tenth."""

    device = torch.device("cpu")

    def __init__(self, frames: Sequence[Frame], noise: float = 0.2) -> None:
        self.frames, self.noise = list(frames), noise
        pictures = (torch.from_numpy(frame.image) / 255.0 for frame in self.frames)
        self._looks = torch.stack([_look(picture.movedim(-1, 0)) for picture in pictures])

    def describe(self, images: Tensor, intrinsics: Tensor) -> FrameCode:
        number = int((self._looks - _look(images[0])).abs().sum(-1).argmin())
        size = images.shape[-2:]
        chance = torch.Generator().manual_seed(number)
        depth = self._depth(number, size)
        seen = depth.log() + 0.1 * torch.randn(depth.shape, generator=chance)
        seen = (seen + 0.3 * torch.randn(1, generator=chance))[None].float()
        camera = self.frames[number].camera
        place = torch.from_numpy(np.concatenate([camera.forward, 0.5 * camera.centre]))
        mark = torch.tensor([number, *size]).view(1, 3, 1, 1)
        return FrameCode(torch.zeros(1, 1, 1), mark, seen, torch.full_like(seen, -2.0), place[None])

    def overlap_logit(self, a: Tensor, b: Tensor) -> Tensor:
        return -(a - b).norm()

    def compare(self, a: FrameCode, b: FrameCode) -> Matches:
        first, *size = a.fine.flatten().tolist()
        second, *other_size = b.fine.flatten().tolist()
        chance = torch.Generator().manual_seed(1000 * first + second)
        from_camera = self.frames[first].camera.resized(size[1], size[0])
        to_camera = self.frames[second].camera.resized(other_size[1], other_size[0])
        lens, other = (
            torch.tensor([c.fx, c.fy, c.cx, c.cy], dtype=torch.float64)
            for c in (from_camera, to_camera)
        )
        depth = self._depth(first, size)
        h, w = depth.shape
        rays = to_plane(points_of(h, w, STRIDE).flatten(0, 1)[None].double(), lens[None])[0]
        poses = (torch.from_numpy(camera.c2w_cv.copy()) for camera in (from_camera, to_camera))
        own, others = poses
        seen = transfer(rays, 1.0 / depth.flatten(), inverse_rigid(others) @ own)
        position = seen.plane * other[:2] + other[2:]
        size = torch.tensor([to_camera.width, to_camera.height])
        inside = seen.front & (position > 0).all(-1) & (position < size).all(-1)
        noise = torch.randn(position.shape, generator=chance, dtype=torch.float64)
        is_wild = torch.rand(len(position), 1, generator=chance) < 0.1
        position = position + noise * torch.where(is_wild, 20.0, self.noise)
        shape = (1, h, w)
        return Matches(
            position=position.float().view(*shape, 2),
            log_error=torch.full(shape, float(np.log(self.noise))),
            visible=torch.where(inside, 4.0, -4.0).view(shape),
            coarse=torch.zeros(1, 1, 1),
            steps=torch.zeros(1),
        )

    def _depth(self, number: int, size: Sequence[int]) -> Tensor:
        """At the points of pictures of this size."""
        depth = torch.from_numpy(self.frames[number].depth.astype(np.float32))[None, None]
        depth = functional.interpolate(depth, tuple(size), mode="nearest")[0, 0].double()
        return depth[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].clamp(min=0.1)


def _look(picture: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(picture[None].float(), 8).flatten()
