"""Feed: how fast scenes are made and decoded, against how fast training uses them up.

With nobody training: views/s that the pool's procedural scenes are rendered at, and that scenes of
shards are read, verified and decoded at (`block_stream`), each written into the pool's memory. What
training uses up: the views that the pool replaces per step so that a scene is seen `data.reuse`
times, over the time of a step that waits for no scene. And over a whole interval between two
replacements, everything on: the share of its time that training waits.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.shards import Origin, PosedScene, write_shards
from everview.models import config as models
from everview.pipeline.benchmarks.scaling.data_parallel import plain_run, steps_of
from everview.pipeline.benchmarks.scaling.processes import found_by_ranks, needed, wait_for
from everview.pipeline.benchmarks.scaling.rows import Findings, Goal, Row, Setting
from everview.pipeline.training.block_stream import AHEAD
from everview.pipeline.training.captured import EAGER_USES
from everview.pipeline.training.config import DataConfig, EpisodeShape, TrainConfig, World
from everview.pipeline.training.loop import compile_run
from everview.pipeline.training.reporting import Silent
from everview.pipeline.training.scene_pool import ScenePool, empty_views
from everview.pipeline.training.sources import render_scenes, stored_scenes
from everview.pipeline.training.train_run import TrainRun, open_run

NAME = "feed"
GOAL = Goal(3.0, at_most=False, unit="x")
ROUNDS = 5
_DECODERS = 2
"""Threads that may have begun a block before the clock started."""


def run_to_feed(setting: Setting) -> TrainConfig:
    """The data of `first_light` on a GPU, with a smaller pool and one chunk count, as every count
    is compiled; of `tiny` on a CPU."""
    if setting.on_gpu:
        base = plain_run("first_light", models.base15m(), 128, EpisodeShape(16, 8, 8, (4,)), "cuda")
        data = replace(
            base.data, worlds=DataConfig().worlds, samples_per_pixel=4, views=20, pool_scenes=256,
            stored_scenes=256, refresh_scenes=16, reuse=12.0,
        )  # fmt: skip
    else:
        shape = EpisodeShape(4, 4, 4, (1, 2, 4))
        base = plain_run("tiny", models.tiny(), 32, shape, "cpu")
        data = replace(
            base.data, worlds=(World("orbit"),), pool_scenes=8, stored_scenes=8, refresh_scenes=2,
            reuse=2.0 if setting.small else 64.0,
        )  # fmt: skip
    return replace(base, data=replace(data, shards=setting.shards))


def feed(setting: Setting, until: float) -> Iterator[Row]:
    """Rows: procedural scenes, and scenes from shards."""
    config = run_to_feed(setting)
    unit_s, rounds = (0.2, 1) if setting.small else (1.0, ROUNDS)
    found, failure = found_by_ranks(
        measure, 1, setting.device, until, config, unit_s, rounds, until
    )
    facts: dict[str, Any] = {"set": "of the user" if config.data.shards else "made for this"}
    for line in needed(found, failure):
        facts |= line if "source" not in line else {}
    by_source = {line["source"]: line for line in found if "source" in line}
    for source in ("procedural", "shards"):
        line = by_source.get(source, {})
        yield Row(
            NAME,
            f"{source}, {config.name}",
            figure=line.get("ratio"),
            goal=GOAL,
            ms={"step": facts["step_ms"]} if "step_ms" in facts else {},
            facts={**facts, "views_per_s": line.get("views_per_s")},
            failure=failure,
        )


def measure(
    rank: int,
    size: int,
    path: Path,
    config: TrainConfig,
    unit_s: float,
    rounds: int,
    until: float,
) -> None:
    """What each source gives and what training uses, in turn; then how long training waits."""
    findings = Findings(path)
    with tempfile.TemporaryDirectory() as folder:
        if not config.data.shards:
            made = Path(folder) / "shards"
            write_shards(made, scenes_to_store(config.data), split="training")
            config = replace(config, data=replace(config.data, shards=(str(made),)))
        run = open_run(config, Path(folder) / "run", Silent())
        run.feeder.pool.advance(0)
        if run.device.type == "cuda":
            compile_run(run, Silent())
        pool, take = run.feeder.pool, steps_of(run)
        forms = len(config.data.shapes[0].chunks)
        warm = min(pool.interval // 2, (EAGER_USES + 2) * forms**2)  # forms come in random order
        take(warm)
        count = (pool.interval - warm) // rounds
        taken: dict[str, list[float]] = {"procedural": [], "shards": [], "step_s": []}
        rendering = Rendering(run)
        with Decoding(run) as decoding:
            for _ in range(rounds):
                taken["procedural"].append(rendering.per_s(unit_s))
                taken["shards"].append(decoding.per_s(unit_s))
                begin = time.perf_counter()
                take(count)
                taken["step_s"].append((time.perf_counter() - begin) / count)
        used = config.data.refresh_scenes * config.data.parts * config.data.views / pool.interval
        for source in ("procedural", "shards"):
            pairs = zip(taken[source], taken["step_s"], strict=True)
            ratio = statistics.median(rate * step_s / used for rate, step_s in pairs)
            findings.add(source=source, ratio=ratio, views_per_s=statistics.median(taken[source]))
        step_s = statistics.median(taken["step_s"])
        findings.add(step_ms=1e3 * step_s, used_per_s=used / step_s, rounds=taken)
        whole_s = pool.interval * step_s
        if unit_s < 1 or time.time() + 1.5 * whole_s < until:
            begin = time.perf_counter()
            take(pool.interval)
            findings.add(waiting_share=1 - whole_s / (time.perf_counter() - begin))
        del run, pool, take, rendering, decoding


class Rendering:
    """Procedural scenes into a pool like the run's, after all worlds had their turn."""

    def __init__(self, run: TrainRun) -> None:
        self.data = replace(run.config.data, shards=())
        self.pool = ScenePool(self.data, run.config.seed + 1, run.device, run.feeder.pool.render)
        self.pool.advance(0)
        self.replaced = 0

    def per_s(self, unit_s: float) -> float:
        """Views/s over `unit_s` or a little longer."""
        wait_for(self.pool.device)
        begin, made = time.perf_counter(), 0
        while time.perf_counter() - begin < unit_s:
            self.replaced += 1
            made += self.pool.advance(self.replaced * self.pool.interval)
            wait_for(self.pool.device)
        return made * self.data.views / (time.perf_counter() - begin)


class Decoding:
    """Stored scenes into the pool's memory, in a block that ends their threads."""

    def __init__(self, run: TrainRun) -> None:
        self.data = data = run.config.data
        stream = stored_scenes(data, run.config.seed + 1)
        assert stream is not None
        self.blocks = stream(itertools.count())
        self.storage = empty_views(data.refresh_scenes, data.views, data.size, run.device)

    def __enter__(self) -> Decoding:
        for _ in range(self.data.parts):
            self.storage.write(0, next(self.blocks))
        return self

    def __exit__(self, *error: object) -> None:
        self.blocks.close()  # type: ignore[attr-defined]

    def per_s(self, unit_s: float) -> float:
        """Views/s over `unit_s` or a little longer; what was ready before isn't counted."""
        for _ in range(AHEAD + _DECODERS):
            self.storage.write(0, next(self.blocks))
        begin, made = time.perf_counter(), 0
        while time.perf_counter() - begin < unit_s:
            self.storage.write(0, next(self.blocks))
            made += self.data.refresh_scenes
        wait_for(self.storage.images.device)
        return made * self.data.views / (time.perf_counter() - begin)


def scenes_to_store(data: DataConfig, scenes: int = 32) -> Iterator[PosedScene]:
    """Procedural scenes as `everview prepare` would store them, with depth and times."""
    render = partial(render_scenes, samples_per_pixel=data.samples_per_pixel)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for number in range(scenes):
        world = data.worlds[number % len(data.worlds)]
        views = render(world, np.array([7 * 10**8 + number]), data.views, data.size, device)
        side = data.size
        yield PosedScene(
            name=f"scene-{number:03d}",
            images=views.images[0].movedim(1, -1).cpu().numpy(),
            cameras=Cameras(
                side, side, views.intrinsics[0].double().cpu(), views.c2w_cv[0].double().cpu()
            ),
            origin=Origin(f"world-{number:03d}", "metric", "Apache-2.0", "procedural"),
            depth=views.depth[0].float().cpu().numpy(),
            time_s=views.time_s[0].double().cpu().numpy(),
        )
