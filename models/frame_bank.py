"""The frame bank: a bounded set of source frames inside the state.

The fast weights remember what the scene is like; its texture is copied from pixels. The bank keeps
at most `capacity` frames, chosen by coverage: when it is full, the older of the two most alike
frames leaves. It is part of the state, counted in its size, and `capacity = 0` is the pure memory.

Shapes: B scenes, K frames kept, V views, S sources, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras, concatenate

_TIME_WEIGHT = 0.25


@dataclass(frozen=True, eq=False)
class FrameBank:
    """images: uint8 or float in [0, 1], [B, K, 3, H, W]; cameras [B, K] in the gauge, float32;
    time_s [B, K] since the stream's origin, NaN unknown."""

    images: Tensor
    cameras: Cameras
    time_s: Tensor

    @property
    def size(self) -> int:
        """Frames kept."""
        return self.images.shape[1]

    def pictures(self) -> Tensor:
        """The images as floats in [0, 1]."""
        return self.images.float() / 255 if self.images.dtype == torch.uint8 else self.images

    def add(self, images: Tensor, cameras: Cameras, time_s: Tensor, capacity: int) -> FrameBank:
        """The bank after V more frames (float images are stored as uint8), at most `capacity`."""
        stored = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        grown = FrameBank(
            torch.cat([self.images, stored], 1),
            concatenate([self.cameras, cameras]),
            torch.cat([self.time_s, time_s], 1),
        )
        return grown.reduced(capacity)

    def reduced(self, capacity: int) -> FrameBank:
        """The bank without the older frame of the closest pair, until `capacity` is kept."""
        bank = self
        while bank.size > capacity:
            bank = bank._without_most_redundant()
        return bank

    def _without_most_redundant(self) -> FrameBank:
        apart = view_distance(self.cameras, self.cameras, self.time_s, self.time_s)
        index = torch.arange(self.size, device=apart.device)
        later = index[:, None] < index[None, :]
        apart = torch.where(later, apart, torch.inf).amin(dim=-1)  # of each frame to any later one
        leaving = apart.argmin(dim=-1, keepdim=True)
        keep = index[: self.size - 1] + (index[: self.size - 1] >= leaving).long()
        return self.select(keep)

    def select(self, index: Tensor) -> FrameBank:
        """The frames at `index` [B, n]."""
        rows = torch.arange(index.shape[0], device=index.device)[:, None]
        return replace(
            self,
            images=self.images[rows, index],
            cameras=self.cameras[rows, index],
            time_s=self.time_s[rows, index],
        )


def view_distance(
    cameras: Cameras, others: Cameras, time_s: Tensor, other_time_s: Tensor
) -> Tensor:
    """How far apart two sets of views are: translation / median + rotation angle / median, and a
    quarter of time / median where both times are known. [B, V] and [B, K] give [B, V, K]."""
    apart = torch.cdist(cameras.centres.float(), others.centres.float())
    cosine = torch.einsum("bvi,bki->bvk", cameras.forwards.float(), others.forwards.float())
    angle = torch.arccos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    late = (time_s[:, :, None] - other_time_s[:, None, :]).abs().float().nan_to_num(0.0)
    return _per_median(apart) + _per_median(angle) + _TIME_WEIGHT * _per_median(late)


def _per_median(values_BVK: Tensor) -> Tensor:
    median = values_BVK.flatten(1).median(dim=1).values
    return values_BVK / median.clamp_min(1e-6)[:, None, None]


def nearest_sources(
    cameras: Cameras, time_s: Tensor, bank: FrameBank, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` nearest frames of the bank for each view, nearest first.

    Returns indices [B, V, S] and validity [B, V, S]; with fewer frames than `count` the last is
    repeated and marked invalid.
    """
    distance = view_distance(cameras, bank.cameras, time_s, bank.time_s)
    found = min(count, bank.size)
    index = distance.topk(found, dim=-1, largest=False).indices
    valid = torch.ones_like(index, dtype=torch.bool)
    if found < count:
        missing = count - found
        index = torch.cat([index, index[..., -1:].expand(*index.shape[:2], missing)], -1)
        valid = torch.cat([valid, valid.new_zeros(*valid.shape[:2], missing)], -1)
    return index, valid
