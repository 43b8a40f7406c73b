"""`procedural://WORLD?seed=..&frames=..&size=..&dynamic=..`: a capture drawn as it is read.

Worlds: those of `scenes`, one scene each, and `walk`, a row of rooms without end (`walk.py`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import torch

from everview.datasets.cameras import Camera, Cameras
from everview.datasets.captures import CaptureInfo, Frame
from everview.datasets.complete import CompleteCapture
from everview.datasets.errors import DataError
from everview.datasets.procedural.rendering import render_views
from everview.datasets.procedural.scenes import WORLDS, draw_scenes
from everview.datasets.procedural.trajectories import FRAMES_PER_S, draw_cameras
from everview.datasets.procedural.walk import Walk

MAX_FRAMES = 100_000
MAX_SIZE = 1024
MAX_SEED = 2**53
WALK = "walk"
_KEYS = ("seed", "frames", "size", "dynamic")
_KEPT_BYTES = 8 * 2**20
_BYTES_PER_PIXEL = 7  # colour and depth


@dataclass(frozen=True)
class ProceduralUrl:
    """What a `procedural://` URL says. size: pixels of the square picture."""

    world: str
    seed: int = 0
    frames: int = 120
    size: int = 128
    dynamic: bool = False

    def __str__(self) -> str:
        return (
            f"procedural://{self.world}?seed={self.seed}&frames={self.frames}"
            f"&size={self.size}&dynamic={str(self.dynamic).lower()}"
        )


def parse_procedural(url: str) -> ProceduralUrl:
    """Read a `procedural://` URL. Raises DataError that names the part and the nearest one."""
    parts = urlsplit(url)
    world = (parts.netloc + parts.path).strip("/")
    if parts.scheme != "procedural" or world not in (*WORLDS, WALK):
        near = difflib.get_close_matches(world, (*WORLDS, WALK), 1, 0.0)[0]
        raise DataError(f"{url[:200]}: no world is called '{world[:40]}'; did you mean '{near}'?")
    values: dict[str, Any] = {}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1, 0.0)[0]
            raise DataError(f"{url[:200]}: unknown key '{key[:40]}'; did you mean '{near}'?")
        if key in values:
            raise DataError(f"{url[:200]}: '{key}' is given twice; give it once")
        values[key] = _boolean(url, key, text) if key == "dynamic" else _whole(url, key, text)
    if world == WALK and values.get("dynamic"):
        raise DataError(f"{url[:200]}: nothing moves in a '{WALK}'; leave `dynamic` out")
    return ProceduralUrl(world, **values)


def _boolean(url: str, key: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise DataError(f"{url[:200]}: {key}={text[:40]} is neither true nor false")
    return text.lower() in ("true", "1")


def _whole(url: str, key: str, text: str) -> int:
    low, high = {"seed": (0, MAX_SEED), "frames": (1, MAX_FRAMES), "size": (8, MAX_SIZE)}[key]
    if not (text.isascii() and text.isdigit() and len(text) < 18 and low <= int(text) <= high):
        raise DataError(
            f"{url[:200]}: {key}={text[:40]} is not a whole number from {low} to {high}"
        )
    return int(text)


class ProceduralCapture(CompleteCapture):
    """Frames of one procedural scene along its video trajectory, each rendered when it is read.

    World in metres, z up; 10 frames/s; exact depth. Memory doesn't grow with the frames: 8 MiB of
    them are kept, so that a short capture read twice is rendered once. The scene itself (`scene`)
    can be rendered from any other camera with `render_views`.
    """

    def __init__(self, url: ProceduralUrl, samples_per_pixel: int = 4) -> None:
        self.url = url
        self.samples_per_pixel = samples_per_pixel
        self._draw()
        self._kept: dict[int, Frame] = {}
        self.info = CaptureInfo(
            source=str(url),
            format="procedural scene",
            scale="metric",
            num_frames=url.frames,
            has_cameras=True,
            has_depth=True,
            has_time=True,
            licence="Apache-2.0",
            notes=(f"world '{url.world}', {'moving' if url.dynamic else 'still'}, z up, metres",),
        )
        super().__init__()

    def _draw(self) -> None:
        self.scene = draw_scenes(self.url.world, [self.url.seed], self.url.dynamic)

    def __len__(self) -> int:
        return self.url.frames

    def __getitem__(self, index: int) -> Frame:
        """Frame `index` (negative counts from the end); the cursor stays."""
        index = self.place_of(index)
        if index not in self._kept:
            room = _KEPT_BYTES // (_BYTES_PER_PIXEL * self.url.size**2)
            while self._kept and len(self._kept) >= room:
                self._kept.pop(next(iter(self._kept)))  # the oldest
            self._kept[index] = self._rendered(index)
        return self._kept[index]

    def _rendered(self, index: int) -> Frame:
        size = self.url.size
        cameras, time_s = draw_cameras(
            self.scene, 1, size, size, trajectory="video", first_frame=index
        )
        with torch.inference_mode():
            views = render_views(self.scene, cameras, time_s, self.samples_per_pixel)
        return Frame(
            index=index,
            name=f"{index:06d}",
            image=views.images[0, 0].numpy(),
            camera=cameras.unbind()[0],
            time_s=float(time_s),
            depth=views.depth[0, 0].numpy(),
        )

    def identity(self) -> str:
        return f"{self.url}#{self.samples_per_pixel}"


class WalkCapture(ProceduralCapture):
    """Frames of a walk through many rooms and back. Of the rooms, only those in sight are drawn.

    `walk` says where it goes; `at` renders it from any other camera.
    """

    def _draw(self) -> None:
        self.walk = Walk(self.url.seed, self.url.frames)

    def at(self, camera: Camera, index: int, time_s: float | None = None) -> Frame:
        """A frame of the walk's rooms from a camera that stands in one of them."""
        scene = self.walk.scene(camera)
        moment = torch.zeros(1, 1, dtype=torch.float64)
        with torch.inference_mode():
            placed = Cameras.stack([camera])[None]
            views = render_views(scene, placed, moment, self.samples_per_pixel)
        return Frame(
            index=index,
            name=f"{index:06d}",
            image=views.images[0, 0].numpy(),
            camera=camera,
            time_s=time_s,
            depth=views.depth[0, 0].numpy(),
        )

    def _rendered(self, index: int) -> Frame:
        return self.at(self.walk.camera(index, self.url.size), index, index / FRAMES_PER_S)


def open_procedural(url: str) -> ProceduralCapture:
    """A `procedural://WORLD?seed=..&frames=..&size=..&dynamic=..` URL as a capture.

    Worlds: tabletop, room, orbit, walk. Raises DataError for anything else, with the nearest name.
    """
    parsed = parse_procedural(url)
    return WalkCapture(parsed) if parsed.world == WALK else ProceduralCapture(parsed)
