"""`everview train RECIPE`: a recipe, changed by flags, trained or continued in a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

import tyro

from everview.workflows.cli.arguments import CommonFlags, parse, part_of
from everview.workflows.cli.outcome import Outcome

if TYPE_CHECKING:
    from everview.pipeline.runs import RunDirectory
    from everview.pipeline.training.config import TrainConfig
    from everview.pipeline.training.loop import TrainResult
    from everview.workflows.cli.train_flags import TrainArguments

RecipeArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Train a recipe on procedural scenes, measured on held-out ones; leaves weights with a card.

    The recipe `tiny` takes about a minute on 2 cores. `base` made the weights of that name on two
    GPUs (`--workers 2`); `base_longer` goes on with `trunk`, weights that haven't been cooled, and
    `small` with a third of its layers; an unknown name is answered with the nearest. Every value of
    a recipe is a flag, listed by `everview train RECIPE --help`. The same command again continues
    an unfinished run.
    """

    recipe: RecipeArgument
    """name of the recipe"""


def parse_words(words: Sequence[str], prog: str) -> CommonFlags:
    """Flags depend on the recipe: its values are their defaults. Without one, the general help."""
    if not words or words[0].startswith("-"):
        return parse(Arguments, words, prog)
    from everview.workflows.cli.train_flags import TrainArguments
    from everview.workflows.recipes import find_recipe

    config = find_recipe(words[0])()
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return parse(TrainArguments, words[1:], f"{prog} {words[0]}", default=TrainArguments(**values))


def run(arguments: TrainArguments) -> Outcome:
    from everview.pipeline.errors import UsageError
    from everview.pipeline.report import write_report
    from everview.pipeline.runs import RunDirectory, default_run_path, peak_rss_mib
    from everview.pipeline.training.config import OPERATIONAL, TrainConfig
    from everview.workflows.cli.train_flags import TrainArguments

    if not isinstance(arguments, TrainArguments):
        raise UsageError("the recipe comes first: `everview train RECIPE ...`")
    config = part_of(arguments, TrainConfig)
    out = arguments.out or default_run_path("train", config.name, config, may_change=OPERATIONAL)
    with RunDirectory.open(
        out, "train", config, fresh=arguments.fresh, may_change=OPERATIONAL
    ) as run:
        with run.timed("train"):
            done = _train(arguments, config, run)
        facts = dict(done.metrics)
        place = None if done.weights is None else str(done.weights)
        run.note(device={"name": facts["device"]}, weights={"name": config.name, "folder": place})
        values = {key: facts.pop(key) for key in ("loss", "step", "tokens")}
        values |= {
            "psnr": facts["held_out_psnr"].get("set/rgb"),
            "peak_rss_mib": peak_rss_mib(),
            "details": facts,
        }
        missing = (
            {} if values["psnr"] is not None else {"psnr": "measured when the run is finished"}
        )
        metrics = run.write_metrics(values, missing, train=True)
        with run.timed("report"):
            write_report(run.path)
        status = 0 if done.signal is None else 128 + done.signal
        run.finish(status)
    return Outcome({"metrics": metrics}, _page(values, facts), run=run.path, exit_code=status)


def _train(arguments: TrainArguments, config: TrainConfig, run: RunDirectory) -> TrainResult:
    """In this process, or by workers where several, a cluster or DeepSpeed are asked for."""
    run.note(workers=arguments.workers)
    if arguments.workers == 1 and not arguments.address and config.parallel.zero is None:
        from everview.kernels.backend import backends_in_use
        from everview.pipeline.training.loop import train
        from everview.pipeline.training.train_run import choose_device

        run.note(backends=backends_in_use(choose_device(config.device)))
        return train(config, run.path)
    from everview.pipeline.cluster import ClusterConfig
    from everview.pipeline.training.cluster_run import train_on_cluster

    where = ClusterConfig(address=arguments.address)
    return train_on_cluster(config, run.path, arguments.workers, where)


def _page(values: dict[str, object], facts: dict[str, object]) -> str:
    """Two lines: what was done, and how good it is on scenes it never saw."""
    psnr = values["psnr"]
    quality = "" if psnr is None else f"\nheld out, one set: {psnr:.2f} dB"
    return (
        f"step {values['step']}, loss {values['loss']:.5f}, {values['tokens']:,} tokens, "
        f"{facts['minutes']} minutes on {facts['device']}{quality}"
    )
