"""A long stream of moving things: are its last frames drawn as its first were, and its first still?

    python -m everview.pipeline.benchmarks.moving --frames 1000 --span 0 64 --out moving.json

Captures are `procedural://WORLD?...&dynamic=true`, every 8th frame held out. Judged, at each view's
own time: the first hundred frames after a hundred; the last hundred at the end, and beside them the
same views by a stream of the last hundred alone; the first hundred at the end; and views that the
camera never had, of a moment seen from where it was one to four seconds before or after. PSNR as
`evaluate` has it; in brackets the memory alone. Rows differ in `span`, 0 being one state for all.
With `--still` nothing moves: what a span costs there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.captures import Frame
from everview.datasets.procedural.capture import ProceduralCapture, parse_procedural
from everview.datasets.procedural.rendering import render_views
from everview.datasets.procedural.trajectories import FRAMES_PER_S, draw_cameras
from everview.models.scene_model import SceneModel
from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.benchmarks.command import command, markdown, say
from everview.pipeline.benchmarks.walk import Score, mean, score
from everview.pipeline.runs import describe_host, library_versions, write_json
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.scenes import open_model
from everview.pipeline.streaming.segments.archive import FOLDER
from everview.pipeline.streaming.segments.policy import Segments
from everview.pipeline.streaming.session import Session, World

WINDOW = 100
_HOLD_OUT = 8
_CROSSED = 24
_ASIDE = (-40, -20, -10, 10, 20, 40)  # frames, of ten a second
COLUMNS = ("capture", "span", "segments", "first 100 of 100", "last 100", "alone", "first 100",
           "all held out", "crossed", "ms/frame", "ms at a seam", "disk MiB")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Moving:
    """A capture's frames, and views that its camera never had, drawn once for all rows."""

    url: str
    frames: list[Frame]
    crossed: list[Frame]

    @staticmethod
    def of(url: str) -> Moving:
        """Draw a capture."""
        capture = ProceduralCapture(parse_procedural(url))
        return Moving(url, list(capture), _crossed(capture))

    def held_out(self, start: int, stop: int) -> list[Frame]:
        """Of these frames, those that no stream is given."""
        return [frame for frame in self.frames[start:stop] if frame.index % _HOLD_OUT == 0]


@dataclass
class Row:
    """One stream. last_alone: the last frames' views by a stream of them alone. lost_db: of the
    last hundred to the first after a hundred. seam_ms: median of the chunks that begin a segment,
    plain_ms of the others."""

    capture: str
    span: int
    segments: int
    first_then: Score
    last: Score
    last_alone: Score
    first: Score
    every: Score
    crossed: Score
    ms_per_frame: float
    plain_ms: float
    seam_ms: float
    disk_mib: float
    lost_db: float = field(init=False)

    def __post_init__(self) -> None:
        self.lost_db = self.first_then.picture_db - self.last.picture_db

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        scores = (self.first_then, self.last, self.last_alone, self.first, self.every, self.crossed)
        seam = f"{self.seam_ms:.0f} (else {self.plain_ms:.0f})"
        return (self.capture, str(self.span), str(self.segments), *map(str, scores),
                f"{self.ms_per_frame:.0f}", seam, f"{self.disk_mib:.1f}")  # fmt: skip


def measure(model: SceneModel, moving: Moving, segments: Segments, chunk: int, out: Path) -> Row:
    """Three streams of a capture: its first hundred frames, its last, and all."""
    policies = StreamPolicies(
        chunk_frames=chunk, retention_views=0, prequential=Prequential(0), segments=segments
    )

    def streamed(name: str, frames: Sequence[Frame]) -> tuple[Session, list[float], list[float]]:
        (out / name).mkdir()
        session = Session(model, policies, out / name, World("metric"))
        plain: list[float] = []
        seams: list[float] = []
        for frame in frames:
            chunks, before = session.num_chunks, len(session.segments.to_facts())
            begin = time.monotonic()
            (session.push if frame.index % _HOLD_OUT else session.hold_out)(frame)
            spent = 1e3 * (time.monotonic() - begin)
            if session.num_chunks > chunks > 0:
                is_seam = len(session.segments.to_facts()) > before
                (seams if is_seam else plain).append(spent)
        session.finish()
        return session, plain, seams

    frames, count = moving.frames, len(moving.frames)
    early, late = moving.held_out(0, WINDOW), moving.held_out(count - WINDOW, count)
    then = mean(score(streamed("then", frames[:WINDOW])[0], early))
    alone = mean(score(streamed("alone", frames[count - WINDOW :])[0], late))
    begin = time.monotonic()
    session, plain, seams = streamed("all", frames)
    spent = time.monotonic() - begin
    files = (out / "all" / FOLDER).glob("*")
    return Row(
        capture=moving.url.removeprefix("procedural://"),
        span=segments.span,
        segments=max(1, len(session.segments.to_facts())),
        first_then=then,
        last=mean(score(session, late)),
        last_alone=alone,
        first=mean(score(session, early)),
        every=mean(score(session, moving.held_out(0, count))),
        crossed=mean(score(session, moving.crossed)),
        ms_per_frame=1e3 * spent / count,
        plain_ms=float(np.median(plain)),
        seam_ms=float(np.median(seams)) if seams else 0.0,
        disk_mib=sum(path.stat().st_size for path in files) / 2**20,
    )


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    return markdown(COLUMNS, (row.cells() for row in rows))


def main(words: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m everview.pipeline.benchmarks.moving",
        description="long streams of moving things, with and without segments in time",
    )
    parser.add_argument("--worlds", nargs="+", default=["tabletop", "orbit"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 1], help="one for each world")
    parser.add_argument("--frames", type=int, default=240, help="1000: the goal's length")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--still", action="store_true", help="nothing moves")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--span", type=int, nargs="+", default=[0, 64])
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    given = parser.parse_args(words)
    if len(given.seeds) != len(given.worlds):
        parser.error(f"{len(given.seeds)} seeds for {len(given.worlds)} worlds: one for each")
    if given.frames < 2 * WINDOW:
        parser.error(f"{given.frames} frames: at least {2 * WINDOW}, of which both ends are judged")
    model = open_model(given.weights, given.device)
    rows: list[Row] = []
    for world, seed in zip(given.worlds, given.seeds, strict=True):
        moves = str(not given.still).lower()
        url = f"procedural://{world}?seed={seed}&frames={given.frames}&size={given.size}"
        say(f"drawing {url}&dynamic={moves}")
        moving = Moving.of(f"{url}&dynamic={moves}")
        for span in given.span:
            segments = replace(Segments(), span=span)
            with tempfile.TemporaryDirectory(prefix="everview-moving-") as folder:
                rows.append(measure(model, moving, segments, given.chunk, Path(folder)))
            say(" ".join(rows[-1].cells()))
            if given.out is not None:
                write_json(given.out, _record(given, rows))
    print(table(rows))
    return 0


def _crossed(capture: ProceduralCapture) -> list[Frame]:
    """Moments of the capture from where its camera was some frames before or after."""
    most, size = max(_ASIDE), capture.url.size
    found = []
    for place, moment in enumerate(np.linspace(most, len(capture) - 1 - most, _CROSSED).round()):
        index = int(moment) + _ASIDE[place % len(_ASIDE)]
        lens = (1, size, size)
        cameras, _ = draw_cameras(capture.scene, *lens, trajectory="video", first_frame=index)
        time_s = torch.tensor([[moment / FRAMES_PER_S]], dtype=torch.float64)
        with torch.inference_mode():
            views = render_views(capture.scene, cameras, time_s, capture.samples_per_pixel)
        picture = (views.images[0, 0].numpy(), cameras.unbind()[0], float(time_s))
        found.append(Frame(int(moment), f"{int(moment):06d}", *picture))
    return found


def _record(given: argparse.Namespace, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "weights": given.weights,
        "chunk_frames": given.chunk,
        "replayed": Segments().replayed,
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
        "host": describe_host(),
        "versions": library_versions(),
    }


if __name__ == "__main__":
    command("moving", main)
