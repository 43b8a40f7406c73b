"""Frames of one size as tensors and back, bit for bit, for snapshots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame

_NUMBERS = 1 + 1 + 2 + 4 + 16  # index, time, the camera's size, intrinsics, pose


def frames_to_tensors(frames: Sequence[Frame]) -> dict[str, Tensor]:
    """images [N, H, W, 3] as they are (uint8), numbers float64 [N, 24] with NaN for what isn't
    known, names uint8 (UTF-8, newline between); depth float32 [N, H, W] (0 where unknown) and mask
    bool [N, H, W] if any frame has one."""
    if not frames:
        return {"numbers": torch.zeros(0, _NUMBERS, dtype=torch.float64)}
    rows = np.full((len(frames), _NUMBERS), np.nan)
    for row, frame in zip(rows, frames, strict=True):
        row[0] = frame.index
        if frame.time_s is not None:  # NaN is "no time" in here, and no time stamp
            row[1] = np.inf if np.isnan(frame.time_s) else frame.time_s
        if (camera := frame.camera) is not None:
            row[2:4] = camera.width, camera.height
            row[4:8] = camera.fx, camera.fy, camera.cx, camera.cy
            row[8:] = camera.c2w_cv.ravel()
    names = "\n".join(frame.name.replace("\n", " ") for frame in frames)
    encoded = names.encode("utf-8", "surrogateescape")
    tensors = {
        "images": torch.from_numpy(np.stack([frame.image for frame in frames])),
        "numbers": torch.from_numpy(rows),
        "names": torch.from_numpy(np.frombuffer(encoded or b" ", np.uint8).copy()),
    }
    if (depth := stacked_depth(frames)) is not None:
        tensors["depth"] = torch.from_numpy(depth)
    if any(frame.mask is not None for frame in frames):
        blank = np.ones(frames[0].image.shape[:2], bool)
        masks = np.stack([blank if frame.mask is None else frame.mask for frame in frames])
        tensors["mask"] = torch.from_numpy(masks)
    return tensors


def frames_from_tensors(tensors: dict[str, Tensor]) -> list[Frame]:
    """Inverse of `frames_to_tensors`. Raises ValueError when the parts don't fit together."""
    rows = tensors["numbers"].numpy()
    if not len(rows):
        return []
    if rows.ndim != 2 or rows.shape[1] != _NUMBERS:
        raise ValueError(f"frames' numbers of shape {rows.shape}, expected [frames, {_NUMBERS}]")
    names = bytes(tensors["names"].numpy()).decode("utf-8", "surrogateescape").split("\n")
    images = tensors["images"].numpy()
    known = {name: tensors[name].numpy() for name in ("depth", "mask") if name in tensors}
    return [
        Frame(
            index=int(row[0]),
            name=name,
            image=image,
            camera=_camera(row),
            time_s=None if np.isnan(row[1]) else float(row[1]),
            **{part: values[place] for part, values in known.items()},
        )
        for place, (row, name, image) in enumerate(zip(rows, names, images, strict=True))
    ]


def _camera(row: np.ndarray) -> Camera | None:
    if np.isnan(row[2]):
        return None
    return Camera.of_row(int(row[2]), int(row[3]), row[4:8].tolist(), row[8:].reshape(4, 4))


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
