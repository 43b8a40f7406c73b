"""What a live source could not use, in a form that every cursor may share."""

from __future__ import annotations

from collections.abc import Iterable

from everview.datasets.captures import Skip

_MOST_SKIPS = 1000


class SkipList:
    """The first thousand skips. `rows` is what a cursor holds: one tuple until a skip is added, so
    that a stream of hours with many skips copies nothing for each frame."""

    def __init__(self, rows: Iterable[Iterable[str]] = ()) -> None:
        """rows: of a cursor, to go on."""
        self.rows: tuple[tuple[str, str], ...] = tuple((name, reason) for name, reason in rows)

    def add(self, name: str, reason: str) -> None:
        """Note a skip, unless there are many already."""
        if len(self.rows) < _MOST_SKIPS:
            self.rows = (*self.rows, (name, reason))

    @property
    def skips(self) -> list[Skip]:
        """The same, as a source names them."""
        return [Skip(name, reason) for name, reason in self.rows]
