"""A capture that comes over a bad line: what a seed says is lost, late, twice, broken or wrong.

Everything is decided before the first frame is sent, so that a run that goes on after a kill is
sent what it would have been sent, and the counts that must come out are known.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from everview.datasets.captures import Capture, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.guards import EncodedImage
from everview.datasets.images import read_colour
from everview.datasets.resampling import centre_crop, resize
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.sources.source import Put, Source

ABSENT = "absent"
CORRUPT = "corrupt"
_SETTLED = 12
"""Frames that come whole before anything goes wrong: the first chunk is not what is tried here."""


@dataclass(frozen=True)
class Fault:
    """What a line does. share: of the frames, each of `kinds` (see `SPOILERS`). duplicates: share
    that comes twice. reorder: places that a frame is off by at most. late: frames that come later
    than any window. gaps_s: seconds that the clock jumps ahead, each once, and back once. reshaped:
    how often the resolution or the orientation changes. resampled: the changed pictures, but at the
    size of the others. lost: numbers of frames that never come."""

    kinds: tuple[str, ...] = ()
    share: float = 0.0
    duplicates: float = 0.0
    reorder: int = 0
    late: int = 0
    gaps_s: tuple[float, ...] = ()
    reshaped: int = 0
    resampled: bool = False
    lost: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """What is sent: numbers in order of arrival, what is wrong with some, their time stamps, and
    from which numbers on they have another shape (of `SHAPES`), or what of one is left."""

    numbers: tuple[int, ...]
    wrong: dict[int, str]
    times: dict[int, float]
    shapes: dict[int, str] = field(default_factory=dict)
    is_resampled: bool = False

    @staticmethod
    def of(fault: Fault, count: int, seed: int) -> Line:
        """For `count` frames at ten a second."""
        chance = random.Random(seed)
        order, wrong = list(range(count)), {}
        each = round(fault.share * count)
        for place, number in enumerate(chance.sample(order[_SETTLED:], each * len(fault.kinds))):
            wrong[number] = fault.kinds[place % len(fault.kinds)]
        absent = {number for number, kind in wrong.items() if kind == ABSENT} | set(fault.lost)
        order = [number for number in order if number not in absent]
        keys = [place + chance.uniform(0, fault.reorder + 1) for place in range(len(order))]
        order = [number for _, number in sorted(zip(keys, order, strict=True))]
        for number in chance.sample(order[_SETTLED : count // 2], fault.late):
            order.remove(number)
            order.insert(chance.randint(count // 2 + 24, len(order)), number)
        for number in chance.sample(sorted(order), round(fault.duplicates * count)):
            after = order.index(number) + 1
            order.insert(chance.randint(after, len(order)), number)
        times = _times(fault, count, chance)
        return Line(tuple(order), wrong, times, _shapes(fault, count, chance), fault.resampled)

    def shape_of(self, number: int) -> str | None:
        """The name of a frame's shape; None: as captured."""
        begun = [first for first in self.shapes if first <= number]
        return self.shapes[max(begun)] if begun else None


def _times(fault: Fault, count: int, chance: random.Random) -> dict[int, float]:
    jumps = chance.sample(range(_SETTLED, count), len(fault.gaps_s) + 1)
    steps = dict(zip(jumps, (*fault.gaps_s, -0.15), strict=True)) if fault.gaps_s else {}
    times, now = {}, 0.0
    for number in range(count):
        now += 0.1 + steps.get(number, 0.0)
        times[number] = round(now, 6)
    return times


def _shapes(fault: Fault, count: int, chance: random.Random) -> dict[int, str]:
    shapes: dict[int, str] = {}
    before = ""
    if fault.reshaped:
        for number in sorted(chance.sample(range(_SETTLED, count), fault.reshaped)):
            before = chance.choice([name for name in SHAPES if name != before])
            shapes[number] = before
    return shapes


class BadLine(Source):
    """The frames of a capture as a `Line` sends them."""

    def __init__(self, capture: Capture, line: Line, is_timed: bool = False) -> None:
        """is_timed: the line's time stamps replace the capture's."""
        self.capture, self.info, self.line = capture, capture.info, line
        self._is_timed = is_timed
        self._place = 0
        self._skipped: list[Skip] = []
        self.on_put: Callable[[int], None] = lambda place: None

    def deliver(self, put: Put) -> None:
        frames = list(self.capture)
        for place in range(self._place, len(self.line.numbers)):
            if not put(self.arrival(place, frames)):
                return

    def arrival(self, place: int, frames: Sequence[Frame]) -> Arrival:
        """What arrives at this place."""
        number = self.line.numbers[place]
        frame, cursor = frames[number], {"place": place + 1, "line": self.identity()}
        if self._is_timed:
            frame = replace(frame, time_s=self.line.times[number])
        if (shape := self.line.shape_of(number)) is not None:
            height, width = frame.image.shape[:2]
            frame = reshaped(frame, shape)
            frame = resize(frame, width, height) if self.line.is_resampled else frame
        kind = self.line.wrong.get(number)
        if kind == CORRUPT:
            try:
                frame = replace(frame, image=decoded(damaged(frame.image, number)))
            except DataError as error:
                nothing: Any = None
                problem = f"{frame.name}: {error}"
                return Arrival(number, nothing, time.monotonic(), problem, cursor)
        elif kind is not None:
            image = SPOILERS[kind](frame.image, frames[max(number - 1, 0)].image)
            frame = replace(frame, image=image)
        return Arrival(number, frame, time.monotonic(), cursor=cursor)

    def resume(self, cursor: dict[str, Any]) -> None:
        if cursor["line"] != self.identity():
            raise DataError("the run was streaming over another line")
        self._place = int(cursor["place"])

    def identity(self) -> str:
        return self.capture.identity()

    @property
    def skipped(self) -> list[Skip]:
        return self._skipped

    def seen_again(self) -> Capture:
        self.capture.rewind()
        return self.capture


def reshaped(frame: Frame, shape: str) -> Frame:
    """The middle of a frame, at another resolution; camera and depth with it."""
    across, down, scale = SHAPES[shape]
    height, width = (
        int(s * side) for s, side in zip((down, across), frame.image.shape, strict=False)
    )
    middle = centre_crop(frame, width, height)
    return resize(middle, round(width * scale), round(height * scale))


def damaged(image: np.ndarray, seed: int) -> bytes:
    """A PNG with flipped bytes past its header, or the first part of one."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    content, chance = bytearray(file.getvalue()), random.Random(seed)
    if seed % 2:
        return bytes(content[: chance.randint(64, len(content) * 3 // 4)])
    for _ in range(8):
        content[chance.randrange(64, len(content) - 16)] ^= chance.randint(1, 255)
    return bytes(content)


def decoded(content: bytes) -> np.ndarray:
    """As readers do it. Raises DataError."""
    return read_colour(EncodedImage("packet", content))


def _with_nan(image: np.ndarray, before: np.ndarray) -> np.ndarray:
    values = image.astype(np.float32) / 255
    values[::7, ::5] = np.nan
    return values


def _exposed(gain: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda image, before: (image * gain).clip(0, 255).astype(np.uint8)


def _blurred(image: np.ndarray, before: np.ndarray) -> np.ndarray:
    radius = 2.5 * min(image.shape[:2]) / 128
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


SHAPES: dict[str, tuple[float, float, float]] = {
    "landscape": (1.0, 0.75, 1.0),
    "portrait": (0.75, 1.0, 1.0),
    "wide": (1.0, 0.5, 1.0),
    "fine": (1.0, 1.0, 2.0),
}
"""Shares of the captured width and height that are left, and what they are enlarged by."""

SPOILERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nan": _with_nan,
    "black": lambda image, before: image // 64,
    "blank": lambda image, before: np.full_like(image, 128),
    "frozen": lambda image, before: before,
    "blurred": _blurred,
    "dark": _exposed(0.45),
    "reddish": lambda image, before: (image * np.array([0.6, 0.4, 0.3])).astype(np.uint8),
}
