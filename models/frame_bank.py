"""The frame bank: a bounded set of source frames inside the state.

The fast weights remember what the scene is like; its texture is copied from pixels. The bank keeps
at most `capacity` frames, chosen by coverage: when it is full, the older of the two most alike
frames leaves. It is part of the state, counted in its size, and `capacity = 0` is the pure memory.

A bank's pictures have one size, that of its first frames. Frames of another size or orientation are
resampled to it, each axis by itself, and their intrinsics with them: a pinhole camera stays one, so
geometry is exact, the bank never grows, and queries keep the form that was captured for them.

Shapes: B scenes, K frames kept, V views, S sources, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from everview.datasets.cameras import Cameras, concatenate

_WEIGHTS = (1.0, 1.0, 0.25)  # of translation, rotation and time


@dataclass(frozen=True, eq=False)
class FrameBank:
    """images: uint8 or float in [0, 1], [B, K, 3, H, W]; cameras [B, K] in the gauge, float32;
    time_s [B, K] since the stream's origin, NaN unknown. cells: [B, K, ...], what layers with a
    window wrote when a frame came (`models.window_frames`)."""

    images: Tensor
    cameras: Cameras
    time_s: Tensor
    cells: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        """Frames kept."""
        return self.images.shape[1]

    def pictures(self) -> Tensor:
        """The images as floats in [0, 1]."""
        return self.images.float() / 255 if self.images.dtype == torch.uint8 else self.images

    def add(
        self,
        images: Tensor,
        cameras: Cameras,
        time_s: Tensor,
        capacity: int,
        cells: tuple[Tensor, ...] = (),
    ) -> FrameBank:
        """The bank after V more frames (float images are stored as uint8), at most `capacity`.
        cells: theirs, as many tensors as the bank has; ValueError for another number."""
        images, cameras = fitted(images, cameras, *self.images.shape[-2:])
        stored = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        grown = FrameBank(
            torch.cat([self.images, stored], 1),
            concatenate([self.cameras, cameras]),
            torch.cat([self.time_s, time_s], 1),
            tuple(torch.cat(parts, 1) for parts in zip(self.cells, cells, strict=True)),
        )
        return grown.reduced(capacity)

    def reduced(self, capacity: int) -> FrameBank:
        """The bank without the older frame of the closest pair, until `capacity` is kept. Pairs are
        compared in the units of the whole bank: one table, and one copy of what stays."""
        if self.size <= capacity:
            return self
        apart = view_distance(self.cameras, self.cameras, self.time_s, self.time_s)
        index = torch.arange(self.size, device=apart.device)
        apart = torch.where(index[:, None] < index, apart, torch.inf)  # of each to any later one
        gone = torch.zeros_like(self.time_s, dtype=torch.bool)
        for _ in range(self.size - capacity):
            leaving = apart.amin(dim=-1).argmin(dim=-1, keepdim=True)
            gone = gone.scatter(1, leaving, True)
            pairs = leaving[:, None].expand(-1, self.size, -1)
            apart = apart.scatter(1, pairs.mT, torch.inf).scatter(2, pairs, torch.inf)
        return self.select(gone.byte().argsort(dim=-1, stable=True)[:, :capacity])

    def select(self, index: Tensor) -> FrameBank:
        """The frames at `index` [B, n]."""
        rows = torch.arange(index.shape[0], device=index.device)[:, None]
        return replace(
            self,
            images=self.images[rows, index],
            cameras=self.cameras[rows, index],
            time_s=self.time_s[rows, index],
            cells=tuple(part[rows, index] for part in self.cells),
        )

    def before(
        self, images: Tensor, cameras: Cameras, time_s: Tensor
    ) -> tuple[Tensor, Cameras, Tensor]:
        """A chunk's images, cameras in the gauge and times, with these frames in front. ValueError
        where they are of another size."""
        kept, size = self.images.shape[-2:], images.shape[-2:]
        if kept != size:
            raise ValueError(
                f"frames of {kept[1]}x{kept[0]} can't be replayed in a chunk of "
                f"{size[1]}x{size[0]}: an update's frames have one size"
            )
        return (
            torch.cat([self.pictures().to(images), images], 1),
            concatenate([self.cameras, cameras]),
            torch.cat([self.time_s, time_s], 1),
        )


def fitted(images: Tensor, cameras: Cameras, height: int, width: int) -> tuple[Tensor, Cameras]:
    """Images [B, V, 3, H, W] resampled to height x width, antialiased, and their cameras."""
    if images.shape[-2:] == (height, width):
        return images, cameras
    flat = interpolate(
        images.flatten(0, 1), (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return flat.unflatten(0, images.shape[:2]), cameras.resized(width, height)


def grown_bank(
    bank: FrameBank | None,
    images: Tensor,
    cameras: Cameras,
    time_s: Tensor,
    gate_B: Tensor | None,
    capacity: int,
    cells: tuple[Tensor, ...] = (),
) -> FrameBank | None:
    """The bank after a chunk, None without capacity. gate_B: 0 leaves it as it was; raises
    ValueError where some scenes of a batch are gated and some aren't. cells: of the chunk's frames,
    and of any that were replayed in front of them."""
    if capacity == 0:
        return None
    if gate_B is not None and not bool((gate_B != 0).all()):
        if bool((gate_B != 0).any()):
            raise ValueError("a bank's scenes are gated together: gate all or none of a batch")
        return bank
    cells = tuple(part[:, part.shape[1] - images.shape[1] :] for part in cells)
    if bank is None:
        bank = FrameBank(
            images.new_zeros((len(images), 0, *images.shape[2:]), dtype=torch.uint8),
            cameras[:, :0],
            time_s[:, :0],
            tuple(part[:, :0] for part in cells),
        )
    return bank.add(images, cameras, time_s, capacity, cells)


def view_distance(
    cameras: Cameras, others: Cameras, time_s: Tensor, other_time_s: Tensor
) -> Tensor:
    """How far apart two sets of views are: translation / median + rotation angle / median, and a
    quarter of time / median where both times are known. [B, V] and [B, K] give [B, V, K]."""
    parts = _distances(cameras, others, time_s, other_time_s)
    return _weighted(parts, [_median(part.flatten(1))[:, None, None] for part in parts])


def _distances(
    cameras: Cameras, others: Cameras, time_s: Tensor, other_time_s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Translation, rotation angle of the axes, and time (0 where unknown), [B, V, K] each."""
    # differences, not products: float32 products of far centres, or bfloat16's of axes under
    # autocast, can't tell neighbours apart
    apart = (cameras.centres[:, :, None] - others.centres[:, None]).float().norm(dim=-1)
    chord = (cameras.forwards[:, :, None] - others.forwards[:, None]).float().norm(dim=-1)
    angle = 2 * torch.arcsin((chord / 2).clamp_max(1.0))
    late = (time_s[:, :, None] - other_time_s[:, None, :]).abs().float().nan_to_num(0.0)
    return apart, angle, late


def _median(values: Tensor) -> Tensor:
    """Over the last axis, never under 1e-6."""
    return values.median(dim=-1).values.clamp_min(1e-6)


def _weighted(parts: Sequence[Tensor], units: Sequence[Tensor]) -> Tensor:
    terms = (w * d / unit for w, d, unit in zip(_WEIGHTS, parts, units, strict=True))
    return torch.stack([*terms]).sum(0)


def nearest_sources(
    cameras: Cameras, time_s: Tensor, bank: FrameBank, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` nearest frames of the bank for each view, nearest first.

    As `view_distance`, with medians over the bank for each view alone: what else is asked for in
    the same query changes nothing. Returns indices [B, V, S] and validity [B, V, S]; with fewer
    frames than `count` the last is repeated and marked invalid.
    """
    parts = _distances(cameras, bank.cameras, time_s, bank.time_s)
    distance = _weighted(parts, [_median(part)[..., None] for part in parts])
    found = min(count, bank.size)
    index = distance.topk(found, dim=-1, largest=False).indices
    valid = torch.ones_like(index, dtype=torch.bool)
    if found < count:
        missing = count - found
        index = torch.cat([index, index[..., -1:].expand(*index.shape[:2], missing)], -1)
        valid = torch.cat([valid, valid.new_zeros(*valid.shape[:2], missing)], -1)
    return index, valid
