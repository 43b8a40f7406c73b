"""Compile a run's shapes side by side, in processes that fill torch's caches on disk.

Compiling is one thread of Python, and a curriculum multiplies its graphs: `second_light` (two
sizes, two numbers of chunks) took 515 s of a rented card's 28 minutes, with 31 of the host's cores
idle. A graph that another process has compiled takes about a fifth of its time.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path

from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.local_ranks import take_card
from everview.pipeline.training.loop import compile_run
from everview.pipeline.training.reporting import Reporter
from everview.pipeline.training.train_run import open_run
from everview.workflows.campaign.processes import none_left

AHEAD = "ahead"
"""the folder of a run in which these processes work and say what they do"""


def one_shape_each(config: TrainConfig, ranks: int = 1) -> list[TrainConfig]:
    """A configuration for every shape and number of chunks of `config`, all of its time, as each of
    the ranks sees them: with its share of the scenes and of the pool."""
    shapes = [
        replace(shape, scenes=shape.scenes // ranks, chunks=(chunks,), start=0.0, end=1.0)
        for shape in config.data.shapes
        for chunks in shape.chunks
    ]
    data = replace(config.data, pool_scenes=config.data.pool_scenes // ranks)
    return [replace(config, data=replace(data, shapes=(shape,))) for shape in shapes]


@contextmanager
def ahead_of(config: TrainConfig, run_path: Path, ranks: int = 1) -> Iterator[None]:
    """While the block runs, every shape of `config` but the first is compiled in a process.

    The run itself compiles as ever, the first shape first, and finds what the others have done. So
    nothing depends on them: one that fails, for want of the card's memory, say, costs only time.
    Each needs as much memory as the run itself; they take the ranks' cards in turn. They end with
    the block, also where SIGTERM ends it.
    """
    if not config.compile:
        yield
        return
    running: list[SpawnProcess] = []
    with none_left(running):
        for number, one in enumerate(one_shape_each(config, ranks)[1:], 1):
            folder = run_path / AHEAD / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            process = get_context("spawn").Process(
                target=compile_one, args=(one, folder, number % ranks)
            )
            process.start()
            running.append(process)
        yield


def compile_one(config: TrainConfig, folder: Path, card: int) -> None:
    """Compile the only shape of `config` on the `card`th of the ranks' cards; what there is to say
    goes to FOLDER/log."""
    with (folder / "log").open("w", buffering=1) as log, redirect_stderr(log):
        report = Reporter(log)
        report.say(f"card {card}: {config.data.shapes[0]}")
        try:
            if config.device != "cpu":
                take_card(card)
            run = open_run(config, folder, report)
            run.feeder.pool.advance(0)
            if run.device.type == "cuda":
                compile_run(run, report)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
