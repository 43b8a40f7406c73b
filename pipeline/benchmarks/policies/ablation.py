"""Every policy streams the same loops, alone, and is compared with a stream without any.

A stream ends where its first region comes next. Then held-out views, with and without the frame
bank, are drawn of the last region and, at the times when it was seen, of the first: what is left of
what was learned first. No frame of a lap is shown twice, so nothing here is a copy.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.captures import Frame
from everview.models.scene_model import SceneModel
from everview.pipeline.benchmarks.policies.loops import Loop
from everview.pipeline.runs import library_versions
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.runs.provenance import code_identity, describe_device, describe_host
from everview.pipeline.streaming.commit import Commit
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.replay import Replay
from everview.pipeline.streaming.retention import image_psnr
from everview.pipeline.streaming.segments.policy import Segments
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.surprise import Surprise

BASE = "as trained"
POLICIES: Mapping[str, Mapping[str, Any]] = {
    BASE: {},
    "step 1": {"commit": Commit(step="constant", step_size=1.0)},
    "step 0.3": {"commit": Commit(step="constant", step_size=0.3)},
    "step 1/sqrt(n), floor 0.5": {"commit": Commit(step="inverse-sqrt", step_size=0.5)},
    "surprise of the memory": {"surprise": Surprise(of="memory")},
    "surprise of the picture": {"surprise": Surprise(of="picture")},
    "replay 4 frames, every chunk": {"replay": Replay(frames=4, every=1)},
    "replay 8 frames, every 2nd chunk": {"replay": Replay(frames=8, every=2)},
    "replay 8 frames, drift of 0.2 dB held": {"replay": Replay(frames=8, tolerated_db=0.2)},
    "elastic si, ema, pull 0.5 (LaCET)": {"commit": Commit(elastic="si")},
    "elastic mas, ema, pull 16": {"commit": Commit(elastic="mas", pull=16.0)},
    "elastic mas, fixed, pull 4": {"commit": Commit(elastic="mas", anchor="fixed", pull=4.0)},
}
COLUMNS = ("policy", "last", "first", "memory last", "memory first", "foreseen",
           "foreseen, memory", "most forgotten", "half-life", "CPU ms a chunk")  # fmt: skip
_REGION_FRAMES = 8
_SHOWN = COLUMNS[1:7]


@dataclass(frozen=True)
class Row:
    """One stream. PSNR in dB of held-out views of the last and the first region, of the picture and
    of the memory alone, and prequential; most_forgotten_db: the farthest that retention fell under
    its first value; half_life: in chunks, None if it never halved; cpu_ms: of a processor, of all
    of a chunk; told: what the policy did."""

    policy: str
    loop: str
    chunks: int
    last_db: float
    first_db: float
    last_memory_db: float
    first_memory_db: float
    foreseen_db: float
    foreseen_memory_db: float
    most_forgotten_db: float
    half_life: float | None
    cpu_ms: float
    rejected: int
    told: Mapping[str, Any] = field(default_factory=dict)

    def scores(self) -> tuple[float, ...]:
        """As `COLUMNS`, those in dB that more is better of."""
        return (self.last_db, self.first_db, self.last_memory_db, self.first_memory_db,
                self.foreseen_db, self.foreseen_memory_db)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Walk:
    """A loop's frames, rendered once for all policies."""

    loop: Loop
    written: list[Frame]
    first: list[Frame]
    last: list[Frame]

    @staticmethod
    def of(loop: Loop) -> Walk:
        """Render a loop."""
        end = loop.num_frames - _REGION_FRAMES
        region = loop.held_out(0, _REGION_FRAMES), loop.held_out(end, _REGION_FRAMES - 1)
        return Walk(loop, loop.written(), *region)


def stream_walk(name: str, policies: Mapping[str, Any], walk: Walk, model: SceneModel) -> Row:
    """One row."""
    with tempfile.TemporaryDirectory() as out:
        # one memory for the whole walk: a segment's would not forget what another's holds
        rest: dict[str, Any] = {"prequential": Prequential(2), "segments": Segments(reach=0)}
        chosen = StreamPolicies(**rest, **policies)
        session = Session(model, chosen, Path(out), World("metric"))
        begin = time.process_time()
        for frame in walk.written:
            session.push(frame)
        session.finish()
        cpu_s = time.process_time() - begin
        last, first = (_scores(session, frames) for frames in (walk.last, walk.first))
        curve = session.retention.curve.values
        return Row(
            policy=name,
            loop=walk.loop.name,
            chunks=session.num_chunks,
            last_db=last[0],
            first_db=first[0],
            last_memory_db=last[1],
            first_memory_db=first[1],
            foreseen_db=session.foresight.picture_db,
            foreseen_memory_db=session.foresight.memory_db,
            most_forgotten_db=curve[0] - min(curve),
            half_life=session.retention.half_life()[0],
            cpu_ms=1e3 * cpu_s / session.num_chunks,
            rejected=session.counts["rejected"],
            told=session.learning.told(),
        )


def _scores(session: Session, frames: Sequence[Frame]) -> tuple[float, float]:
    """PSNR of the picture and of the memory alone, means over views."""
    cameras, times = [f.camera for f in frames], [f.time_s for f in frames]
    views = session.published.renderer.render(cameras, times, True)
    pairs = [
        (image_psnr(view.image, frame.image), image_psnr(view.memory_image, frame.image))
        for view, frame in zip(views, frames, strict=True)
    ]
    picture, memory = np.mean(pairs, axis=0)
    return float(picture), float(memory)


def run_ablation(
    model: SceneModel,
    weights: str,
    loops: Sequence[Loop],
    out: Path | None,
    say: Callable[[str], None],
    only: str = "",
) -> dict[str, Any]:
    """Every policy whose name begins with `only`, and the base, on every loop; the report as JSON,
    also in the file `out` after every row. Rows that are there already are kept and not repeated.
    """
    known = json.loads(out.read_text("utf-8"))["rows"] if out is not None and out.exists() else []
    rows = [Row(**row) for row in known]
    report = {**_circumstances(model, weights), "loops": [asdict(loop) for loop in loops]}
    chosen = [name for name in POLICIES if name == BASE or name.startswith(only)]
    done = {(row.policy, row.loop) for row in rows}
    for loop in loops:
        left = [name for name in chosen if (name, loop.name) not in done]
        walk = Walk.of(loop) if left else None
        for name in left:
            assert walk is not None
            rows.append(stream_walk(name, POLICIES[name], walk, model))
            say(f"{loop.name}: " + " | ".join(cells([rows[-1]], [])))
            if out is not None:
                write_json(out, _with_rows(report, rows))
    return _with_rows(report, rows)


def _with_rows(report: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The report with its rows in the order of the policies."""
    order = list(POLICIES)
    ordered = sorted(rows, key=lambda row: (row.loop, order.index(row.policy)))
    return {**report, "load_after": round(os.getloadavg()[0], 2),
            "rows": [asdict(row) for row in ordered]}  # fmt: skip


def _circumstances(model: SceneModel, weights: str) -> dict[str, Any]:
    return {
        "card": describe_device(model.device)["name"],
        "host": describe_host(),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "code": code_identity()["revision"],
        "date": datetime.date.today().isoformat(),
        "weights": weights,
        "step": repr(model.config.step),
        "elastic": repr(model.config.elastic),
    }


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Means over the loops that a policy and the base both have; dB as differences to the base."""
    rows = [Row(**row) for row in report["rows"]]
    table = []
    for name in POLICIES:
        ours = [row for row in rows if row.policy == name]
        loops = {row.loop for row in ours}
        base = [row for row in rows if row.policy == BASE and row.loop in loops]
        if ours and len(base) == len(ours):
            table.append(cells(ours, [] if name == BASE else base))
    return table


def cells(rows: Sequence[Row], base: Sequence[Row]) -> tuple[str, ...]:
    """As `COLUMNS`: means over rows of one policy; less those of `base`, if there are any."""
    scores = np.mean([row.scores() for row in rows], axis=0)
    if base:
        scores = scores - np.mean([row.scores() for row in base], axis=0)
    halved = [row.half_life for row in rows if row.half_life is not None]
    half_life = f"{np.mean(halved):.1f} ({len(halved)} of {len(rows)})" if halved else "none"
    return (
        rows[0].policy,
        *(f"{score:+.2f}" if base else f"{score:.2f}" for score in scores),
        f"{np.mean([row.most_forgotten_db for row in rows]):.2f}",
        half_life,
        f"{np.mean([row.cpu_ms for row in rows]):.0f}",
    )
