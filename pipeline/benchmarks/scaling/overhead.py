"""What DeepSpeed and Ray Train cost: the same run bare, with DeepSpeed, and on a cluster.

Whole runs, `loop.train` and `cluster_run.train_on_cluster`, by what their own curves say of
milliseconds a step. DeepSpeed's steps can't be captured as CUDA graphs, so the bare run is given
with and without; the overhead is against the faster of the two.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from everview.models import config as models
from everview.pipeline.benchmarks.scaling.data_parallel import GOAL as WIDER
from everview.pipeline.benchmarks.scaling.data_parallel import plain_run, widened
from everview.pipeline.benchmarks.scaling.processes import (
    COLLECTIVE_S,
    Found,
    found_by_process,
    found_by_ranks,
)
from everview.pipeline.benchmarks.scaling.rows import Findings, Goal, Row, Setting, one_line
from everview.pipeline.benchmarks.train import stack
from everview.pipeline.training.config import EpisodeShape, ParallelConfig, TrainConfig
from everview.pipeline.training.exchange import open_exchange
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.loop import train
from everview.pipeline.training.reporting import CURVE, Curve

NAME = "Ray Train + DeepSpeed"
GOAL = Goal(0.03, at_most=True, unit="%")
TURNS = 2
"""Rounds in which every way has a whole run, as far as the time allows."""
_WINDOW = 5
"""Steps of one time in the curve."""
_ZERO = {
    "DeepSpeed ZeRO 2": ParallelConfig(zero=2),
    "DeepSpeed ZeRO 0": ParallelConfig(zero=0),
}
_BARE, _CAPTURED = "bare", "bare, captured"
_RAY = "Ray Train + "


def run_to_compare(setting: Setting) -> TrainConfig:
    """On a GPU 8 layers d 768 with 131K tokens a step: with 65K the host launches as long as the
    GPU computes, and DeepSpeed's hooks come on top."""
    if setting.on_gpu:
        shape = EpisodeShape(8, 8, 8, (1,))
        config = plain_run("8 layers d 768, 8 x (8 + 8) of 256", stack(8, 768), 256, shape, "cuda")
        steps = 50
    else:
        shape = EpisodeShape(2, 2, 2, (1,))
        config = plain_run("tiny, 2 x (2 + 2) of 16", models.tiny(), 16, shape, "cpu")
        steps = 2 * _WINDOW if setting.small else 80
    return replace(config, budget=Budget(steps=steps), report_every=_WINDOW)


def ways(config: TrainConfig) -> dict[str, TrainConfig]:
    """Runs in a plain process by name."""
    bare = {_BARE: replace(config, capture=False)}
    if config.device == "cuda":
        bare[_CAPTURED] = config
    zero = _ZERO if installed("deepspeed") else {}
    return bare | {name: replace(config, parallel=parallel) for name, parallel in zero.items()}


def ways_on_ray(config: TrainConfig) -> dict[str, TrainConfig]:
    """Runs on a Ray cluster of one worker by name."""
    if not installed("ray"):
        return {}
    found = ways(config)
    return {_RAY + name: found[name] for name in _ZERO if name in found} or {
        _RAY + _BARE: found[_BARE]
    }


def installed(name: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(name) is not None


def overhead(setting: Setting, until: float) -> Iterator[Row]:
    """Rows: every way against the bare run of the same turns; and all ranks on Ray against one."""
    config = run_to_compare(setting)
    times: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    begun = time.time()
    for turn in range(1 if setting.small else TURNS):
        if turn and time.time() + (time.time() - begun) / turn > until:
            break
        for start, chosen in ((_plain, ways(config)), (_on_ray, ways_on_ray(config))):
            if not chosen:
                continue
            found, failure = start(setting, chosen, until)
            for line in found:
                times.setdefault(line["way"], []).append(line["ms"])
            if failure is not None:
                failures |= dict.fromkeys(chosen.keys() - times.keys(), failure)
    yield from _rows(config, times, failures)
    if installed("ray") and setting.ranks > 1:
        yield _all_on_ray(setting, config, times, until)


def _all_on_ray(
    setting: Setting, config: TrainConfig, times: Mapping[str, list[float]], until: float
) -> Row:
    """What `everview train --workers N` does as a whole: as many scenes a rank, CUDA graphs too."""
    way, bare = f"Ray Train, {setting.ranks} workers", _CAPTURED if setting.on_gpu else _BARE
    runs = {way: widened(config, setting.ranks)}
    gpus = setting.ranks if setting.on_gpu else 0
    found, failure = found_by_process(train_on_ray, until, runs, gpus, setting.ranks)
    ms = {bare: statistics.median(times[bare])} if bare in times else {}
    ms |= {line["way"]: line["ms"] for line in found}
    ratio = setting.ranks * ms[bare] / ms[way] if {way, bare} <= ms.keys() else None
    return Row(NAME, f"{way}, {config.name} each", ratio, goal=WIDER, ms=ms, failure=failure)


def _rows(
    config: TrainConfig, times: Mapping[str, list[float]], failures: Mapping[str, str]
) -> Iterator[Row]:
    ms = {way: round(statistics.median(runs), 3) for way, runs in times.items()}
    bare = min((ms[way] for way in (_BARE, _CAPTURED) if way in ms), default=None)
    for name in (*_ZERO, *(_RAY + way for way in _ZERO), _RAY + _BARE):
        if name not in ms and name not in failures:
            continue
        known = bare is not None and name in ms
        yield Row(
            NAME,
            f"{name}, {config.name}",
            figure=ms[name] / bare - 1 if known and bare else None,
            unit="%",
            goal=GOAL if name.startswith(_RAY) else None,
            ms={way: ms[way] for way in (_BARE, _CAPTURED, name) if way in ms},
            facts={"runs_ms": {way: times[way] for way in (_BARE, _CAPTURED, name) if way in ms}},
            failure=failures.get(name) or failures.get(_BARE),
        )
    for package in ("ray", "deepspeed"):
        if not installed(package):
            yield Row(NAME, "", failure=f"{package} is not installed: its rows are missing")


def _plain(
    setting: Setting, chosen: Mapping[str, TrainConfig], until: float
) -> tuple[Found, str | None]:
    return found_by_ranks(train_plainly, 1, setting.device, until, dict(chosen))


def _on_ray(
    setting: Setting, chosen: Mapping[str, TrainConfig], until: float
) -> tuple[Found, str | None]:
    gpus = 1 if setting.on_gpu else 0
    return found_by_process(train_on_ray, until, dict(chosen), gpus)


def train_plainly(rank: int, size: int, path: Path, runs: Mapping[str, TrainConfig]) -> None:
    """Runs one after another in one process, which is a process group of its own: DeepSpeed asks
    for one. A way that fails is named and the next goes on."""
    failed = []
    for way, config in runs.items():
        try:
            with tempfile.TemporaryDirectory() as out:
                train(config, Path(out), exchange=open_exchange(1, COLLECTIVE_S))
                Findings(path).add(way=way, ms=steady_ms(Path(out)))
        except Exception as error:
            failed.append(f"{way}: {one_line(error)}")
    if failed:
        raise RuntimeError("; ".join(failed))


def train_on_ray(path: Path, runs: Mapping[str, TrainConfig], gpus: int, workers: int = 1) -> None:
    """Runs one after another on a Ray cluster that is started for them."""
    from everview.pipeline.cluster import ClusterConfig, cluster
    from everview.pipeline.training.cluster_run import train_on_cluster

    with cluster(ClusterConfig(address="local", cpus=2 * workers, gpus=gpus, object_store_mib=200)):
        for way, config in runs.items():
            with tempfile.TemporaryDirectory() as out:
                train_on_cluster(config, Path(out), workers)
                Findings(path).add(way=way, ms=steady_ms(Path(out)))


def steady_ms(out: Path) -> float:
    """Median milliseconds of a step over the last half of a run's curve."""
    lines = [line["ms_per_step"] for line in Curve.read(out / CURVE) if "loss" in line]
    return statistics.median(lines[len(lines) // 2 :])
