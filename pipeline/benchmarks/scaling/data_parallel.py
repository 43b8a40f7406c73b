"""Data parallel: as many scenes a rank, one rank against all, through the loop's own pieces."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from everview.models import config as models
from everview.pipeline.benchmarks.scaling.processes import (
    COLLECTIVE_S,
    Steps,
    found_by_ranks,
    idle,
    needed,
    take_ranks_turns,
    told,
    wait_for,
)
from everview.pipeline.benchmarks.scaling.rows import Findings, Goal, Row, Setting
from everview.pipeline.tracking import Tracking
from everview.pipeline.training.captured import EAGER_USES, CapturedStep
from everview.pipeline.training.config import (
    DataConfig,
    EpisodeShape,
    EvaluationConfig,
    TrainConfig,
    World,
)
from everview.pipeline.training.exchange import open_exchange
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.local_ranks import let_go
from everview.pipeline.training.loop import compile_run, take_step
from everview.pipeline.training.reporting import Silent
from everview.pipeline.training.train_run import TrainRun, open_run

NAME = "data parallel"
GOAL = Goal(1.9, at_most=False, unit="x")
ROUNDS, UNIT_S = 7, 1.0
_FOREVER = 1e9


def plain_run(
    name: str, model: models.ModelConfig, size: int, shape: EpisodeShape, device: str
) -> TrainConfig:
    """A run of one shape on a few scenes that are never replaced, which commits and measures only
    at its end, next to nothing."""
    views = shape.inputs + shape.targets
    return TrainConfig(
        name=name,
        budget=Budget(steps=10**9),
        model=model,
        data=DataConfig(
            worlds=(World("orbit"),),
            size=size,
            samples_per_pixel=1,
            views=views,
            pool_scenes=4 * shape.scenes,
            refresh_scenes=shape.scenes,
            reuse=_FOREVER,
            shapes=(shape,),
        ),
        evaluation=EvaluationConfig(
            scenes=1, inputs=shape.inputs, targets=1, chunks=(1,), every_s=_FOREVER
        ),
        tracking=Tracking(kind="none"),
        device="cuda" if device == "cuda" else "cpu",
        commit_every_s=_FOREVER,
        report_every=10**9,
    )


def run_of_one(setting: Setting) -> TrainConfig:
    """One rank's run: on a GPU `first_light`'s shape and model, four chunks."""
    if setting.on_gpu:
        shape = EpisodeShape(16, 8, 8, (4,))
        return plain_run("15M, 16 x (8 + 8) of 128", models.base15m(), 128, shape, "cuda")
    shape = EpisodeShape(2, 4, 4, (2,))
    return plain_run("tiny, 2 x (4 + 4) of 32", models.tiny(), 32, shape, "cpu")


def widened(config: TrainConfig, ranks: int) -> TrainConfig:
    """The same for `ranks` ranks with as many scenes each."""
    (shape,) = config.data.shapes
    data = replace(
        config.data,
        pool_scenes=config.data.pool_scenes * ranks,
        shapes=(replace(shape, scenes=shape.scenes * ranks),),
    )
    return replace(config, data=data)


def data_parallel(setting: Setting, until: float) -> Iterator[Row]:
    """Rows: launched one by one, and on a GPU as CUDA graphs."""
    config = run_of_one(setting)
    found, failure = found_by_ranks(measure, setting.ranks, setting.device, until, config, until)
    for line in needed(found, failure):
        ms = line["ms"]
        captured = f", {line['form']}"
        yield Row(
            NAME,
            f"{setting.ranks} ranks, {config.name}{captured}",
            figure=line["ratio"],
            goal=GOAL,
            ms=ms,
            facts={
                "tokens_per_s": setting.ranks * line["tokens"] / ms["together"] * 1e3,
                "gradient_mib": line["gradient_mib"],
                "exchange_ms": line["exchange_ms"],
                "rounds_ms": line["rounds_ms"],
                # of it, what several busy ranks of a host cost each other without any exchange
                "ratio_without_exchange": setting.ranks * ms["one"] / ms["each alone"],
            },
            failure=line["failure"],
        )
    if failure is not None:
        yield Row(NAME, "what follows", failure=failure)


def measure(rank: int, size: int, path: Path, config: TrainConfig, until: float) -> None:
    """One rank. Candidates: the first rank while the others wait, each for itself, all together."""
    exchange = open_exchange(1, COLLECTIVE_S)
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        alone = open_run(replace(config, capture=False), Path(folder) / "alone", Silent())
        shared = replace(widened(config, size), capture=False)
        together = open_run(shared, Path(folder) / "together", Silent(), exchange)
        runs = {"alone": alone, "together": together}
        for run in runs.values():
            run.feeder.pool.advance(0)
            if config.compile and run.device.type == "cuda":
                compile_run(run, Silent())
        candidates = {
            "one": steps_of(alone) if rank == 0 else idle,
            "each alone": steps_of(alone),
            "together": steps_of(together),
        }
        facts = {
            "tokens": _tokens(alone),
            "gradient_mib": alone.parameters * 4 / 2**20,
            "exchange_ms": exchange_ms(alone.parameters, alone.device),
        }
        forms = ("one by one", "captured") if alone.device.type == "cuda" else ("one by one",)
        for number, form in enumerate(forms):
            said: list[str] = []
            if form == "captured":
                torch.cuda.empty_cache()
                for run in runs.values():
                    run.update = CapturedStep(
                        run.update, run.model, said.append, alone=run.exchange.ranks.size == 1
                    )
                    steps_of(run)(EAGER_USES + 2)
            left = len(forms) - number
            ends = time.time() + max(until - time.time(), 0.0) / left
            times = take_ranks_turns(candidates, exchange, ROUNDS, ends, UNIT_S)
            if rank == 0:
                Findings(path).add(
                    form=form,
                    ratio=size * times.ratio("one", "together"),
                    **told(times, said),
                    prepared_s=time.time() - begun,
                    **facts,
                )
        del runs, candidates, alone, together, run
        let_go()


def steps_of(run: TrainRun) -> Steps:
    """Steps of a run as the loop takes them: feed, train, agree; then wait for their results."""

    def go(count: int) -> None:
        for _ in range(count):
            take_step(run)
            run.exchange.agree(run.step, (0.0, 0.0, 0.0))
        run.recent.fetch()
        wait_for(run.device)

    return go


def _tokens(run: TrainRun) -> int:
    """Of one step."""
    before = run.tokens
    steps_of(run)(1)
    return run.tokens - before


def exchange_ms(numbers: int, device: torch.device, repeat: int = 5) -> float:
    """Milliseconds of one all-reduce of so many float32 numbers between all ranks."""
    values = torch.ones(numbers, device=device)
    distributed.all_reduce(values)
    wait_for(device)
    start = time.perf_counter()
    for _ in range(repeat):
        distributed.all_reduce(values)
    wait_for(device)
    return 1e3 * (time.perf_counter() - start) / repeat
