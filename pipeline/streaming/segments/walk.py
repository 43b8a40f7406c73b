"""A session's segments: when one ends, what the next one sees again, and what a snapshot keeps.

Everything follows from cameras, pictures and recorded chunks, so that a stream that was killed and
goes on has the same segments as one that wasn't.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everview.datasets.captures import Frame
from everview.models.gauge import Gauge
from everview.models.state import SceneState
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    under_prefix,
    with_prefix,
)
from everview.pipeline.streaming.segments.archive import archive, drop_unnamed, read_segment
from everview.pipeline.streaming.segments.atlas import Atlas, Segment, distance_from_origin
from everview.pipeline.streaming.segments.covered import Covered
from everview.pipeline.streaming.segments.policy import Segments


@dataclass
class SegmentedWalk:
    """One stream's. atlas: None before the first chunk. recent: the last frames that were written,
    as many as `policy.replayed`; none without segments."""

    policy: Segments
    run: Path
    atlas: Atlas | None = None
    recent: list[Frame] = field(default_factory=list)

    def ends(self, chunk: Sequence[Frame]) -> dict[str, Any] | None:
        """The facts of a segment that ends before a chunk: `because` the chunk is beyond the reach,
        or beyond the span. None where it goes on."""
        if self.atlas is None:
            return None
        now = self.atlas.current
        cameras = [frame.camera for frame in chunk if frame.camera is not None]
        distance = distance_from_origin(cameras, now.gauge)
        facts = {"distance": distance, "views": now.covered.seen}
        if 0 < self.policy.reach < distance:
            return {"because": "reach", **facts}
        is_timed = any(frame.time_s is not None for frame in chunk)
        if is_timed and 0 < self.policy.span < now.covered.seen + len(chunk):
            return {"because": "span", **facts}
        return None

    def seam(self) -> list[list[Frame]]:
        """What the next segment sees again, in runs of one size, in order."""
        runs = groupby(self.recent, key=lambda frame: frame.image.shape)
        return [list(frames) for _, frames in runs]

    def begin(self, gauge: Gauge, chunk: int, ended: SceneState | None) -> None:
        """A segment begins with the stream's chunk of this number; `ended`: the state before, which
        is archived. Raises TryAgain when the disk is full."""
        segments: tuple[Segment, ...] = ()
        covered = Covered()
        if self.atlas is not None and ended is not None:
            closed = replace(self.atlas.current, chunks=(self.atlas.current.chunks[0], chunk))
            segments = (*self.atlas.archived, archive(self.run, closed, ended))
            covered = covered.joined(self.recent)
        cpu = gauge.to("cpu")
        moves = self.policy.span > 0
        now = Segment(len(segments), cpu, covered, (chunk, chunk), moves=moves)
        self.atlas = Atlas((*segments, now))

    def wrote(self, chunk: Sequence[Frame], number: int) -> None:
        """The stream's chunk of this number is in the state."""
        assert self.atlas is not None
        if not self.policy.is_on:
            return
        now = self.atlas.current
        covered = now.covered.joined(chunk)
        now = replace(now, covered=covered, chunks=(now.chunks[0], number + 1))
        self.atlas = Atlas((*self.atlas.archived, now))
        kept = self.policy.replayed
        self.recent = [*self.recent, *chunk][-kept:] if kept else []

    def to_facts(self) -> list[dict[str, Any]]:
        """Of all segments, for run.json and metrics.json; one without segments says nothing."""
        if not self.policy.is_on or self.atlas is None:
            return []
        return [segment.to_facts() for segment in self.atlas.segments]

    # --- snapshots ---

    def start_over(self) -> None:
        """Remove what an attempt without a snapshot has archived."""
        drop_unnamed(self.run, ())

    def snapshot_facts(self) -> dict[str, Any]:
        """JSON-compatible; `to_tensors` has the rest. `files`: without them a snapshot is none."""
        assert self.atlas is not None
        now = self.atlas.current
        return {
            "files": [segment.file for segment in self.atlas.archived],
            "chunks": list(now.chunks),
            "seen": now.covered.seen,
            "stride": now.covered.stride,
            "moves": now.moves,
            "runs": len(self.seam()),
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """The frames that the next segment would see again, and what the current one covers."""
        assert self.atlas is not None
        tensors = {"covered": torch.from_numpy(self.atlas.current.covered.rows)}
        for place, frames in enumerate(self.seam()):
            tensors |= with_prefix(str(place), frames_to_tensors(frames))
        return tensors

    def restore(
        self, facts: Mapping[str, Any] | None, tensors: dict[str, Tensor], gauge: Gauge
    ) -> None:
        """Go on from a snapshot; facts: None of one that was made before there were segments.
        Raises InputRejected for an archived segment that can't be read."""
        self.atlas = restored_atlas(self.run, facts, tensors, gauge)
        drop_unnamed(self.run, [segment.file or "" for segment in self.atlas.archived])
        runs = 0 if facts is None else int(facts["runs"])
        self.recent = [*_runs(tensors, runs)]


def restored_atlas(
    run: Path, facts: Mapping[str, Any] | None, tensors: dict[str, Tensor], gauge: Gauge
) -> Atlas:
    """The segments that a snapshot names, and the one it holds. Raises InputRejected."""
    cpu = gauge.to("cpu")
    if facts is None:
        return Atlas((Segment(0, cpu, Covered(), (0, 0)),))
    archived = tuple(read_segment(run, name) for name in facts["files"])
    covered = Covered(tensors["covered"].numpy(), int(facts["stride"]), int(facts["seen"]))
    first, end = facts["chunks"]
    moves = bool(facts.get("moves", False))
    now = Segment(len(archived), cpu, covered, (int(first), int(end)), moves=moves)
    return Atlas((*archived, now))


def _runs(tensors: dict[str, Tensor], count: int) -> Iterator[Frame]:
    for place in range(count):
        yield from frames_from_tensors(under_prefix(str(place), tensors))
