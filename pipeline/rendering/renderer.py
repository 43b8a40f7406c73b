"""Rendering: cameras into a frozen state, a few at a time.

The state is frozen once; then every picture is a read. Memory is bounded by the batch, not by the
length of the path. B scenes (here 1), V views, H rows, W columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera, Cameras
from everview.kernels.backend import reading_products
from everview.models.captured import Answer, answering
from everview.models.queries import Outputs, Query
from everview.models.scene_model import SceneModel
from everview.pipeline.rendering.asked import AskedViews, RenderedView, picture_bytes

# What is made of pixels fills memory, whatever tokens see: 16 views of 128 px on a CPU, about 0.3
# GiB at d384; a GPU is full with 8 of 256 px.
_PATCHES_AT_ONCE = {"cpu": 4096, "cuda": 8192}


class Renderer(Protocol):
    """Cameras of the capture's world in, pictures out: `SceneRenderer`, or one of many states."""

    model: SceneModel

    def ask(
        self,
        cameras: Sequence[Camera],
        times_s: Sequence[float | None] | None = None,
        with_memory: bool = False,
    ) -> Iterator[AskedViews]:
        """As `render`, a few views at a time, without waiting for a device to draw them."""
        ...

    def render(
        self,
        cameras: Sequence[Camera],
        times_s: Sequence[float | None] | None = None,
        with_memory: bool = False,
    ) -> Iterator[RenderedView]:
        """Yield one view per camera, in order. Sides must be multiples of the model's patch.

        with_memory: also draw what the memory alone gives (twice the work).
        """
        for asked in self.ask(cameras, times_s, with_memory):
            yield from asked.views()

    def depth_of(self, camera: Camera, image: np.ndarray, time_s: float | None) -> RenderedView: ...
    def memory_images(
        self, cameras: Sequence[Camera], times_s: Sequence[float | None]
    ) -> list[np.ndarray]: ...
    def answered_by(self, answer: Answer) -> Renderer: ...


class SceneRenderer(Renderer):
    """Cameras in, pictures out, from one state that never changes.

    Safe to use from several threads beside a session that observes: nothing here is written.
    """

    def __init__(self, model: SceneModel, state: Any, answer: Answer | None = None):
        """state: of one scene (batch 1), with its gauge set. answer: what other renderers of this
        model use too, so that what was captured for them needn't be captured again."""
        self.model = model
        self._answer = answer or answering(model)
        with torch.inference_mode():
            self.view = model.freeze(state, reading_products(model.device))

    def answered_by(self, answer: Answer) -> SceneRenderer:
        """The same frozen state, which is shared, with another answer."""
        other = copy.copy(self)
        other._answer = answer
        return other

    def ask(
        self,
        cameras: Sequence[Camera],
        times_s: Sequence[float | None] | None = None,
        with_memory: bool = False,
    ) -> Iterator[AskedViews]:
        """See Renderer.ask."""
        times = [None] * len(cameras) if times_s is None else list(times_s)
        heads = ("rgb", "depth", "confidence", *(("memory_rgb",) if with_memory else ()))
        for start, stop in self._batches(cameras):
            asked, when = cameras[start:stop], times[start:stop]
            yield AskedViews(asked, when, self._ask(self._query(asked, when), heads))

    def depth_of(self, camera: Camera, image: np.ndarray, time_s: float | None) -> RenderedView:
        """Look at a frame that has an image: the same outputs, with the image as a clue."""
        query = self._query([camera], [time_s], image_tensor([image], self.model.device))
        outs = self._ask(query, ("rgb", "depth", "confidence"))
        return next(AskedViews([camera], [time_s], outs).views())

    def memory_images(
        self, cameras: Sequence[Camera], times_s: Sequence[float | None]
    ) -> list[np.ndarray]:
        """What the memory alone draws, uint8 [H, W, 3] each."""
        images: list[np.ndarray] = []
        for start, stop in self._batches(cameras):
            query = self._query(cameras[start:stop], times_s[start:stop])
            drawn = self._ask(query, ("memory_rgb",)).memory_rgb
            assert drawn is not None
            images.extend(picture_bytes(drawn[0]).cpu().numpy())
        return images

    def _batches(self, cameras: Sequence[Camera]) -> Iterator[tuple[int, int]]:
        most = _PATCHES_AT_ONCE.get(self.model.device.type, 4096)
        return _batches(cameras, self.model.config.patch, most)

    def _query(
        self,
        cameras: Sequence[Camera],
        times: Sequence[float | None],
        images: Tensor | None = None,
    ) -> Query:
        device = self.model.device
        stacked = Cameras.stack(cameras)[None].to(device=device, non_blocking=True)
        return Query(cameras=stacked, images=images, time_s=time_tensor(times, device))

    def _ask(self, query: Query, heads: tuple[str, ...]) -> Outputs:
        with torch.inference_mode():
            return self._answer(query, self.view, heads)


def image_tensor(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """uint8 [H, W, 3] images of one size as float32 [1, V, 3, H, W] in [0, 1]."""
    stacked = torch.from_numpy(np.stack(images))
    if device.type == "cuda":  # or the host would wait for whatever the device has to do before
        stacked = stacked.pin_memory()
    stacked = stacked.to(device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2)[None].float().div_(255)


def time_tensor(times: Sequence[float | None], device: torch.device) -> Tensor | None:
    """Seconds as float64 [1, V], NaN where unknown; None when no view has a time."""
    if all(time is None for time in times):
        return None
    values = [float("nan") if time is None else float(time) for time in times]
    return torch.tensor([values], dtype=torch.float64).to(device, non_blocking=True)


def _batches(cameras: Sequence[Camera], patch: int, patches: int) -> Iterator[tuple[int, int]]:
    """Runs [start, stop) of cameras of one size that fit so many patches together."""
    start = 0
    while start < len(cameras):
        width, height = cameras[start].width, cameras[start].height
        most = max(1, patches // max(1, (width // patch) * (height // patch)))
        stop = start + 1
        while (
            stop < len(cameras)
            and stop - start < most
            and (cameras[stop].width, cameras[stop].height) == (width, height)
        ):
            stop += 1
        yield start, stop
        start = stop
