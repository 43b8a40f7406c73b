"""Protocols as data: which frames go in, which are judged, and in how many chunks.

They are fixed so that numbers of different runs, machines and projects can be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HELD_OUT_EVERY = 8
CHUNK_FRAMES = 8


@dataclass(frozen=True)
class Split:
    """Indices of one capture's frames: `chunks` are observed in turn, `targets` are judged.

    schedule: "set" when one update takes all the inputs, "chunk_causal" when chunks follow.
    """

    chunks: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """Every observed index, in the order it is observed."""
        return tuple(index for chunk in self.chunks for index in chunk)

    @property
    def schedule(self) -> Literal["set", "chunk_causal"]:
        return "set" if len(self.chunks) == 1 else "chunk_causal"


def every_eighth(num_frames: int, chunk_frames: int = CHUNK_FRAMES) -> Split:
    """Held out = indices 0, 8, 16, ...; the rest is streamed in chunks of 8.

    Raises ValueError when nothing would be left to observe.
    """
    targets = range(0, num_frames, HELD_OUT_EVERY)
    inputs = [i for i in range(num_frames) if i % HELD_OUT_EVERY]
    if not inputs:
        raise ValueError(f"{num_frames} frames leave none to observe; at least 2 are needed")
    return Split(in_chunks_of(inputs, chunk_frames), tuple(targets))


def spread_inputs(num_frames: int, num_inputs: int) -> Split:
    """Inputs = round(linspace(0, n - 1, N)), the rest are targets; one `set` segment.

    Raises ValueError when nothing would be left to judge.
    """
    if not 1 <= num_inputs < num_frames:
        raise ValueError(
            f"--inputs {num_inputs} of {num_frames} frames leaves none to judge; "
            f"choose 1 to {num_frames - 1}"
        )
    step = (num_frames - 1) / max(num_inputs - 1, 1)
    inputs = [round(i * step) for i in range(num_inputs)]
    chosen = set(inputs)
    return Split((tuple(inputs),), tuple(i for i in range(num_frames) if i not in chosen))


def in_chunks_of(indices: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    """Runs of `size` indices, the last perhaps shorter."""
    return tuple(tuple(indices[i : i + size]) for i in range(0, len(indices), size))


def in_equal_chunks(indices: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """`count` runs of indices whose lengths differ by at most one."""
    if not 1 <= count <= len(indices):
        raise ValueError(f"{len(indices)} frames don't make {count} chunks")
    length, longer = divmod(len(indices), count)
    sizes = [length + (number < longer) for number in range(count)]
    ends = itertools.accumulate(sizes)
    return tuple(tuple(indices[end - size : end]) for end, size in zip(ends, sizes, strict=True))


@dataclass(frozen=True)
class ProceduralScene:
    """One scene of a protocol, by the URL that draws it."""

    kind: str
    seed: int
    dynamic: bool
    frames: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}" + ("-dynamic" if self.dynamic else "")

    @property
    def url(self) -> str:
        return (
            f"procedural://{self.kind}?seed={self.seed}&frames={self.frames}&size={self.size}"
            f"&dynamic={str(self.dynamic).lower()}"
        )


@dataclass(frozen=True)
class Protocol:
    """A named set of scenes, each judged on every 8th frame.

    chunk_counts: how many chunks the same inputs are also observed in, to measure the gap between
    `set` and `chunk_causal` with the same weights.
    """

    name: str
    scenes: tuple[ProceduralScene, ...]
    chunk_counts: tuple[int, ...] = (1, 4, 8)


# Training never draws a seed from here on (`HELD_OUT_SEEDS` of its scene pool).
HELD_OUT_SEEDS = 10**9
_KINDS = (("tabletop", False), ("room", False), ("orbit", False), ("tabletop", True))


def procedural(num_scenes: int = 8, size: int = 128, frames: int = 37) -> Protocol:
    """Tabletops, rooms, orbits and moving tabletops in turn, from seeds that training never draws.

    37 frames: every 8th held out leaves 32 to observe, which 1, 4 and 8 chunks share evenly.
    """
    scenes = tuple(
        ProceduralScene(_KINDS[i % len(_KINDS)][0], HELD_OUT_SEEDS + i,
                        _KINDS[i % len(_KINDS)][1], frames, size)
        for i in range(num_scenes)
    )  # fmt: skip
    return Protocol("procedural", scenes)


PROTOCOLS = {"procedural": procedural}
