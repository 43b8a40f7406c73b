"""How a long job says where it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A terminal shows a bar, a log shows lines, a test shows nothing."""

    def step(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` (None: unknown) frames of a stage."""

    def say(self, line: str) -> None:
        """One line worth reading."""


class Silent:
    """Says nothing."""

    def step(self, stage: str, done: int, total: int | None) -> None:
        pass

    def say(self, line: str) -> None:
        pass
