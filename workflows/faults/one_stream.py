"""Rows of the fault matrix that one stream can meet: what a line does to frames."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from everview.workflows.faults.bad_line import (
    ABSENT,
    CORRUPT,
    SHAPES,
    Fault,
    Line,
    damaged,
    decoded,
)
from everview.workflows.faults.streamed import run
from everview.workflows.faults.trial import Attempt, demand, start

COUNT = 64
_WALK = 120
NONE = Fault()
PATIENCE_S = 900.0
"""Ten seconds of work on two idle cores; on busy ones, minutes."""
_PROGRAM = (sys.executable, "-m", "everview.workflows.faults.streamed")
# of a row in frames.parquet: what the clock and the machine say differs from run to run
_TIMED = ("latency_ms", "absorb_ms", "rss_mib", "psnr", "ssim", "lpips_alex", "laplacian_ratio")


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a finished stream left. rows: of the frames that were given to the model. rejected:
    numbers of those that the gate kept out."""

    state: bytes
    trajectory: bytes
    rows: tuple[str, ...]
    events: tuple[dict[str, Any], ...]
    counts: dict[str, int]
    psnr: float
    rejected: tuple[int, ...]

    @staticmethod
    def by(out: Path, has_numbers: bool = True) -> Streamed:
        """Of the run in `out`; has_numbers: with the numbers of its rows."""
        from everview.pipeline.runs import read_frames
        from everview.pipeline.streaming.events import read_events
        from everview.pipeline.streaming.trajectory import NAMES_NAME, ROWS_NAME

        commits = [path for path in (out / "snapshot").iterdir() if path.name[:1].isdigit()]
        last = max(commits, key=lambda path: tuple(map(int, path.name.split("-"))))
        left_out = _TIMED if has_numbers else (*_TIMED, "sequence", "id")
        inputs = [row for row in read_frames(out) if row["role"] == "input"]
        rows = [
            json.dumps({k: v for k, v in row.items() if k not in left_out})
            for row in inputs
            if row["gate"] in ("accepted", "rectified")
        ]
        metrics = json.loads((out / "metrics.json").read_text())
        return Streamed(
            (last / "state.safetensors").read_bytes(),
            (out / ROWS_NAME).read_bytes() + (out / NAMES_NAME).read_bytes(),
            tuple(rows),
            tuple(read_events(out)),
            metrics["details"]["counts"],
            metrics["psnr"],
            tuple(int(row["sequence"]) for row in inputs if row["gate"] == "rejected"),
        )

    def demand_effect(self, other: Streamed) -> None:
        """Raise Unmet unless the frames had the effect that they have in `other`, bit for bit."""
        demand(self.rows == other.rows, "the frames' rows differ")
        demand(self.trajectory == other.trajectory, "the trajectories differ")
        demand(self.state == other.state, "rows and trajectories are equal, the states differ")

    def demand_counts(self, **expected: int) -> None:
        """Raise Unmet unless these are the counts."""
        found = {name: self.counts.get(name, 0) for name in expected}
        demand(found == expected, f"counted {found}, not {expected}")


def capture(folder: Path) -> Path:
    """A procedural room on disk, made once beside `folder`, for all rows."""
    from PIL import Image

    from everview.datasets.opening import open_capture
    from everview.datasets.writers.posed_image import PosedImage
    from everview.datasets.writers.transforms_json import write_transforms_json

    made = folder.parent / "capture"
    if not (made / "transforms.json").exists():
        made.mkdir()
        images = []
        for frame in open_capture(f"procedural://room?seed=3&frames={COUNT}&size=64"):
            name = f"{frame.index:05d}.png"
            Image.fromarray(frame.image).save(made / name)
            assert frame.camera is not None
            images.append(PosedImage(name, frame.camera, frame.time_s))
        write_transforms_json(made / "transforms.json", images, "metric")
    return made


def told(
    folder: Path, name: str, fault: Fault = NONE, seed: int = 0, **more: Any
) -> dict[str, Any]:
    """What `streamed.py` is told: the capture over a line into folder/name."""
    return {
        "capture": str(capture(folder)), "out": str(folder / name), "count": COUNT,
        "seed": seed, "fault": asdict(fault), **more,
    }  # fmt: skip


def stream(folder: Path, name: str, *args: Any, **more: Any) -> Attempt:
    """That, in a process of its own, which is not waited for."""
    words = [json.dumps(told(folder, name, *args, **more))]
    return start(words, folder / f"{name}.log", _PROGRAM)


def streamed(folder: Path, name: str, *args: Any, **more: Any) -> Streamed:
    """That, in this process and to its end: nothing is killed."""
    what = told(folder, name, *args, **more)
    run(what)
    return Streamed.by(Path(what["out"]))


def clean(folder: Path, size: int = 32) -> Streamed:
    """The same capture over a good line; made once beside `folder`, for all rows."""
    name = f"clean-{size}"
    if not (folder.parent / name / "metrics.json").exists():
        return streamed(folder, name, out=str(folder.parent / name), size=size)
    return Streamed.by(folder.parent / name)


def lines_of(fault: Fault, seed: int) -> Line:
    """What will be sent."""
    return Line.of(fault, COUNT, seed)


def corrupt(share: float, seed: int, folder: Path) -> float:
    """Row 9. Packets with flipped bytes, or cut short: each that can't be decoded is counted and
    named, and the others have the effect that they have when those never came."""
    from everview.datasets.errors import DataError
    from everview.datasets.opening import open_capture

    began = time.monotonic()
    fault = Fault((CORRUPT,), share)
    found = streamed(folder, f"corrupt-{share:g}-{seed}", fault, seed)
    frames = list(open_capture(str(capture(folder))))
    unreadable = []
    for number in sorted(lines_of(fault, seed).wrong):
        try:
            decoded(damaged(frames[number].image, number))
        except DataError:
            unreadable.append(number)
    found.demand_counts(received=COUNT, unreadable=len(unreadable), missing=0)
    named = [event["sequence"] for event in found.events if event["event"] == "unreadable"]
    demand(named == unreadable, f"named {named}, not {unreadable}")
    demand(bool(unreadable), "nothing was damaged enough")
    return time.monotonic() - began


def kept_out(seed: int, folder: Path) -> float:
    """Row 10. NaN, black, blank and frozen frames, 1 in 50 each: the state is finite, and bit for
    bit that of a line on which those frames never came."""
    began = time.monotonic()
    kinds = ("nan", "black", "blank", "frozen")
    found = streamed(folder, f"spoilt-{seed}", Fault(kinds, 0.02), seed)
    absent = streamed(folder, f"absent-{seed}", Fault((ABSENT,) * len(kinds), 0.02), seed)
    compared = sum(number % 8 == 0 for number in lines_of(Fault(kinds, 0.02), seed).wrong)
    wrong = len(lines_of(Fault(kinds, 0.02), seed).wrong)
    found.demand_counts(received=COUNT, missing=0)
    refused = found.counts.get("rejected", 0)
    demand(
        wrong - compared <= refused <= wrong,
        f"{refused} were refused of {wrong}, {compared} of them held out",
    )
    demand(_is_finite(found.state), "the state is not finite")
    demand(found.state == absent.state, "the state is not that of a line without those frames")
    demand(found.rows == absent.rows, "the rows are not those of a line without those frames")
    return time.monotonic() - began


def mended(seed: int, folder: Path) -> float:
    """Row 10b. Blurred frames and exposure jumps, 1 in 25 each: the held-out views are as good,
    within 0.3 dB, as when the blurred frames, which nothing mends, and those that were rejected
    never came and all others came whole; and no worse than with the gate open."""
    began = time.monotonic()
    fault = Fault(("blurred", "dark", "reddish"), 0.04)
    found = streamed(folder, f"mended-{seed}", fault, seed, size=64)
    ungated = streamed(folder, f"ungated-{seed}", fault, seed, ungated=True, size=64)
    soft = {n for n, kind in lines_of(fault, seed).wrong.items() if kind == "blurred"}
    lost = tuple(sorted(soft | set(found.rejected)))
    spared = streamed(folder, f"spared-{seed}", Fault(lost=lost), seed, size=64)
    changed = found.counts.get("rectified", 0) + len(found.rejected)
    said = (
        f"{found.psnr:.2f} dB gated, {ungated.psnr:.2f} ungated, {spared.psnr:.2f} without blurred "
        f"and rejected frames, {clean(folder, 64).psnr:.2f} without faults; "
        f"{found.counts.get('rectified', 0)} rectified, {len(found.rejected)} rejected"
    )
    print(said, file=sys.stderr, flush=True)
    demand(changed > 0, f"nothing was noticed: {said}")
    demand(found.psnr >= spared.psnr - 0.3, said)
    demand(found.psnr >= ungated.psnr, said)
    return time.monotonic() - began


def clean_captures(seed: int, folder: Path) -> float:
    """Row 10c. Real captures without faults: none of their frames is doubted."""
    from everview.datasets.opening import open_capture
    from everview.pipeline.streaming.gate.thresholds import GateThresholds
    from everview.pipeline.streaming.gate.write_gate import WriteGate
    from everview.pipeline.streaming.preparing import prepared

    began = time.monotonic()
    root = Path(os.environ.get("EVERVIEW_DATA", "../shared/data"))
    name, size = [(n, s) for n in ("fox", "hololens60", "gso_toy") for s in (128, 256)][seed % 6]
    demand((root / name).is_dir(), f"{root / name} isn't there: set EVERVIEW_DATA")
    gate = WriteGate(GateThresholds())

    def doubted(frame: Any) -> None:
        raise AssertionError(f"the gate asked the memory about {frame.name}")

    for frame in open_capture(str(root / name)):
        verdict = gate.judge(prepared(frame, size, 8), doubted).verdict
        demand(verdict.kind == "accepted", f"{name} at {size} px: {frame.name} {verdict}")
    return time.monotonic() - began


def clean_walks(seed: int, folder: Path) -> float:
    """Row 10d. Procedural rooms without faults, whose walls differ more than real ones do: at most
    1 frame in 100 is kept out by a gate that has no memory to ask."""
    from everview.datasets.opening import open_capture
    from everview.pipeline.streaming.gate.thresholds import GateThresholds
    from everview.pipeline.streaming.gate.write_gate import WriteGate

    began = time.monotonic()
    gate, kept_out = WriteGate(GateThresholds()), []
    for frame in open_capture(f"procedural://room?seed={seed}&frames={_WALK}&size=64"):
        verdict = gate.judge(frame, lambda frame: None).verdict
        if not verdict.is_written:
            kept_out.append(f"{frame.name} {verdict}")
    demand(len(kept_out) <= 0.01 * _WALK, f"{len(kept_out)} of {_WALK}: {kept_out[:8]}")
    return time.monotonic() - began


def disordered(seed: int, folder: Path) -> float:
    """Row 11. A tenth twice, all off by up to 8 places: rows, trajectory and state of a good line,
    bit for bit, and every duplicate counted."""
    began = time.monotonic()
    fault = Fault(duplicates=0.1, reorder=8)
    found = streamed(folder, f"disorder-{seed}", fault, seed)
    found.demand_effect(clean(folder))
    twice = round(0.1 * COUNT)
    found.demand_counts(received=COUNT + twice, duplicate=twice, late=0, gaps=0, missing=0)
    return time.monotonic() - began


def late(seed: int, folder: Path) -> float:
    """Row 11b. Frames later than any window: counted, named, and without effect."""
    began = time.monotonic()
    found = streamed(folder, f"late-{seed}", Fault(late=3), seed)
    found.demand_counts(received=COUNT, late=3, missing=3, duplicate=0)
    missed = [event for event in found.events if event["event"] == "gap"]
    gaps = [number for gap in missed for number in range(gap["first"], gap["last"] + 1)]
    came = sorted(event["sequence"] for event in found.events if event["event"] == "late")
    demand(sorted(gaps) == came, f"gaps at {gaps}, late {came}")
    return time.monotonic() - began


def time_gaps(seed: int, folder: Path) -> float:
    """Row 12. The clock jumps ahead by 0.1, 1 and 10 s, and back once: two gaps and a step back are
    named with their frames, and 0.1 s is no gap."""
    began = time.monotonic()
    fault = Fault(gaps_s=(0.1, 1.0, 10.0))
    found = streamed(folder, f"clock-{seed}", fault, seed, is_timed=True)
    times = lines_of(fault, seed).times
    steps = {n: round(times[n] - times[n - 1], 3) for n in range(1, COUNT)}
    expected = {n: "time backwards" if s < 0 else "time gap" for n, s in steps.items()
                if s < 0 or s > 1}  # fmt: skip
    named = {event["sequence"]: event["event"] for event in found.events}
    demand(named == expected, f"named {named}, not {expected}")
    return time.monotonic() - began


def changed_shape(seed: int, folder: Path) -> float:
    """Row 13. The resolution or the orientation changes four times: every frame is written, each
    change ends the chunk and is named with its frame, one state goes through all of it and is no
    larger than without changes, and the held-out views are within 0.5 dB of those where the same
    pictures, which show less of the room, come resampled to one size."""
    from safetensors.torch import load

    began = time.monotonic()
    fault = Fault(reshaped=4)
    found, whole = streamed(folder, f"shapes-{seed}", fault, seed), clean(folder)
    one_size = streamed(folder, f"one-size-{seed}", replace(fault, resampled=True), seed)
    line = lines_of(fault, seed)
    sizes = {number: _size_seen(line.shape_of(number)) for number in range(COUNT) if number % 8}
    found.demand_counts(received=COUNT, accepted=len(sizes), rejected=0)
    chunks, changes = _chunks_of_one_size(sizes)
    told = Counter(json.loads(row)["chunk"] for row in found.rows)
    demand([*told.values()] == chunks, f"chunks of {[*told.values()]} frames, not {chunks}")
    named = [e["sequence"] for e in found.events if e["event"] == "size changed"]
    demand(named == changes, f"named {named}, not {changes}")
    state, same = load(found.state), load(whole.state)
    demand(int(state["clock.chunks"]) == len(chunks), "not one state for all chunks")
    bytes_ = [sum(t.numel() * t.element_size() for t in each.values()) for each in (state, same)]
    demand(bytes_[0] == bytes_[1], f"a state of {bytes_[0]} bytes, {bytes_[1]} without changes")
    demand(_is_finite(found.state), "the state is not finite")
    said = (
        f"{found.psnr:.2f} dB, {one_size.psnr:.2f} resampled to one size, {whole.psnr:.2f} without "
        f"changes; {', '.join(line.shapes.values())}"
    )
    print(said, file=sys.stderr, flush=True)
    demand(found.psnr >= one_size.psnr - 0.5, said)
    return time.monotonic() - began


def _size_seen(shape: str | None) -> tuple[int, int]:
    """Of the capture's 64 px frames in this shape, as the model sees them at 32 px."""
    from everview.datasets.resampling import fitted_size

    across, down, _ = (1.0, 1.0, 1.0) if shape is None else SHAPES[shape]
    return fitted_size(int(64 * across), int(64 * down), 32)


def _chunks_of_one_size(sizes: dict[int, tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Lengths of the chunks that frames of these sizes make, and the numbers where they change."""
    chunks, changes = [0], []
    before: tuple[int, int] | None = None
    for number, size in sizes.items():
        if before is not None and size != before:
            changes.append(number)
        if chunks[-1] == 8 or (chunks[-1] and size != before):
            chunks.append(0)
        chunks[-1] += 1
        before = size
    return chunks, changes


def _is_finite(state: bytes) -> bool:
    from safetensors.torch import load

    layers = [tensor for name, tensor in load(state).items() if name.startswith("layers.")]
    return all(bool(tensor.isfinite().all()) for tensor in layers if tensor.is_floating_point())
