"""`everview bench model` on a GPU: the model of 312M parameters against the published one.

24 blocks of width 768 at 256x256 in patches of 8: 1,024 tokens a view. Random weights and pictures,
no frame bank, all three matrices written, five Newton-Schulz steps. Ours: blocks compiled,
reconstruction and rendering as CUDA graphs, as sessions and renderers run them. Published: blocks
compiled, bfloat16 autocast, rays made beforehand. Both take turns.

First each is checked against itself in float32: the written weights relative to how far the write
moved them (Newton-Schulz turns small singular values into whole ones, so a weight isn't
reproducible in bfloat16: only gross faults are caught), and pictures of one state relative to how
much their pixels differ. No number is printed for a result that fails.

Floors on an H100: products at 620 TFLOP/s (operations.py, plus Newton-Schulz with symmetric
products, 48 GFLOP a block and update), memory at 3.0 TB/s, nothing overlapping.

    row                operations       products   traffic    memory    floor     goal
    reconstruct 8      8.5 + 1.2 TF     15.6 ms    10 GB      3.3 ms    19 ms     25.0 ms
    reconstruct 32     34.0 + 1.2 TF    56.8 ms    33 GB      11 ms     68 ms     72.7 ms
    reconstruct 128    136 + 1.2 TF     221 ms     128 GB     43 ms     264 ms    267 ms
    render 1           0.66 TF          1.1 ms     1.6 GB     0.5 ms    1.6 ms    4.0 ms
    render 8           5.3 TF           8.5 ms     8.5 GB     2.8 ms    11.3 ms   16.0 ms

One view at a time is about 17 kernels a block: at 5 us each 2.0 ms. Traffic, for a token, channel
and block: 24 bytes of residual stream (three times: stream and branch read, their sum and its norm
written, in bfloat16) and 28 between products (queries and keys 8, GELU 16, the read's norm 4), and
the weights once (0.6 GB; in writes, as bfloat16 copies of float32, 1.9 GB). Attention is counted at
620 TFLOP/s too; at 400 it adds 9 ms to 128 views. GELU in its product's epilogue would take 16
bytes less (13 ms of 128 views), the additions in theirs 12 (10 ms).

Shapes: B scenes (1), V views.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.captured import EAGER_USES, CapturedQuery, CapturedWrite
from everview.models.config import ModelConfig, base312m
from everview.models.queries import Query, View
from everview.models.rays import pluecker
from everview.models.scene_model import SceneModel
from everview.models.state import SceneState
from everview.pipeline.benchmarks.contenders import as_is, circle
from everview.pipeline.benchmarks.gpu_timing import take_gpu_turns
from everview.pipeline.benchmarks.operations import Operations
from everview.pipeline.benchmarks.published_model import PublishedModel
from everview.pipeline.benchmarks.whole_rows import (
    GpuReport,
    WholeRow,
    gpu_report,
    matmul_ceiling,
    profiled,
    relative_error,
    with_peak,
)

_MEMORY_LIMIT, _PICTURE_LIMIT = 0.5, 0.05
_LOW = torch.bfloat16


@dataclass(frozen=True)
class Contest:
    """Sizes of the comparison. goals: frames or views a second, by number of views."""

    config: ModelConfig = field(default_factory=base312m)
    size: int = 256
    reconstruct: tuple[tuple[int, int], ...] = ((8, 320), (32, 440), (128, 480))
    render: tuple[tuple[int, int], ...] = ((1, 250), (8, 500))
    rendered_from: int = 8


@dataclass(frozen=True)
class Setting:
    """How to measure. compile_options: for torch.compile, None to leave both models as they are.
    only: rows whose name begins so."""

    device: torch.device
    rounds: int
    compile_options: dict[str, Any] | None = field(default_factory=lambda: {"dynamic": False})
    only: str = ""
    profile: bool = False

    def autocast(self) -> torch.autocast:
        """The arithmetic of both."""
        return torch.autocast(self.device.type, _LOW)


@dataclass(frozen=True)
class Seen:
    """Random pictures on a circle: images [1, V, 3, H, W] in [0, 1]."""

    images: Tensor
    cameras: Cameras

    @staticmethod
    def random(views: int, size: int, device: torch.device) -> Seen:
        """The same every time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(1, views, 3, size, size, generator=generator).to(device)
        return Seen(images, circle(torch.arange(views) / views, size).to(device=device))


class OurSide:
    """everview's model: as it is, for references, and compiled and captured."""

    def __init__(self, config: ModelConfig, setting: Setting) -> None:
        torch.manual_seed(0)
        with torch.device(setting.device):
            self.plain = SceneModel(config).eval().requires_grad_(False)
        self.fast = copy.deepcopy(self.plain)
        if setting.compile_options is not None:
            self.fast.compile_blocks(**setting.compile_options)
        self.setting = setting
        self.start = self.plain.init_state(1)
        self.gauge = as_is().to(setting.device)

    def writer(self, seen: Seen) -> Callable[[], SceneState]:
        """What absorbs the views as one chunk; its first uses compile and record."""
        write = CapturedWrite(self.fast) if self.setting.device.type == "cuda" else None

        def run() -> SceneState:
            with self.setting.autocast():
                return self._observe(self.fast, seen, write)

        return run

    def state(self, seen: Seen) -> SceneState:
        """The state in float32, plainly."""
        return self._observe(self.plain, seen, None)

    def reader(self, cameras: Cameras, state: SceneState) -> Callable[[], Tensor]:
        """What draws these cameras from the state."""
        model = self.fast
        answer = CapturedQuery(model) if self.setting.device.type == "cuda" else model.query
        view = model.freeze(state, _LOW)
        return lambda: self._draw(answer, cameras, view)

    def picture(self, cameras: Cameras, state: SceneState) -> Tensor:
        """The same in float32, plainly."""
        return self._draw(self.plain.query, cameras, self.plain.freeze(state))

    def memory(self, state: SceneState) -> Tensor:
        """Every written weight."""
        return torch.cat([layer.weights.flatten() for layer in state.layers if layer != ()])

    def _observe(self, model: SceneModel, seen: Seen, write: Any) -> SceneState:
        given = (seen.images, seen.cameras, None, self.start)
        return model.observe(*given, gauge=self.gauge, write=write)

    @staticmethod
    def _draw(answer: Callable[..., Any], cameras: Cameras, view: View) -> Tensor:
        picture = answer(Query(cameras), view, ("rgb",)).rgb
        assert picture is not None
        return picture


class PublishedSide:
    """The published model, plain and compiled. Its states are the weights of every block."""

    def __init__(self, config: ModelConfig, setting: Setting) -> None:
        torch.manual_seed(0)
        self.plain = published_twin(config, setting.device).eval().requires_grad_(False)
        self.fast = copy.deepcopy(self.plain)
        if setting.compile_options is not None:
            self.fast.compile_blocks(**setting.compile_options)
        self.setting = setting
        self.start = [memory.initial(1) for memory in self.plain.memory]

    def writer(self, seen: Seen) -> Callable[[], Any]:
        """What absorbs the views as one chunk."""
        rays = pluecker(seen.cameras)

        def run() -> Any:
            with self.setting.autocast():
                return self.fast.reconstruct(rays, seen.images)

        return run

    def state(self, seen: Seen) -> Any:
        """The weights in float32, plainly."""
        return self.plain.reconstruct(pluecker(seen.cameras), seen.images)

    def reader(self, cameras: Cameras, state: Any) -> Callable[[], Tensor]:
        """What draws these cameras."""
        rays = pluecker(cameras)

        def run() -> Tensor:
            with self.setting.autocast():
                return self.fast.render(rays, state)

        return run

    def picture(self, cameras: Cameras, state: Any) -> Tensor:
        """The same in float32, plainly."""
        return self.plain.render(pluecker(cameras), state)

    def memory(self, state: Any) -> Tensor:
        """Every written weight."""
        return torch.cat([weight.flatten() for block in state for weight in block])


def published_twin(config: ModelConfig, device: torch.device) -> PublishedModel:
    """The published model of a configuration's size."""
    with torch.device(device):
        return PublishedModel(
            config.stack.count("T"),
            config.dim,
            config.attention_head_dim,
            config.memory_expansion,
            config.patch,
        )


Side = OurSide | PublishedSide


@torch.no_grad()
def bench_model_gpu(setting: Setting, contest: Contest | None = None) -> GpuReport[WholeRow]:
    """Measure the rows of `contest`. Raises WrongResult, CaptureError."""
    contest = contest or Contest()
    load, device = os.getloadavg()[0], setting.device
    ceiling = matmul_ceiling(device)
    sides: dict[str, Side] = {
        "": OurSide(contest.config, setting),
        ", published": PublishedSide(contest.config, setting),
    }
    rows: list[WholeRow] = []
    for views, goal in contest.reconstruct:
        name = f"reconstruct {views}"
        if name.startswith(setting.only):
            rows += _reconstruct(name, views, goal, sides, contest, setting, ceiling)
    for views, goal in contest.render:
        name = f"render {views}"
        if name.startswith(setting.only):
            rows += _render(name, views, goal, sides, contest, setting, ceiling)
    return gpu_report(rows, device, ceiling, setting.rounds, load)


def _reconstruct(
    name: str,
    views: int,
    goal: int,
    sides: dict[str, Side],
    contest: Contest,
    setting: Setting,
    ceiling: float,
) -> list[WholeRow]:
    seen = Seen.random(views, contest.size, setting.device)
    runs, errors, peaks = {}, {}, {}
    for suffix, side in sides.items():
        exact = side.memory(side.state(seen))
        run = side.writer(seen)
        state, peaks[suffix] = with_peak(lambda run=run: _warm(run), setting.device)  # type: ignore[misc]
        moved = exact - side.memory(side.start)  # type: ignore[arg-type]
        errors[suffix] = relative_error(
            name + suffix, side.memory(state), exact, moved, _MEMORY_LIMIT
        )
        runs[suffix] = run
        del exact, moved, state
    operations = Operations.of(contest.config, contest.size)
    useful = operations.reconstruct(views)
    return _rows(
        name, views, f"{goal} frames/s", "frames/s", useful, runs, errors, peaks, contest, setting,
        ceiling,
    )  # fmt: skip


def _render(
    name: str,
    views: int,
    goal: int,
    sides: dict[str, Side],
    contest: Contest,
    setting: Setting,
    ceiling: float,
) -> list[WholeRow]:
    seen = Seen.random(contest.rendered_from, contest.size, setting.device)
    cameras = circle(0.07 + torch.arange(views) / views, contest.size).to(device=setting.device)
    runs, errors, peaks = {}, {}, {}
    for suffix, side in sides.items():
        state = side.state(seen)
        exact = side.picture(cameras, state)
        run = side.reader(cameras, state)
        picture, peaks[suffix] = with_peak(lambda run=run: _warm(run), setting.device)  # type: ignore[misc]
        contrast = exact - exact.mean()
        errors[suffix] = relative_error(name + suffix, picture, exact, contrast, _PICTURE_LIMIT)
        runs[suffix] = run
    useful = Operations.of(contest.config, contest.size).render(views)
    return _rows(
        name, views, f"{goal} views/s", "views/s", useful, runs, errors, peaks, contest, setting,
        ceiling,
    )  # fmt: skip


def _warm(run: Callable[[], Any]) -> Any:
    """The result of the first replay: compiled, recorded."""
    for _ in range(EAGER_USES):
        run()
    return run()


def _rows(
    name: str,
    views: int,
    goal: str,
    unit: str,
    useful: int,
    runs: dict[str, Callable[[], Any]],
    errors: dict[str, float],
    peaks: dict[str, float | None],
    contest: Contest,
    setting: Setting,
    ceiling: float,
) -> list[WholeRow]:
    times = take_gpu_turns(runs, setting.rounds, setting.device)
    return [
        WholeRow(
            what=name + suffix,
            shape=f"{views} x {contest.size}x{contest.size}",
            ms=times.median(suffix),
            rate=views / times.median(suffix) * 1e3,
            unit=unit,
            goal=None if suffix else goal,
            tflops=useful / times.median(suffix) / 1e9,
            ceiling_tflops=ceiling,
            ratio_to_published=times.ratio(", published", suffix),
            peak_gib=peaks[suffix],
            error=errors[suffix],
            kernels=profiled(run, setting.device) if setting.profile else (),
        )
        for suffix, run in runs.items()
    ]
