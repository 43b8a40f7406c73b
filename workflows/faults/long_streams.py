"""Rows of the fault matrix about what lasts long or presses: slow viewers, full stores, hours."""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from everview.workflows.faults.trial import demand, start

_PATIENCE_S = 3600.0
_LONG = (sys.executable, "-m", "everview.pipeline.benchmarks.long_stream")
_PRESSED = (sys.executable, "-m", "everview.workflows.faults.pressed")
_ROUNDS, _DRAWN, _WARM = 8, 48, 64


def slow_viewer(seed: int, folder: Path) -> float:
    """Row 15. Spans of a stream with a viewer that looks at each picture for ten times as long as
    it took to draw, and spans without, in turn, so that both share whatever disturbs them: of the
    time of a frame, medians over the spans. A span is once along the path and back: every one has
    the same frames, some of which cost the gate a look into the memory."""
    import torch

    from everview.pipeline.benchmarks.long_stream.__main__ import open_weights
    from everview.pipeline.benchmarks.long_stream.asking import Asking
    from everview.pipeline.benchmarks.long_stream.looped import LoopedCapture
    from everview.pipeline.streaming.memory_use import resident_mib
    from everview.pipeline.streaming.policies import StreamPolicies
    from everview.pipeline.streaming.session import Session, World

    began = time.monotonic()
    torch.set_num_threads(1)
    capture = LoopedCapture("room", seed, _WARM + 4 * _ROUNDS * _DRAWN, 64, _DRAWN)
    out = folder / f"slow-{seed}"
    out.mkdir()
    session = Session(open_weights("tiny", "cpu"), StreamPolicies(), out, World("metric"))
    frames = iter(capture)
    for _ in range(_WARM):
        session.push(next(frames))
    first_mib = resident_mib()
    taken: dict[bool, list[float]] = {True: [], False: []}
    views = 0
    for count in range(2 * _ROUNDS):
        is_watched = count % 2 == 1
        asking = Asking(session, lambda n: capture.camera(7 * n), 1000.0, slowness=10)
        with asking if is_watched else nullcontext():
            before = time.monotonic()
            for _ in range(capture.period):
                session.push(next(frames))
            taken[is_watched].append((time.monotonic() - before) / capture.period)
        views += asking.got
    session.finish()
    share = statistics.median(taken[False]) / statistics.median(taken[True])
    growth = resident_mib() / first_mib - 1
    said = (
        f"{share:.1%} of {1 / statistics.median(taken[False]):.1f} frames/s with {views} views "
        f"drawn; resident memory {growth:+.1%}"
    )
    print(said, file=sys.stderr, flush=True)
    demand(views > 0, "nothing was looked at")
    demand(share >= 0.9, said)
    demand(growth < 0.1, said)
    return time.monotonic() - began


def small_object_store(seed: int, folder: Path) -> float:
    """Row 17. Blocks of scenes, 24 MiB each, to a trainer that is slower than its two makers."""
    began = time.monotonic()
    attempt = start([str(seed)], folder / f"pressed-{seed}.log", _PRESSED)
    code = attempt.wait(_PATIENCE_S)
    demand(code == 0, f"exit code {code}: {attempt.said()[-400:]}")
    print(attempt.said().strip().splitlines()[-1], file=sys.stderr, flush=True)
    return time.monotonic() - began


def twenty_thousand_frames(seed: int, folder: Path, frames: int = 20_000) -> float:
    """Row 18. One stream, its windows compared with the one after frame 200."""
    began = time.monotonic()
    result = folder / f"long-{seed}.json"
    words = {"frames": frames, "size": 32, "weights": "tiny", "drawn": 120, "seed": seed,
             "device": "cpu", "threads": 1, "out": result}  # fmt: skip
    flags = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
    attempt = start(flags, folder / f"long-{seed}.log", _LONG)
    code = attempt.wait(_PATIENCE_S)
    demand(code == 0, f"exit code {code}: {attempt.said()[-400:]}")
    rows: list[dict[str, Any]] = json.loads(result.read_text())["rows"]
    first = rows[0]
    said = "; ".join(
        f"{row['frame']}: {row['rss_mib']:.1f} MiB, state {row['state_mib']:.3f} MiB, "
        f"{row['cpu_ms_per_frame']:.2f} ms a frame, {row['files']} files, {row['threads']} threads"
        for row in rows
    )
    print(said, file=sys.stderr, flush=True)
    for row in rows[1:]:
        demand(row["rss_mib"] < 1.1 * first["rss_mib"], said)
        demand(row["state_mib"] < 1.1 * first["state_mib"], said)
        demand(row["cpu_ms_per_frame"] < 1.15 * first["cpu_ms_per_frame"], said)
        demand(row["files"] <= first["files"] + 2 and row["threads"] <= first["threads"] + 2, said)
    return time.monotonic() - began
