"""A matcher that knows the answer: matches from the exact depth and poses of given frames, with
noise, for everything that is built on a matcher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from everview.datasets.captures import Frame
from everview.models.pairs.config import STRIDE
from everview.models.pairs.geometry import inverse_rigid, transfer
from everview.models.pairs.matcher import FrameCode, Matches, points_of, to_plane


class ExactMatcher:
    """Frames are told apart by their pictures. noise: of matches, pixels; a tenth are wild. Depths
    are off by a scale of each frame's own and a tenth."""

    device = torch.device("cpu")

    def __init__(self, frames: Sequence[Frame], noise: float = 0.2) -> None:
        self.frames, self.noise = list(frames), noise
        self._numbers = {frame.image.tobytes(): n for n, frame in enumerate(self.frames)}

    def describe(self, images: Tensor, intrinsics: Tensor) -> FrameCode:
        picture = (images[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        number = self._numbers[picture.tobytes()]
        chance = torch.Generator().manual_seed(number)
        depth = self._depth(number)
        seen = depth.log() + 0.1 * torch.randn(depth.shape, generator=chance)
        seen = (seen + 0.3 * torch.randn(1, generator=chance))[None].float()
        camera = self.frames[number].camera
        place = torch.from_numpy(np.concatenate([camera.forward, 0.5 * camera.centre]))
        mark = torch.full((1, 1, 1, 1), float(number))
        return FrameCode(torch.zeros(1, 1, 1), mark, seen, torch.full_like(seen, -2.0), place[None])

    def overlap_logit(self, a: Tensor, b: Tensor) -> Tensor:
        return -(a - b).norm()

    def compare(self, a: FrameCode, b: FrameCode) -> Matches:
        first, second = int(a.fine), int(b.fine)
        chance = torch.Generator().manual_seed(1000 * first + second)
        from_camera, to_camera = self.frames[first].camera, self.frames[second].camera
        lens, other = (
            torch.tensor([c.fx, c.fy, c.cx, c.cy], dtype=torch.float64)
            for c in (from_camera, to_camera)
        )
        depth = self._depth(first)
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

    def _depth(self, number: int) -> Tensor:
        depth = torch.from_numpy(self.frames[number].depth.astype(np.float64))
        return depth[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].clamp(min=0.1)
