"""A stream as long as one likes from a few drawn frames: there and back along a path, for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from everview.datasets.cameras import Camera
from everview.datasets.captures import CaptureInfo, Frame, IndexedCapture, Skip
from everview.datasets.listed import check_state
from everview.datasets.procedural.rendering import render_views
from everview.datasets.procedural.scenes import draw_scenes
from everview.datasets.procedural.trajectories import FRAMES_PER_S, draw_cameras


class LoopedCapture(IndexedCapture):
    """The first frames of a procedural scene's video, drawn once on `device` and kept; then back to
    the first and on again. Time stamps and numbers rise all the while, 10 frames a second.

    No two neighbours are the same picture. 3 bytes a pixel of every drawn frame are held from the
    start, so what grows later is not the capture.
    """

    def __init__(
        self,
        world: str,
        seed: int,
        frames: int,
        size: int,
        drawn: int = 400,
        device: torch.device | str = "cpu",
    ) -> None:
        """drawn: different frames; the stream is `frames` long. size: pixels of the square."""
        self.drawn = max(2, min(drawn, frames))
        self._frames, self._next = frames, 0
        self._named = f"looped {world}?seed={seed}&frames={frames}&size={size}&drawn={self.drawn}"
        self.info = CaptureInfo(self._named, "procedural loop", "metric", frames, True, False, True)
        self.skipped: list[Skip] = []
        scene = draw_scenes(world, [seed])
        placed = scene.to(device)
        self._kept: list[Frame] = []
        for index in range(self.drawn):
            cameras, time_s = draw_cameras(
                scene, 1, size, size, trajectory="video", first_frame=index
            )
            with torch.inference_mode():
                views = render_views(placed, cameras, time_s, 1)
            image = views.images[0, 0].cpu().numpy()
            self._kept.append(Frame(index, f"{index:06d}", image, cameras.unbind()[0]))

    def __len__(self) -> int:
        return self._frames

    @property
    def period(self) -> int:
        """Frames after which the same pictures come again."""
        return 2 * self.drawn - 2

    def __getitem__(self, index: int) -> Frame:
        """Frame `index` of the stream; the cursor stays."""
        place = index % self.period
        drawn = self._kept[min(place, self.period - place)]
        return replace(drawn, index=index, name=f"{index:06d}", time_s=index / FRAMES_PER_S)

    def camera(self, index: int) -> Camera:
        """That of frame `index`."""
        camera = self[index].camera
        assert camera is not None
        return camera

    def __iter__(self) -> Iterator[Frame]:
        while self._next < self._frames:
            frame = self[self._next]
            self._next += 1
            yield frame

    def state(self) -> dict[str, Any]:
        return {"identity": self._named, "next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, self)
        self._next = int(state["next"])

    def rewind(self) -> None:
        self._next = 0

    def identity(self) -> str:
        return self._named
