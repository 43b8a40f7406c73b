"""Pictures that were asked for: a device draws them while the host does something else.

Whoever looks waits. On their way to the host they lie in pinned memory, in which copies need nobody
to wait; what is handed out is a copy of its own, so nothing stays pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.models.queries import Outputs


@dataclass(frozen=True, eq=False)
class RenderedView:
    """One picture of the scene.

    image: uint8 [H, W, 3] sRGB. depth: float32 [H, W] along z in world units. confidence: float32
    [H, W] in (0, 1]. memory_image: uint8 [H, W, 3], what the memory alone draws, without texture
    copied from source frames; None unless it was asked for.
    """

    camera: Camera
    time_s: float | None
    image: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    memory_image: np.ndarray | None = None


class AskedViews:
    """The views of one query."""

    def __init__(
        self, cameras: Sequence[Camera], times_s: Sequence[float | None], outs: Outputs
    ) -> None:
        """outs: of one scene, with colour, depth and confidence, and perhaps `memory_rgb`."""
        assert outs.rgb is not None
        assert outs.depth is not None
        assert outs.confidence is not None
        self._cameras, self._times_s = cameras, times_s
        parts = [picture_bytes(outs.rgb[0]), outs.depth[0].float(), outs.confidence[0].float()]
        if outs.memory_rgb is not None:
            parts.append(picture_bytes(outs.memory_rgb[0]))
        self._arrays = on_their_way(parts)

    def views(self) -> Iterator[RenderedView]:
        """One per camera, in order."""
        arrays = self._arrays()
        for index, camera in enumerate(self._cameras):
            image, depth, confidence, *memory = (array[index] for array in arrays)
            pure = memory[0] if memory else None
            yield RenderedView(camera, self._times_s[index], image, depth, confidence, pure)


def picture_bytes(images: Tensor) -> Tensor:
    """Float [V, 3, H, W] in [0, 1] to uint8 [V, H, W, 3]."""
    scaled = images.float().clamp(0, 1).mul(255).round_().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous()


def on_their_way(tensors: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
    """Begin to copy tensors of one device to the host; what waits for them and gives arrays."""
    if tensors[0].device.type != "cuda":
        at_once = [tensor.cpu().numpy() for tensor in tensors]
        return lambda: at_once
    held = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for room, tensor in zip(held, tensors, strict=True):
        room.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.current_stream(tensors[0].device).record_event()

    def arrays() -> list[np.ndarray]:
        arrived.synchronize()
        return [room.numpy().copy() for room in held]

    return arrays
