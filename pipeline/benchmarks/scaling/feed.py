"""Feed: how fast scenes are made and decoded, against how fast training uses them up.

With nobody training: views/s that the pool's procedural scenes are rendered at, and that scenes of
shards are read, verified and decoded at (`block_stream`), each written into the pool's memory. What
training uses up: the views that the pool replaces per step so that a scene is seen `data.reuse`
times, over the time of a step that waits for no scene. And over a whole interval between two
replacements, everything on: the share of its time that training waits.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
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
    unit_s = 0.2 if setting.small else 4.0
    found, failure = found_by_ranks(measure, 1, setting.device, until, config, unit_s, until)
    facts: dict[str, Any] = {}
    for line in needed(found, failure):
        facts |= line
    for source in ("procedural", "shards"):
        given, used = facts.get(source), facts.get("used_per_s")
        known = given is not None and used is not None
        yield Row(
            NAME,
            f"{source}, {config.name}",
            figure=given / used if known else None,
            goal=GOAL,
            ms={"step": facts["step_ms"]} if "step_ms" in facts else {},
            facts={
                "views_per_s": given,
                "used_per_s": used,
                "waiting_share": facts.get("waiting_share"),
                "set": "of the user" if config.data.shards else "made for this",
            },
            failure=failure,
        )


def measure(
    rank: int, size: int, path: Path, config: TrainConfig, unit_s: float, until: float
) -> None:
    """What each source gives, what training uses, and how long it waits."""
    findings = Findings(path)
    with tempfile.TemporaryDirectory() as folder:
        if not config.data.shards:
            made = Path(folder) / "shards"
            write_shards(made, scenes_to_store(config.data), split="training")
            config = replace(config, data=replace(config.data, shards=(str(made),)))
        run = open_run(config, Path(folder) / "run", Silent())
        run.feeder.pool.advance(0)
        findings.add(procedural=rendered_per_s(run, unit_s))
        findings.add(shards=decoded_per_s(run, unit_s))
        if run.device.type == "cuda":
            compile_run(run, Silent())
        pool, take = run.feeder.pool, steps_of(run)
        used = config.data.refresh_scenes * config.data.parts * config.data.views / pool.interval
        forms = len(config.data.shapes[0].chunks)
        warm = min(pool.interval // 2, (EAGER_USES + 2) * forms**2)  # forms come in random order
        take(warm)
        count = pool.interval - warm
        begin = time.perf_counter()
        take(count)
        step_s = (time.perf_counter() - begin) / count
        findings.add(step_ms=1e3 * step_s, used_per_s=used / step_s)
        whole_s = pool.interval * step_s
        if unit_s < 1 or time.time() + 1.5 * whole_s < until:
            begin = time.perf_counter()
            take(pool.interval)
            findings.add(waiting_share=1 - whole_s / (time.perf_counter() - begin))
        del run, pool, take


def rendered_per_s(run: TrainRun, unit_s: float) -> float:
    """Views/s of procedural scenes into a pool like the run's, after all worlds had their turn."""
    data, device = replace(run.config.data, shards=()), run.device
    pool = ScenePool(data, run.config.seed + 1, device, run.feeder.pool.render)
    pool.advance(0)
    wait_for(device)
    begin, made = time.perf_counter(), 0
    for number in itertools.count(1):
        made += pool.advance(number * pool.interval)
        wait_for(device)
        if time.perf_counter() - begin >= unit_s:
            break
    return made * data.views / (time.perf_counter() - begin)


def decoded_per_s(run: TrainRun, unit_s: float) -> float:
    """Views/s of stored scenes into the pool's memory; what was begun before isn't counted."""
    data = run.config.data
    stream = stored_scenes(data, run.config.seed + 1)
    assert stream is not None
    storage = empty_views(data.refresh_scenes, data.views, data.size, run.device)
    with closing(stream(itertools.count())) as blocks:  # type: ignore[type-var]
        for _ in range(AHEAD + _DECODERS + data.parts):
            storage.write(0, next(blocks))
        begin, made = time.perf_counter(), 0
        # what lies ready now is used up, and as much lies ready in the end
        while time.perf_counter() - begin < unit_s:
            storage.write(0, next(blocks))
            made += data.refresh_scenes
        wait_for(run.device)
        return made * data.views / (time.perf_counter() - begin)


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
