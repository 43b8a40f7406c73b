"""Loops: a walk round a procedural room that comes back to where it began, lap after lap.

The camera goes round an ellipse inside the free floor, looking along its way and aside, so that a
lap sees most of the room and its last frame is next to its first. Every lap is shifted by a share
of a step: places come again, pictures don't. Held-out views lie half-way between written frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from everview.datasets.cameras import Camera, Cameras
from everview.datasets.captures import Frame
from everview.datasets.procedural import FRAMES_PER_S, SceneBatch, draw_scenes, render_views
from everview.datasets.procedural.scenes import SHELL_POSE
from everview.datasets.procedural.trajectories import look_at

_FIELD_OF_VIEW_DEG = 60.0
_EYE_HEIGHT_M = 1.5
_OUT = 0.55  # of the way from the room's middle to its walls
_GOLDEN = 0.618033988749895
_VIEWS_AT_ONCE = 16


@dataclass(frozen=True)
class Loop:
    """One room and how it is walked. lap_frames: written in a lap. size: pixels, square."""

    seed: int
    dynamic: bool
    laps: int = 3
    lap_frames: int = 32
    size: int = 64

    @property
    def name(self) -> str:
        """In words."""
        return f"{'dynamic' if self.dynamic else 'static'} room, seed {self.seed}"

    @property
    def num_frames(self) -> int:
        """Written in all laps."""
        return self.laps * self.lap_frames

    def written(self) -> list[Frame]:
        """What a stream is given, in order."""
        return self._frames([float(place) for place in range(self.num_frames)])

    def held_out(self, first: int, count: int, every: int = 2) -> list[Frame]:
        """Views half a step behind every so many of `count` written frames from `first` on."""
        return self._frames([place + 0.5 for place in range(first, first + count, every)])

    def _frames(self, places: Sequence[float]) -> list[Frame]:
        """Frames at places of the walk, counted in written frames since its beginning."""
        scene = draw_scenes("room", [self.seed], self.dynamic)
        cameras = [self._camera(scene, place) for place in places]
        frames: list[Frame] = []
        for start in range(0, len(places), _VIEWS_AT_ONCE):
            some = slice(start, start + _VIEWS_AT_ONCE)
            times = torch.tensor(places[some], dtype=torch.float64)[None] / FRAMES_PER_S
            with torch.inference_mode():
                views = render_views(scene, Cameras.stack(cameras[some])[None], times, 4)
            for camera, time_s, image, depth in zip(
                cameras[some], times[0], views.images[0], views.depth[0], strict=True
            ):
                number = len(frames)
                picture = (image.numpy(), camera, float(time_s))
                frames.append(Frame(number, f"{number:06d}", *picture, depth=depth.numpy()))
        return frames

    def _camera(self, scene: SceneBatch, place: float) -> Camera:
        lap = place // self.lap_frames
        turn = 2 * np.pi * (place + lap * _GOLDEN % 1) / self.lap_frames
        middle = scene.centre[0, SHELL_POSE].numpy()
        half = scene.half_size[0, SHELL_POSE].numpy()
        floor = middle[:2] + _OUT * half[:2] * np.array([np.cos(turn), np.sin(turn)])
        eye = np.array([*floor, middle[2] - half[2] + _EYE_HEIGHT_M])
        # along the way, and twice a lap from one side to the other
        heading = turn + np.pi / 2 + 0.6 * np.sin(2 * turn)
        pose = look_at(eye, eye + np.array([np.cos(heading), np.sin(heading), -0.2]))
        focal = 0.5 * self.size / np.tan(np.radians(_FIELD_OF_VIEW_DEG) / 2)
        centre = self.size / 2
        return Camera(self.size, self.size, focal, focal, centre, centre, pose)
