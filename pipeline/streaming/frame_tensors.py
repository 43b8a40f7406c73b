"""Frames of one size as tensors and back, bit for bit, for snapshots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame

_NUMBERS = 1 + 1 + 4 + 16  # index, time, intrinsics, pose


def frames_to_tensors(frames: Sequence[Frame]) -> dict[str, Tensor]:
    """images uint8 [N, H, W, 3], numbers float64 [N, 22], names uint8 (UTF-8, newline between),
    depth float32 [N, H, W] if any frame has it (0 where unknown). Every frame has a camera."""
    if not frames:
        return {"numbers": torch.zeros(0, _NUMBERS, dtype=torch.float64)}
    rows = np.empty((len(frames), _NUMBERS))
    for row, frame in zip(rows, frames, strict=True):
        camera = frame.camera
        row[0], row[1] = frame.index, np.nan if frame.time_s is None else frame.time_s
        row[2:6] = camera.fx, camera.fy, camera.cx, camera.cy
        row[6:] = camera.c2w_cv.ravel()
    names = "\n".join(frame.name.replace("\n", " ") for frame in frames).encode()
    tensors = {
        "images": torch.from_numpy(np.stack([frame.image for frame in frames])),
        "numbers": torch.from_numpy(rows),
        "names": torch.from_numpy(np.frombuffer(names or b" ", np.uint8).copy()),
    }
    depth = stacked_depth(frames)
    return tensors if depth is None else {**tensors, "depth": torch.from_numpy(depth)}


def frames_from_tensors(tensors: dict[str, Tensor]) -> list[Frame]:
    """Inverse of `frames_to_tensors`. Raises ValueError when the parts don't fit together."""
    rows = tensors["numbers"].numpy()
    if not len(rows):
        return []
    images = tensors["images"].numpy()
    names = bytes(tensors["names"].numpy()).decode().split("\n")
    depth = tensors["depth"].numpy() if "depth" in tensors else [None] * len(rows)
    height, width = images.shape[1:3]
    return [
        Frame(
            index=int(row[0]),
            name=name,
            image=image,
            camera=Camera.of_row(width, height, row[2:6], row[6:].reshape(4, 4)),
            time_s=None if np.isnan(row[1]) else float(row[1]),
            depth=known,
        )
        for row, name, image, known in zip(rows, names, images, depth, strict=True)
    ]


def stacked_depth(frames: Sequence[Frame]) -> np.ndarray | None:
    """Depth float32 [N, H, W], 0 where unknown; None when no frame has any."""
    if all(frame.depth is None for frame in frames):
        return None
    blank = np.zeros(frames[0].image.shape[:2], np.float32)
    layers = [blank if f.depth is None else f.depth.astype(np.float32) for f in frames]
    return np.nan_to_num(np.stack(layers), nan=0.0, posinf=0.0, neginf=0.0)


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that start with `prefix` and a dot."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `with_prefix`: those that have it, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
