"""`everview bench WHAT`: time everview against the published formulation on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from everview.workflows.cli.arguments import CommonFlags
from everview.workflows.cli.outcome import Outcome, table


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Measure this machine: everview beside the published formulation, in one run.

    Results are checked first; what is wrong gets no number. A table is printed; with --out its rows
    are written to bench.json in that run directory; of `kernels` on a GPU a picture too,
    roofline.svg.
    """

    what: Annotated[
        Literal["model", "kernels", "train", "ranks", "scaling"], tyro.conf.Positional
    ] = "model"
    """model: observe and render, with 312M parameters on a GPU, else with 33M on the CPU; kernels:
    update, apply, Newton-Schulz, on the GPU if there is one; train: training steps, on a GPU;
    ranks: whether every way of dividing a run among ranks trains the same, on the CPU; scaling:
    several GPUs (or ranks on the CPU) against one, Ray Train with DeepSpeed, commits, feeding"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where `model`, `kernels` and `scaling` are measured; auto: on a GPU if there is one"""
    only: str = ""
    """on a GPU, of `ranks` and of `scaling`: the rows whose name begins so (of `scaling` several,
    separated by commas); of `kernels`, whose name and shape hold it"""
    profile: bool = False
    """on a GPU, of `model` and `train`: also say which kernels the time goes to"""
    autotune: bool = False
    """on a GPU, of `model` and `train`: let the compiler try several forms of each product"""
    threads: int | None = None
    """torch threads; all usable cores unless given"""
    rounds: int = 7
    """how often each candidate has its turn; of `ranks` the steps of a run"""
    seconds: float = 300.0
    """of `scaling`: for all rows together"""
    workers: int | None = None
    """of `scaling`: ranks; all GPUs, or 2 on the CPU, unless given"""
    shards: tuple[str, ...] = ()
    """of `scaling`: a set of `everview prepare` that the feed is measured with, 128 pixels on a
    GPU and 32 on a CPU; without, one is made"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.errors import UsageError
    from everview.pipeline.runs import RunDirectory, write_json

    if arguments.rounds < 1 or (arguments.threads is not None and arguments.threads < 1):
        raise UsageError("--rounds and --threads must be at least 1")
    if arguments.out is None:
        result, text = _measure(arguments)
        return Outcome(result, text)
    with RunDirectory.open(arguments.out, "bench", arguments, fresh=arguments.fresh) as run:
        result, text = _measure(arguments)
        write_json(run.path / "bench.json", result)
        if arguments.what == "kernels" and _on_gpu(arguments):
            from everview.pipeline.benchmarks.roofline import roofline

            (run.path / "roofline.svg").write_text(roofline(result), encoding="utf-8")
    return Outcome(result, text, run=run.path)


def _measure(arguments: Arguments) -> tuple[dict[str, object], str]:
    """Rows as JSON and as text."""
    import os

    from everview.pipeline.benchmarks.results import COLUMNS

    if arguments.what == "ranks":
        return _ranks(arguments)
    if arguments.what == "scaling":
        return _scaling(arguments)
    threads = arguments.threads or len(os.sched_getaffinity(0))
    if arguments.what != "kernels" and (arguments.what == "train" or _on_gpu(arguments)):
        return _whole(arguments)
    if arguments.what == "kernels" and _on_gpu(arguments):
        return _kernels_gpu(arguments)
    if arguments.what == "model":
        from everview.pipeline.benchmarks.model import bench_model

        found = bench_model(threads, arguments.rounds)
    else:
        from everview.pipeline.benchmarks.kernels import bench_kernels

        found = bench_kernels(threads, arguments.rounds)
    rows = table([row.cells() for row in found.rows], COLUMNS)
    return found.as_json(), f"{rows}\n\n{found.circumstances()}"


def _ranks(arguments: Arguments) -> tuple[dict[str, object], str]:
    """Ways of dividing a run, each against one process."""
    from everview.pipeline.benchmarks.ranks import COLUMNS, as_json, compare_ranks

    rows = compare_ranks(arguments.rounds, arguments.only)
    wrong = [row.way for row in rows if not row.holds]
    verdict = f"not equal: {', '.join(wrong)}" if wrong else "every loss within 1e-5"
    return as_json(rows), f"{table([row.cells() for row in rows], COLUMNS)}\n\n{verdict}"


def _scaling(arguments: Arguments) -> tuple[dict[str, object], str]:
    """Each row by itself; bench.json is rewritten after every one."""
    import logging

    from everview.pipeline.benchmarks.scaling.entries import chosen
    from everview.pipeline.benchmarks.scaling.rows import (
        COLUMNS,
        Setting,
        run_benchmarks,
        table_rows,
    )

    setting = Setting.here(arguments.device, arguments.workers, arguments.seconds, arguments.shards)
    out = None if arguments.out is None else arguments.out / "bench.json"
    say = logging.getLogger("everview.bench").info
    report = run_benchmarks(chosen(arguments.only), setting, out, say)
    return report, table(table_rows(report), COLUMNS)


def _on_gpu(arguments: Arguments) -> bool:
    import torch

    return arguments.device != "cpu" and (arguments.device == "cuda" or torch.cuda.is_available())


def _kernels_gpu(arguments: Arguments) -> tuple[dict[str, object], str]:
    """The rows of update and read on a GPU."""
    import torch

    from everview.pipeline.benchmarks.kernels_gpu import COLUMNS, bench_kernels_gpu

    found = bench_kernels_gpu(torch.device("cuda"), arguments.rounds, arguments.only)
    rows = table([row.cells() for row in found.rows], COLUMNS)
    return found.as_json(), f"{rows}\n\n{found.circumstances()}"


def _whole(arguments: Arguments) -> tuple[dict[str, object], str]:
    """The rows of whole models on a GPU."""
    import torch

    from everview.pipeline.benchmarks.model_gpu import Setting, bench_model_gpu
    from everview.pipeline.benchmarks.train import bench_train
    from everview.pipeline.benchmarks.whole_rows import COLUMNS
    from everview.pipeline.errors import EnvironmentUnfit

    if not torch.cuda.is_available():
        raise EnvironmentUnfit(f"bench {arguments.what} needs an NVIDIA GPU, and there is none")
    tuned = {"max_autotune_gemm": True, "triton.enable_persistent_tma_matmul": True}
    setting = Setting(
        torch.device("cuda"),
        arguments.rounds,
        {"dynamic": False, "options": tuned if arguments.autotune else {}},
        only=arguments.only,
        profile=arguments.profile,
    )
    found = (bench_train if arguments.what == "train" else bench_model_gpu)(setting)
    rows = table([row.cells() for row in found.rows], COLUMNS)
    return found.as_json(), f"{rows}\n\n{found.circumstances()}"
