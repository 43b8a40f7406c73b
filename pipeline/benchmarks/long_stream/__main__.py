"""`python -m everview.pipeline.benchmarks.long_stream`: see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from everview.models import config as models
from everview.models.scene_model import SceneModel
from everview.pipeline.benchmarks.command import command
from everview.pipeline.benchmarks.long_stream.asking import Asking
from everview.pipeline.benchmarks.long_stream.looped import LoopedCapture
from everview.pipeline.benchmarks.long_stream.measuring import (
    LongStreamReport,
    Meter,
    load_average,
)
from everview.pipeline.benchmarks.results import WrongResult
from everview.pipeline.errors import UsageError
from everview.pipeline.runs import write_json
from everview.pipeline.runs.frames import frame_rows
from everview.pipeline.streaming.feeder import Feeder
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.preparing import prepared
from everview.pipeline.streaming.scenes import choose_device, open_model
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.sources.captured import CapturedSource

RANDOM = {"tiny": models.tiny, "base15m": models.base15m, "base33m": models.base33m}
MARKS = (200, 1000, 2000, 5000, 10_000, 20_000)
_SAY_EVERY_S = 30.0


@dataclass(frozen=True)
class Setting:
    """What is streamed. weights: published, a folder, or random ones of a configuration."""

    frames: int = 10_000
    size: int = 64
    weights: str = "base"
    device: str = "auto"
    world: str = "room"
    seed: int = 3
    drawn: int = 400
    window: int = 400
    chunk_frames: int = 8
    retention_views: int = 2
    prequential_views: int = 1
    snapshot_every_s: float = 20.0
    viewer: float = 0.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.frames < MARKS[0] + 2 * self.window:
            raise UsageError(
                f"frames {self.frames}: at least {MARKS[0] + 2 * self.window}, for two windows of "
                f"{self.window} after frame {MARKS[0]}"
            )
        if not 0 <= self.viewer <= 1000:
            raise UsageError(f"viewer {self.viewer}: 0 to 1,000 views a second")

    def marks(self) -> list[int]:
        """Where windows begin; the last one is the end of the stream, and none overlap."""
        last = self.frames - self.window
        apart = [mark for mark in MARKS if mark + self.window <= last]
        return [*apart, last]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="long_stream", description="What a long stream costs.")
    told = {
        "frames": "length of the stream", "size": "pixels of the square frames",
        "weights": f"published, a folder, or random ones: {', '.join(RANDOM)}",
        "device": "auto, cpu, cuda", "world": "room, tabletop or orbit", "seed": "of the scene",
        "drawn": "different frames; the stream goes there and back along them",
        "window": "frames that are compared after each mark",
        "chunk-frames": "as in everview stream", "retention-views": "as in everview stream",
        "prequential-views": "as in everview stream", "snapshot-every-s": "as in everview stream",
        "viewer": "views a second that somebody asks for meanwhile",
    }  # fmt: skip
    for name, text in told.items():
        default = getattr(Setting, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument("--threads", type=int, help="torch threads; torch's own number without")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--run", type=Path, help="a new folder for the stream's files")
    given = vars(parser.parse_args(words))
    out, run, threads = given.pop("out"), given.pop("run"), given.pop("threads")
    if threads is not None:
        torch.set_num_threads(threads)
    setting = Setting(**given)
    with ExitStack() as stack:
        if run is None:
            run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="everview-long-")))
        run.mkdir(parents=True, exist_ok=True)
        report = measure(setting, run, lambda so_far: _write(out, so_far))
    _write(out, report)
    print(report.table())
    print("\n" + report.circumstances())
    return 0


def _write(out: Path | None, report: LongStreamReport) -> None:
    if out is not None:
        write_json(out, report.as_json())


def open_weights(name: str, device: str) -> SceneModel:
    """Published ones or a folder's, or random ones of a configuration, on the device."""
    if name not in RANDOM:
        return open_model(name, device)
    torch.manual_seed(0)
    model = SceneModel(RANDOM[name]()).eval().requires_grad_(False)
    return model.to(choose_device(device))


def measure(
    setting: Setting, run: Path, on_window: Callable[[LongStreamReport], None] = lambda _: None
) -> LongStreamReport:
    """Stream it all. on_window: told what is known whenever a window ends, so that a stream that is
    cut short leaves its rows. Raises WrongResult when the stream isn't what it should be."""
    load = load_average()
    model = open_weights(setting.weights, setting.device)
    capture = LoopedCapture(
        setting.world, setting.seed, setting.frames, setting.size, setting.drawn, model.device
    )
    policies = StreamPolicies(
        chunk_frames=setting.chunk_frames,
        retention_views=setting.retention_views,
        prequential=Prequential(setting.prequential_views),
        snapshot_every_s=setting.snapshot_every_s,
    )
    session = Session(model, policies, run, World(capture.info.scale), setting.weights)
    meter = Meter(setting.marks(), setting.window, model.device)
    began = time.monotonic()
    asking: Asking | None = None

    def so_far() -> LongStreamReport:
        seconds, seen = time.monotonic() - began, session.num_seen
        stream = {
            "source": capture.info.source,
            "frames": seen,
            "counts": session.account(),
            "frames_per_s": seen / seconds,
            "prequential": session.foresight.to_facts(),
            "viewer": None if asking is None else asking.to_facts(seconds),
        }
        rows, loads = meter.rows(frame_rows(run)), (load, load_average())
        return LongStreamReport(rows, vars(setting), stream, model.device, loads)

    with ExitStack() as stack:
        if setting.viewer:
            asking = Asking(session, lambda n: capture.camera(7 * n), setting.viewer)
            stack.enter_context(asking)
        feeder = stack.enter_context(
            Feeder(
                CapturedSource(capture),
                lambda frame: prepared(frame, setting.size, model.config.patch),
            )
        )
        said = began
        for arrival in feeder.arrivals():
            session.receive(arrival)
            at = time.monotonic()
            if session.snapshot_if_due():
                meter.commits_ms.append(1e3 * (time.monotonic() - at))
            views = None if asking is None else asking.got
            if meter.step(session.num_seen, session.state_mib, views):
                on_window(so_far())
            if at - said > _SAY_EVERY_S:
                said = at
                print(f"{session.num_seen} frames", file=sys.stderr, flush=True)
        report = so_far()
    session.finish()
    session.snapshot()
    counts = session.account()
    if session.num_seen != setting.frames or counts.get("accepted", 0) < 0.9 * setting.frames:
        raise WrongResult(f"of {setting.frames} frames {counts}: no number for such a stream")
    return report


if __name__ == "__main__":
    command("long_stream", main)
