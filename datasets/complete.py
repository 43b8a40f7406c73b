"""`CompleteCapture`: a capture of which every frame can be had, so its cursor is one number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everview.datasets.captures import Frame, IndexedCapture, Skip
from everview.datasets.listed import check_state


class CompleteCapture(IndexedCapture):
    """Frames that are drawn or were verified before: none is skipped."""

    def __init__(self) -> None:
        self.rewind()

    def __iter__(self) -> Iterator[Frame]:
        while self._next < len(self):
            frame = self[self._next]
            self._next += 1
            yield frame

    def state(self) -> dict[str, Any]:
        return {"identity": self.identity(), "next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, self)
        self._next = min(int(state["next"]), len(self))

    def rewind(self) -> None:
        self._next = 0
        self.skipped: list[Skip] = []

    def place_of(self, index: int) -> int:
        """Frame `index`, which may count from the end, counted from 0. Raises IndexError."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return index % len(self)
