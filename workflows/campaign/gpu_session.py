"""One rented GPU, one command: check the machine, time the pieces, run ablations, train.

    python -m everview.workflows.campaign.gpu_session --plan smoke --out OUT
    python -m everview.workflows.campaign.gpu_session --plan ablations --recipes adamw,no_depth ...
    python -m everview.workflows.campaign.gpu_session --plan ablations --at-once 3 --recipes ...
    python -m everview.workflows.campaign.gpu_session --plan main --seconds 1100 --attempt-s 560 ...
    python -m everview.workflows.campaign.gpu_session --plan main --until $(date -d 14:30 +%s) ...
    python -m everview.workflows.campaign.gpu_session --plan main --ranks 2 --compile-ahead ...

It needs torch, numpy, pillow and safetensors, no network, and writes to OUT as it goes, so that a
command killed at its limit loses at most one commit's interval. OUT stays small: few files of at
most 16 MiB. `main` goes on where the last command stopped as long as --run still exists.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from everview.pipeline.runs.atomic import write_json
from everview.pipeline.runs.metrics import read_json_object
from everview.pipeline.runs.plain import as_plain
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.exchange import Exchange, open_exchange
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.local_ranks import run_ranks
from everview.pipeline.training.loop import compile_run, train
from everview.pipeline.training.measure_step import time_scenes, time_steps
from everview.pipeline.training.reporting import CURVE, Reporter
from everview.pipeline.training.samples import write_samples
from everview.pipeline.training.train_run import (
    TrainRun,
    choose_device,
    open_run,
    publish,
    publish_trunk,
    training_facts,
)
from everview.workflows.campaign.compile_ahead import ahead_of
from everview.workflows.campaign.processes import none_left
from everview.workflows.recipes import find_recipe

PART_BYTES = 15 * 2**20
ROW = "row.json"
LONGEST_S = 86400.0
"""of a run on several cards"""


def main(arguments: list[str] | None = None) -> int:
    """Run a plan; 0 when it went through."""
    parser = argparse.ArgumentParser(prog="gpu_session", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=("smoke", "ablations", "main"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("/tmp/everview-run"))
    parser.add_argument("--recipe", default="first_light")
    parser.add_argument("--recipes", default="ablation_base", help="names, separated by commas")
    parser.add_argument(
        "--seconds", type=float, default=None, help="budget of each run, instead of the recipe's"
    )
    parser.add_argument("--steps", type=int, default=None, help="the same in steps")
    parser.add_argument("--attempt-s", type=float, default=None, help="stop this command after")
    parser.add_argument(
        "--until", type=float, default=None, help="main: be done by then, in seconds since 1970"
    )
    parser.add_argument(
        "--margin-s", type=float, default=45.0, help="of that, for evaluation and export at the end"
    )
    parser.add_argument("--shards", nargs="*", default=(), help="prepared sets of scenes")
    parser.add_argument("--start-from", default=None, help="weights to start from")
    parser.add_argument("--at-once", type=int, default=1, help="ablations that share the card")
    parser.add_argument("--ranks", type=int, default=1, help="main: cards that share each step")
    parser.add_argument(
        "--compile-ahead", action="store_true", help="main: shapes side by side, for a large card"
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-capture", action="store_true")
    given = parser.parse_args(arguments)
    for name in ("at_once", "ranks"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(given, name)}: at least 1")
    given.out.mkdir(parents=True, exist_ok=True)
    describe_machine()

    budget = None
    if given.seconds or given.steps:
        budget = Budget(seconds=given.seconds, steps=given.steps)

    def configured(name: str) -> TrainConfig:
        config = find_recipe(name)()
        return replace(
            config,
            budget=budget or config.budget,
            data=replace(config.data, shards=tuple(given.shards) or config.data.shards),
            start_from=given.start_from or config.start_from,
            compile=config.compile and not given.no_compile,
            capture=config.capture and not given.no_capture,
        )

    if given.plan == "smoke":
        smoke(configured(given.recipe), given.run, given.out)
    elif given.plan == "ablations":
        configs = [configured(name) for name in given.recipes.split(",")]
        ablations(configs, given.run, given.out, given.at_once)
    else:
        until = None if given.until is None else given.until - given.margin_s
        main_run = MainRun(configured(given.recipe), given.run, given.out, given.attempt_s, until)
        ahead = ahead_of(main_run.config, given.run, given.ranks)
        with ahead if given.compile_ahead else nullcontext():
            train_on(given.ranks, main_run)
    return 0


def describe_machine() -> None:
    """One line: Python, torch, card."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    say(f"python {sys.version.split()[0]}, torch {torch.__version__}, {card}")


def smoke(config: TrainConfig, run_path: Path, out: Path) -> None:
    """Does it run, how fast is each piece, does the loss fall?"""
    fresh(run_path)
    report_lines = Reporter(sys.stderr)
    run = open_run(config, run_path, report_lines)
    report: dict[str, Any] = {"scenes": time_scenes(run)}
    write_report(out / "smoke.json", report)
    run.feeder.pool.advance(0)
    if run.device.type == "cuda" and config.compile:
        compile_run(run, report_lines)
    report["steps"] = time_steps(run)
    write_report(out / "smoke.json", report)
    del run
    fresh(run_path)
    result = train(replace(config, report_every=20), run_path, None, lambda run: export(run, out))
    report["train"] = result.metrics
    write_report(out / "smoke.json", report)


def ablations(configs: list[TrainConfig], run_path: Path, out: Path, at_once: int = 1) -> None:
    """Train each configuration for the same time; one table, rewritten after each.

    `at_once` of them run side by side, in processes of their own: small models leave most of a card
    idle, and compile together. Each then says what it does in OUT/NAME.log.
    """
    if at_once == 1:
        rows = (ablation(c, cleared(c.name, run_path, out), out) for c in configs)
        keep_rows(rows, out)
    else:
        keep_rows(ablations_apart(configs, run_path, out, at_once), out)


def keep_rows(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """Write the table after every row; say all of it at the end."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        kept.append(row)
        write_report(out / "ablations.json", {"rows": kept})
    for row in kept:
        psnr = row.get("held_out_psnr", {})
        means = {name: value for name, value in psnr.items() if name.count("/") == 1}
        say(f"{row['name']:20s} step {row.get('step')}  {means}")


def cleared(name: str, folder: Path, out: Path) -> Path:
    """`folder`, empty, and no curve of this name in OUT: nothing of an earlier command is left."""
    fresh(folder)
    (out / f"{name}.jsonl").unlink(missing_ok=True)
    return folder


def ablation(config: TrainConfig, folder: Path, out: Path) -> dict[str, Any]:
    """One of them, in an empty folder: its row, and its curve in OUT."""
    try:
        metrics = train(config, folder).metrics
    except Exception as error:  # the other ablations are worth having without this one
        metrics = {"error": f"{type(error).__name__}: {error}"}
        say(f"{config.name} failed: {metrics['error']}")
    keep_curve(config.name, folder, out)
    return {"name": config.name, **metrics}


def keep_curve(name: str, folder: Path, out: Path) -> None:
    """The curve of a run in OUT, where there is one."""
    if (folder / CURVE).exists():
        shutil.copy(folder / CURVE, out / f"{name}.jsonl")


def ablations_apart(
    configs: list[TrainConfig], run_path: Path, out: Path, at_once: int
) -> Iterator[dict[str, Any]]:
    """Their rows as they end, `at_once` of them at a time, each in a process and a folder of RUN of
    its own: the card's memory goes back with it, and if it is killed the others go on. Left early,
    it ends those that run; they commit first."""
    waiting = list(configs)
    running: dict[SpawnProcess, TrainConfig] = {}
    with none_left(running.keys()):
        while waiting or running:
            while waiting and len(running) < at_once:
                config = waiting.pop(0)
                given = config, cleared(config.name, run_path / config.name, out), out
                process = get_context("spawn").Process(target=logged_ablation, args=given)
                process.start()
                running[process] = config
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                config = running.pop(process)
                yield row_of(process, config, run_path / config.name, out)


def row_of(process: SpawnProcess, config: TrainConfig, folder: Path, out: Path) -> dict[str, Any]:
    """What an ablation's process left, or that it ended without."""
    row = read_json_object(folder / ROW)
    if row is None:
        keep_curve(config.name, folder, out)
        row = {"name": config.name, "error": f"its process ended with {process.exitcode}"}
        say(f"{config.name} failed: {row['error']}")
    return row


def logged_ablation(config: TrainConfig, folder: Path, out: Path) -> None:
    """An ablation as a process: its row in its folder, and what it says in OUT/NAME.log."""
    with (out / f"{config.name}.log").open("w", buffering=1) as log, redirect_stderr(log):
        row = ablation(config, folder, out)
    write_report(folder / ROW, row)


@dataclass(frozen=True)
class MainRun:
    """A run of the plan `main`: what, where, and until when. attempt_s: of this command. until: in
    seconds since 1970, when learning ends."""

    config: TrainConfig
    run_path: Path
    out: Path
    attempt_s: float | None = None
    until: float | None = None

    def train(self, exchange: Exchange | None = None) -> None:
        """Train, and keep OUT up to date after every commit. exchange: with the other ranks, each
        of which makes this call; the first one exports."""
        exchange = exchange or Exchange()
        leads, kept = exchange.ranks.leads, self.run_path / "trunk"

        def after_commit(run: TrainRun) -> None:
            if leads:
                export(run, self.out)
            if leads and not self.config.rate.is_cooling(run.progress):
                bundle(publish_trunk(run, kept), self.out / "trunk")

        train(self.config, self.run_path, self.attempt_s, after_commit, self.until, exchange)
        if leads and kept.exists():  # one of an earlier command, perhaps
            bundle(kept, self.out / "trunk")


def train_on(ranks: int, main_run: MainRun) -> None:
    """The run on a card, or on as many as there are ranks: they divide a step's scenes.

    Ctrl-C reaches every rank by itself, SIGTERM is passed on: they end after a step, with a commit.
    """
    if ranks == 1:
        main_run.train()
        return

    def pass_on(number: int, _: object) -> None:
        for child in active_children() if number == signal.SIGTERM else ():
            child.terminate()

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    patience = {"deadline_s": LONGEST_S, "collective_s": 600.0}  # they compile before they meet
    device = choose_device(main_run.config.device).type
    try:
        run_ranks(rank_main, ranks, main_run, **patience, device=device)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rank_main(rank: int, size: int, main_run: MainRun) -> None:
    """The run as one of the ranks has it."""
    parallel = main_run.config.parallel
    main_run.train(open_exchange(parallel.context, parallel.timeout_s))


def export(run: TrainRun, out: Path) -> None:
    """The weights as they are now, the curve and a sheet of pictures."""
    bundle(publish(run, run.out / "now"), out / "weights")
    if (run.out / CURVE).exists():
        shutil.copy(run.out / CURVE, out / CURVE)
    write_samples(run.optimiser.result(), run.held_out, out / "samples.png")
    write_report(out / "report.json", {"finished": run.progress >= 1, **training_facts(run)})


def bundle(folder: Path, stem: Path) -> None:
    """`folder` as one tar file, cut into parts `stem.tar.0`, `stem.tar.1`, ..."""
    whole = stem.with_suffix(".tar.whole")
    with tarfile.open(whole, "w") as archive:
        archive.add(folder, arcname=stem.name)
    content = whole.read_bytes()
    whole.unlink()
    for number, start in enumerate(range(0, len(content), PART_BYTES)):
        part = stem.with_suffix(f".tar.{number}")
        part.with_suffix(".tmp").write_bytes(content[start : start + PART_BYTES])
        part.with_suffix(".tmp").rename(part)


def fresh(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """JSON, whole or not at all; null for a loss that isn't finite."""
    write_json(path, as_plain(report))


def say(text: str) -> None:
    """One line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
