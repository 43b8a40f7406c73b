"""A capture whose frames get their cameras from elsewhere: from their pictures, from odometry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip


class PosedCapture(Capture):
    """The frames of `capture` as `posed` returns them; what `posed` can't place has no camera.

    The cursor, what is skipped and the identity are the capture's own; `origin` sets this one
    apart from captures that were posed in another way.
    """

    def __init__(
        self, capture: Capture, posed: Callable[[Frame], Frame], info: CaptureInfo, origin: str
    ) -> None:
        self.capture, self.posed, self.info, self._origin = capture, posed, info, origin

    @property
    def skipped(self) -> list[Skip]:  # type: ignore[override]
        """What the capture left out."""
        return self.capture.skipped

    def __iter__(self) -> Iterator[Frame]:
        return (self.posed(frame) for frame in self.capture)

    def state(self) -> dict[str, Any]:
        return self.capture.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.capture.restore(state)

    def rewind(self) -> None:
        self.capture.rewind()

    def identity(self) -> str:
        text = f"{self.capture.identity()} {self._origin}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
