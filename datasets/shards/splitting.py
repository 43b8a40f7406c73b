"""Which names may be trained on: decided by the sorted list of names, never by chance."""

from __future__ import annotations

from collections.abc import Iterable

HELD_OUT_EVERY = 8


def split_by_name(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(training, held out): indices 0, 8, 16, ... of the sorted, distinct names are held out."""
    ordered = sorted(set(names))
    held_out = ordered[::HELD_OUT_EVERY]
    training = [name for i, name in enumerate(ordered) if i % HELD_OUT_EVERY]
    return training, held_out
