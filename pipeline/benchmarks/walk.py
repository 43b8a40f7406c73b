"""A long walk and back: is the first room answered as it was when it was live?

    python -m everview.pipeline.benchmarks.walk --frames 508 --reach 0 4 --out walk.json

The capture is `procedural://walk` (0.4 m of path a frame; 508 frames go 100 m out and back).
Judged are views between the frames, which nobody gave to the model: of the first room, when it was
live (at the first chunk after it was left), from the far end, and at the end of the way back; and
of all rooms, live and at the end. PSNR as `evaluate` has it; in brackets the memory alone. Rows
differ in `reach`, 0 being one segment for the whole walk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.procedural import open_procedural
from everview.datasets.procedural.capture import WalkCapture
from everview.models.scene_model import SceneModel
from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.benchmarks.command import command, markdown, say
from everview.pipeline.runs import describe_host, library_versions, write_json
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.retention import image_psnr
from everview.pipeline.streaming.scenes import open_model
from everview.pipeline.streaming.segments.policy import Segments
from everview.pipeline.streaming.session import Session, World

_ELSEWHERE = 2  # judged views of every room but the first
COLUMNS = ("reach", "segments", "room 1 live", "from the far end", "back", "lost", "all rooms live",
           "back", "ms/frame", "state MiB")  # fmt: skip


@dataclass
class Score:
    """Mean PSNR in dB of pictures, and of the memory alone, over some views."""

    picture_db: float
    memory_db: float

    def __str__(self) -> str:
        return f"{self.picture_db:.2f} ({self.memory_db:.2f})"


@dataclass
class Row:
    """One walk. lost_db: of the first room's pictures, from live to back."""

    reach: float
    segments: int
    first_live: Score
    first_far: Score
    first_back: Score
    all_live: Score
    all_back: Score
    ms_per_frame: float
    state_mib: float
    lost_db: float = field(init=False)

    def __post_init__(self) -> None:
        self.lost_db = self.first_live.picture_db - self.first_back.picture_db

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        scores = (self.first_live, self.first_far, self.first_back)
        return (f"{self.reach:g}", str(self.segments), *map(str, scores), f"{self.lost_db:+.2f}",
                str(self.all_live), str(self.all_back), f"{self.ms_per_frame:.0f}",
                f"{self.state_mib:.1f}")  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """Views by the number of the room that they are of."""

    frames: dict[int, list[Frame]]

    @staticmethod
    def of(capture: WalkCapture) -> Judged:
        """Half-way between frames of the way out: all in the first room, some in the others."""
        walk = capture.walk
        found: dict[int, list[tuple[int, Camera]]] = {room: [] for room in range(walk.rooms())}
        for index in range(len(capture) // 2 - 4):
            camera = walk.camera(index + 0.5, capture.url.size)
            found[walk.room_of(camera)].append((index, camera))
        frames = {}
        for room, places in found.items():
            most = len(places) if room == 0 else _ELSEWHERE
            spread = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
            frames[room] = [
                capture.at(places[i][1], places[i][0], (places[i][0] + 0.5) / 10) for i in spread
            ]
        return Judged(frames)

    def all(self) -> Iterator[Frame]:
        """Of all rooms."""
        for frames in self.frames.values():
            yield from frames


def score(session: Session, frames: Sequence[Frame]) -> list[tuple[float, float]]:
    """PSNR of each view's picture and memory."""
    cameras, times = [f.camera for f in frames], [f.time_s for f in frames]
    views = session.published.renderer.render(cameras, times, True)
    return [
        (image_psnr(view.image, frame.image), image_psnr(view.memory_image, frame.image))
        for view, frame in zip(views, frames, strict=True)
    ]


def mean(scores: Sequence[tuple[float, float]]) -> Score:
    """Over views."""
    return Score(*(float(value) for value in np.mean(scores, axis=0)))


def walked(
    model: SceneModel, frames: Sequence[Frame], judged: Judged, capture: WalkCapture,
    segments: Segments, chunk: int, out: Path,
) -> Row:  # fmt: skip
    """Stream the walk and judge it."""
    policies = StreamPolicies(
        chunk_frames=chunk, retention_views=0, prequential=Prequential(0), segments=segments
    )
    session = Session(model, policies, out, World("metric"))
    room, is_far = 0, False
    live: dict[int, list[tuple[float, float]]] = {}
    far: list[tuple[float, float]] = []
    spent = 0.0
    for frame in frames:
        begin = time.monotonic()
        session.push(frame)
        spent += time.monotonic() - begin
        assert frame.camera is not None
        if session.pending or not session.num_chunks:
            continue
        # a chunk has just been absorbed
        while room < capture.walk.room_of(frame.camera):
            live[room] = score(session, judged.frames[room])
            room += 1
        if not is_far and frame.index >= len(frames) // 2:
            is_far, far = True, score(session, judged.frames[0])
            live[room] = score(session, judged.frames[room])
    session.finish()
    back = {room: score(session, views) for room, views in judged.frames.items() if views}
    return Row(
        reach=segments.reach,
        segments=max(1, len(session.segments.to_facts())),
        first_live=mean(live[0]),
        first_far=mean(far),
        first_back=mean(back[0]),
        all_live=mean([one for room in back for one in live[room]]),
        all_back=mean([one for scores in back.values() for one in scores]),
        ms_per_frame=1e3 * spent / len(frames),
        state_mib=session.state_mib(),
    )


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    return markdown(COLUMNS, (row.cells() for row in rows))


def main(words: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m everview.pipeline.benchmarks.walk",
        description="a long walk and back, with and without segments",
    )
    parser.add_argument("--frames", type=int, default=108, help="508: 100 m out and back")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--reach", type=float, nargs="+", default=[0.0, Segments().reach])
    parser.add_argument("--replayed", type=int, default=Segments().replayed)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    given = parser.parse_args(words)
    url = f"procedural://walk?seed={given.seed}&frames={given.frames}&size={given.size}"
    capture = open_procedural(url)
    assert isinstance(capture, WalkCapture)
    walk = capture.walk
    say(f"{walk.reach_m:.0f} m out and back, {walk.rooms()} rooms: drawing {given.frames} frames")
    frames, judged = list(capture), Judged.of(capture)
    model = open_model(given.weights, given.device)
    rows: list[Row] = []
    for reach in given.reach:
        segments = Segments(reach=reach, replayed=given.replayed)
        with tempfile.TemporaryDirectory(prefix="everview-walk-") as folder:
            row = walked(model, frames, judged, capture, segments, given.chunk, Path(folder))
        rows.append(row)
        say(" ".join(row.cells()))
        if given.out is not None:
            write_json(given.out, _record(given, capture, rows))
    print(table(rows))
    return 0


def _record(given: argparse.Namespace, capture: WalkCapture, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "capture": str(capture.url),
        "path_out_m": capture.walk.reach_m,
        "rooms": capture.walk.rooms(),
        "weights": given.weights,
        "chunk_frames": given.chunk,
        "replayed": given.replayed,
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
        "host": describe_host(),
        "versions": library_versions(),
    }


if __name__ == "__main__":
    command("walk", main)
