"""`python -m everview.workflows.faults`: run the matrix, print it, write it down."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import psutil

from everview.pipeline.runs.atomic import write_json
from everview.workflows.faults import (
    ended_stream,
    long_streams,
    one_process,
    one_stream,
    several_ranks,
)
from everview.workflows.faults.trial import Unmet

Run = Callable[[int, Path], float]


@dataclass(frozen=True)
class Row:
    """A fault: its number in the matrix, in words, how it is tried, and how often in full."""

    number: str
    fault: str
    must_hold: str
    run: Run
    seeds: int


ROWS = (
    Row("1", "SIGKILL of one of 2 workers, 1 to 3 times in 60 steps", "curve and weights of an "
        "unharmed run, bit for bit; a step again within 90 s", several_ranks.worker_killed, 20),
    Row("2", "SIGKILL at a touch of a file while committing", "the same",
        one_process.killed_while_committing, 60),
    Row("3", "SIGKILL of the driver of 2 workers", "workers die with it; the same",
        several_ranks.driver_killed, 5),
    Row("5", "2 workers, then 1 with micro-batches, then 2", "curve and weights, bit for bit",
        several_ranks.other_number_of_workers, 5),
    Row("6", "SIGTERM", "committed within 5 s, exit code 143", one_process.terminated, 20),
    Row("7", "a file of the newest commit truncated, flipped, empty or missing", "named, set "
        "aside, the commit before it used; curve and weights", one_process.damaged, 16),
    Row("7b", "every commit damaged", "exit code 3, twice", one_process.all_damaged, 3),
    Row("8", "a program in place of the weights", "it doesn't run", one_process.malicious, 3),
    Row("9", "stream: 5 % of the frames' files damaged", "finishes; exactly those that can't be "
        "decoded counted and named", partial(one_stream.corrupt, 0.05), 5),
    Row("9b", "stream: 20 % of them", "the same", partial(one_stream.corrupt, 0.2), 3),
    Row("10", "stream: NaN, black, blank, frozen frames, 1 in 50 each", "state finite, and that of "
        "a stream without them, bit for bit", one_stream.kept_out, 5),
    Row("10b", "stream: blurred, dark, reddish frames, 1 in 25 each", "held-out PSNR within 0.3 dB "
        "of a line that loses blurred and rejected frames and spoils none, and at least that of an "
        "open gate", one_stream.mended, 5),
    Row("10c", "stream: none, in fox, hololens60, gso_toy at 128 and 256 px", "no frame doubted or "
        "rejected", one_stream.clean_captures, 6),
    Row("10d", "stream: none, in procedural rooms", "at most 1 frame in 100 rejected",
        one_stream.clean_walks, 10),
    Row("11", "stream: 10 % duplicates, order off by up to 8", "rows, trajectory, state of a clean "
        "stream, bit for bit; duplicates counted", one_stream.disordered, 10),
    Row("11b", "stream: frames later than the window", "counted and named as gaps and as late",
        one_stream.late, 5),
    Row("12", "stream: clock ahead by 0.1, 1, 10 s, and back", "an event each but for 0.1 s, with "
        "its frame", one_stream.time_gaps, 5),
    Row("13", "stream: resolution or orientation changes at 4 frames", "every frame written, each "
        "change ends a chunk and is named; one state, no larger; PSNR within 0.5 dB of one size",
        one_stream.changed_shape, 5),
    Row("14", "stream: SIGKILL at a touch of a file, on a line with duplicates, disorder, damage",
        "rows, trajectory, state, events, bit for bit", ended_stream.killed, 20),
    Row("14b", "stream: the same, on a walk of several segments", "the same, and the same archived "
        "segments", ended_stream.killed_between_segments, 10),
    Row("15", "stream: a viewer that takes ten times as long to look as views take to draw",
        "at least 90 % of the frames/s without it; resident memory within 10 %",
        long_streams.slow_viewer, 5),
    Row("16", "disk full", "exit code 75; with room again, curve and weights",
        one_process.disk_full, 5),
    Row("16b", "stream: disk full", "exit code 75; with room again, rows, trajectory, state",
        ended_stream.stream_disk_full, 3),
    Row("17", "training fed by Ray Data: three times as many blocks as a store of 200 MiB holds",
        "no crash; every block once, in order, as made; memory bounded",
        long_streams.small_object_store, 3),
    Row("18", "stream: 200, 2,000, 20,000 frames", "resident memory and state within 10 %, "
        "processor time of a frame within 15 %", long_streams.twenty_thousand_frames, 1),
    Row("24", "a second run in the directory", "refused while the first lives",
        one_process.two_runs, 5),
    Row("25", "a rank hangs", "named in an error after its 10 s timeout, exit code 75",
        several_ranks.rank_hangs, 3),
)  # fmt: skip


@dataclass
class Result:
    """What became of a row: seeds tried, why some failed, seconds of those that held."""

    number: str
    fault: str
    must_hold: str
    seeds: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        times = ""
        if self.seconds:
            times = f"{statistics.median(self.seconds):.1f} / {max(self.seconds):.1f}"
        passed = f"{len(self.seeds) - len(self.failed)}/{len(self.seeds)}"
        return self.number, self.fault, self.must_hold, passed, times


HEAD = ("row", "fault", "must hold", "passed", "seconds, median / most")


def table(results: Sequence[Result]) -> str:
    """In Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *(result.cells() for result in results)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tried(row: Row, seeds: Sequence[int], folder: Path) -> Result:
    """A row with these seeds, one after the other; each is reported as it ends."""
    result = Result(row.number, row.fault, row.must_hold)
    folder.mkdir(parents=True)
    for seed in seeds:
        result.seeds.append(seed)
        began = time.monotonic()
        try:
            result.seconds.append(round(row.run(seed, folder), 2))
            said = f"held, {result.seconds[-1]:.1f} s"
        except Unmet as error:
            result.failed[seed] = str(error)
            said = f"NOT MET: {error}"
        print(f"row {row.number}, seed {seed}: {said} ({time.monotonic() - began:.0f} s in all)",
              file=sys.stderr, flush=True)  # fmt: skip
    return result


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m everview.workflows.faults",
                                     description="the fault matrix")  # fmt: skip
    numbers = [row.number for row in ROWS]
    parser.add_argument("--rows", nargs="*", choices=numbers, default=numbers,
                        help="none: only show the table in --out")  # fmt: skip
    parser.add_argument("--seeds", type=int, help="of every row; else each row's own number")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        help="write the results as JSON; rows that are there "
        "already and not tried again stay, so a matrix can be run in parts",
    )
    parser.add_argument("--keep", type=Path, help="a new folder for runs and logs")
    given = parser.parse_args(words)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="everview-faults-") as temporary:
        folder = given.keep or Path(temporary)
        for row in ROWS:
            if row.number in given.rows:
                seeds = range(given.first_seed, given.first_seed + (given.seeds or row.seeds))
                results.append(tried(row, seeds, folder / f"row-{row.number}"))
                if given.out is not None:
                    write(given.out, results)
    print(table(results if given.out is None else recorded(given.out)))
    for result in results:
        for seed, why in result.failed.items():
            print(f"\nrow {result.number}, seed {seed}: {why}")
    return 1 if any(result.failed for result in results) else 0


def write(out: Path, results: Sequence[Result]) -> None:
    """When and where, and every row, beside the rows of `out` that weren't tried now."""
    rows = {result.number: result for result in (*recorded(out), *results)}
    machine = {"cores": os.cpu_count(), "system": platform.system(),
               "python": platform.python_version()}  # fmt: skip
    ordered = [asdict(rows[row.number]) for row in ROWS if row.number in rows]
    write_json(out, {"machine": machine, "rows": ordered})


def recorded(out: Path) -> list[Result]:
    """The rows of a file that `write` wrote; none where there is none."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    return [Result(**row) for row in rows]


def end_what_was_started() -> None:
    """No attempt outlives the matrix, however it ends."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    finally:
        end_what_was_started()
