"""Held-out procedural scenes, rendered once and measured during a run and at its end.

Their seeds lie in a range that training never draws from. The same scenes are measured under `set`
and under the causal schedule with several chunk counts: the gap between them is what streaming
costs, and one set of weights should serve both. Streams follow the paths of scenes that have one, a
frame a chunk, for longer than an episode of training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.episode import Episode
from everview.models.gauge import fit_gauge
from everview.models.scene_model import SceneModel
from everview.models.schedule import SCHEDULES, SET, Schedule
from everview.models.views import Views
from everview.pipeline.training.config import DataConfig, EvaluationConfig, World
from everview.pipeline.training.precision import mixed_precision, uncompiled
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.scene_pool import HELD_OUT_SEEDS, RenderScenes, SceneViews

PICTURES = ("rgb", "memory_rgb")


@dataclass(frozen=True)
class HeldOut:
    """Scenes to measure, by the name of their world; streams have views in the order of a path."""

    scenes: Mapping[str, SceneViews]
    config: EvaluationConfig
    streams: Mapping[str, SceneViews] = field(default_factory=dict)

    def schedules(self) -> list[tuple[str, Schedule, int]]:
        """Name, schedule and chunk count of every measurement; one chunk is `set`."""
        causal = SCHEDULES[self.config.causal]
        several = [chunks for chunks in self.config.chunks if chunks > 1]
        return [("set", SET, 1), *((f"causal{chunks}", causal, chunks) for chunks in several)]


def render_held_out(
    data: DataConfig,
    config: EvaluationConfig,
    render: RenderScenes,
    device: torch.device,
    ranks: Ranks | None = None,
) -> HeldOut:
    """The first seeds of the held-out range in every world of the training mix.

    With all their features, also when training goes without some: ablations share these scenes.
    Several ranks take worlds in turn.
    """
    ranks = ranks or Ranks()
    worlds = [replace(world, without=()) for world in data.worlds]
    worlds = worlds[ranks.rank :: ranks.size]
    seeds = np.arange(HELD_OUT_SEEDS, HELD_OUT_SEEDS + config.scenes)

    def rendered(chosen: Sequence[World], inputs: int) -> dict[str, SceneViews]:
        views = inputs + config.targets
        return {world_name(w): render(w, seeds, views, data.side(config), device) for w in chosen}

    paths = [world for world in worlds if world.trajectory == "video" and config.streams]
    streams = rendered(paths, max(config.streams, default=0))
    return HeldOut(rendered(worlds, config.inputs), config, streams)


def world_name(world: World) -> str:
    """`room`, `room-video` along a path, `room-dynamic` where things move."""
    words = [world.name]
    words += ["video"] if world.trajectory == "video" else []
    words += ["dynamic"] if world.dynamic else []
    return "-".join(words)


@torch.no_grad()
def measure(model: SceneModel, held_out: HeldOut) -> dict[str, float]:
    """Mean PSNR in dB by `world/schedule/picture`.

    `picture` is rgb, or memory_rgb for the memory without its frame bank. `stream16` are streams of
    16 inputs, `stream16-late` the last quarter of their targets. Runs uncompiled: its shapes occur
    nowhere else.
    """
    values: dict[str, Tensor] = {}
    was_training = model.training
    model.eval()
    with uncompiled(), mixed_precision(model.device):
        for name, schedule, episode in _episodes(held_out):
            _, outputs = model.forward(episode, schedule)
            shown, truth = known(outputs.targets.rgb), known(episode.targets.images)
            values[name] = psnr(shown, truth)
            if "/stream" in name:
                late = slice(-max(1, truth.shape[1] // 4), None)
                world, stream, picture = name.split("/")
                values[f"{world}/{stream}-late/{picture}"] = psnr(shown[:, late], truth[:, late])
    model.train(was_training)
    if not values:
        return {}
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _episodes(held_out: HeldOut) -> Iterator[tuple[str, Schedule, Episode]]:
    """What is measured, by name."""
    config = held_out.config
    for world, scenes in held_out.scenes.items():
        for name, schedule, chunks in held_out.schedules():
            for picture in PICTURES:
                episode = fixed_episode(scenes, config, chunks, picture == "rgb")
                yield f"{world}/{name}/{picture}", schedule, episode
    for world, scenes in held_out.streams.items():
        for length in config.streams:
            path = _first_views(scenes, length + config.targets)
            for picture in PICTURES:
                whole = replace(config, inputs=length)
                episode = fixed_episode(path, whole, length, picture == "rgb")
                yield f"{world}/stream{length}/{picture}", SCHEDULES[config.causal], episode


def _first_views(scenes: SceneViews, count: int) -> SceneViews:
    parts = {f.name: getattr(scenes, f.name) for f in fields(SceneViews)}
    return SceneViews(**{n: t if n == "moving" else t[:, :count] for n, t in parts.items()})


def means_over_worlds(measured: Mapping[str, float]) -> dict[str, float]:
    """What `measure` gives of all worlds, and its means over them by `schedule/picture`."""
    of_worlds: dict[str, list[float]] = defaultdict(list)
    for name, value in measured.items():
        of_worlds[name.partition("/")[2]].append(value)
    return {**measured, **{name: float(np.mean(values)) for name, values in of_worlds.items()}}


def fixed_episode(
    scenes: SceneViews, config: EvaluationConfig, chunks: int, bank: bool = True
) -> Episode:
    """Inputs spread evenly over a scene's views, the others as targets, nothing augmented.

    bank: whether targets may use the frame bank.
    """
    inputs = np.round(np.linspace(0, scenes.views - 1, config.inputs)).astype(int)
    targets = np.setdiff1d(np.arange(scenes.views), inputs)[: config.targets]
    seen, asked = _views(scenes, inputs), _views(scenes, targets)
    sizes = (config.inputs // chunks,) * chunks
    first = slice(0, sizes[0])
    gauge = fit_gauge(seen.cameras[:, first], "metric", depth=known(seen.depth)[:, first])
    mask = torch.full(asked.cameras.shape, bank, device=scenes.images.device)
    return Episode(seen, asked, sizes, gauge, mask)


def _views(scenes: SceneViews, index: np.ndarray) -> Views:
    chosen = torch.as_tensor(index, device=scenes.images.device)
    side = scenes.images.shape[-1]
    return Views(
        images=scenes.images[:, chosen].float() / 255,
        cameras=Cameras(side, side, scenes.intrinsics[:, chosen], scenes.c2w_cv[:, chosen]),
        time_s=scenes.time_s[:, chosen],
        depth=scenes.depth[:, chosen].float(),
    )


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Mean over images of the PSNR in dB of [..., 3, H, W] on [0, 1], clamped."""
    error = (images.float().clamp(0, 1) - truth).square().mean((-3, -2, -1))
    return (-10 * error.clamp(min=1e-10).log10()).mean()


def known(value: Tensor | None) -> Tensor:
    """A tensor that held-out scenes always have."""
    assert value is not None
    return value
