"""`everview bench train`: one training step against the published model's, in one run.

Random pictures from random cameras, no frame bank, mean squared error, AdamW, bfloat16 autocast,
all three matrices written as one chunk with five Newton-Schulz steps. Ours is the project's one
training step, its layers compiled, as a CUDA graph. Published: blocks compiled; at 14 layers it
needs activation checkpointing to fit. Both take turns.

Before that, each model's gradient under autocast is compared with its gradient in float32, on one
scene, without compilation; and of a compiled and captured step the loss with the plain one's.

Floors on an H100: products at 620 TFLOP/s (operations three times forward; Newton-Schulz 6 GFLOP a
scene, block and update at width 384, 48 at 768, three times with its backward pass), memory at
3.0 TB/s and 64 bytes a token, channel and block three times (as in model_gpu.py, but with a float32
stream), nothing overlapping.

    row                operations       products   traffic   memory   floor    goal
    10 layers d 384    13.3 + 2.9 TF    26 ms      36 GB     12 ms    38 ms    60 ms
    14 layers d 768    96 + 8.1 TF      168 ms     135 GB    45 ms    213 ms   half of published

Activations that must be kept, for a token and block: 12 d bytes of float32 stream and about 30 d of
bfloat16 (three projections, attention's and the memory's outputs, the hidden layer before GELU), 8
GiB at 10 layers and 28 GiB at 14; weights, gradients and AdamW 16 bytes a parameter, 0.5 and 2.7.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from everview.datasets.cameras import concatenate
from everview.models.config import ModelConfig
from everview.models.episode import Episode
from everview.models.gauge import Gauge
from everview.models.rays import pluecker
from everview.models.scene_model import SceneModel
from everview.models.schedule import SET
from everview.models.state import map_tensors
from everview.models.steps import ConstantStep
from everview.models.views import Views
from everview.pipeline.benchmarks.contenders import circle
from everview.pipeline.benchmarks.gpu_timing import take_gpu_turns
from everview.pipeline.benchmarks.model_gpu import Setting, published_twin
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
from everview.pipeline.training.captured import EAGER_USES, CapturedStep
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.losses import episode_loss
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.step import Objective, training_step

_GRADIENT_LIMIT, _LOSS_LIMIT = 0.3, 0.02
_PICTURE = {"picture": 1.0}
_RATE = 1e-4


def stack(layers: int, dim: int) -> ModelConfig:
    """Blocks of window attention, memory and feed-forward as published: all three matrices
    written at full step, no frame bank."""
    writes = ("w0", "w1", "w2")
    return ModelConfig(
        stack="WTF" * layers, dim=dim, memory_writes=writes, step=ConstantStep(), bank=None
    )


@dataclass(frozen=True)
class Case:
    """One shape of a step. checkpoints: whether the published model recomputes activations."""

    name: str
    config: ModelConfig
    scenes: int
    inputs: int
    targets: int
    size: int
    checkpoints: bool
    goal: str

    @property
    def tokens(self) -> int:
        """Of inputs and targets."""
        views = self.scenes * (self.inputs + self.targets)
        return views * math.prod(self.config.token_grid(self.size, self.size))


CASES = (
    Case("10 layers d 384", stack(10, 384), 16, 8, 4, 128, False, "60 ms, 12 GiB"),
    Case("14 layers d 768", stack(14, 768), 4, 8, 8, 256, True, "2x, 37 GiB"),
)


@dataclass
class Contender:
    """A step to be timed, which returns its loss. error: of its gradient."""

    run: Callable[[], Tensor]
    peak_gib: float | None
    error: float
    notes: list[str] = field(default_factory=list)


def bench_train(setting: Setting, cases: tuple[Case, ...] = CASES) -> GpuReport[WholeRow]:
    """Measure the cases whose name begins with `setting.only`. Raises WrongResult."""
    load = os.getloadavg()[0]
    ceiling = matmul_ceiling(setting.device)
    rows: list[WholeRow] = []
    notes: list[str] = []
    for case in cases:
        if case.name.startswith(setting.only):
            rows += _rows(case, setting, ceiling, notes)
    return gpu_report(rows, setting.device, ceiling, setting.rounds, load, notes)


def _rows(case: Case, setting: Setting, ceiling: float, notes: list[str]) -> list[WholeRow]:
    sides = {"train": _ours(case, setting), "train, published": _published(case, setting)}
    for side in sides.values():
        notes += side.notes
    times = take_gpu_turns(
        {name: side.run for name, side in sides.items()}, setting.rounds, setting.device
    )
    operations = Operations.of(case.config, case.size)
    useful = operations.train(case.scenes, case.inputs, case.targets)
    shape = f"{case.name}, {case.scenes} x {case.inputs}+{case.targets} of {case.size}"
    return [
        WholeRow(
            what=name + (", checkpoints" if "published" in name and case.checkpoints else ""),
            shape=shape,
            ms=times.median(name),
            rate=case.tokens / times.median(name),
            unit="K tokens/s",
            goal=case.goal if name == "train" else None,
            tflops=useful / times.median(name) / 1e9,
            ceiling_tflops=ceiling,
            ratio_to_published=times.ratio("train, published", name),
            peak_gib=side.peak_gib,
            error=side.error,
            kernels=profiled(side.run, setting.device) if setting.profile else (),
        )
        for name, side in sides.items()
    ]


def random_episode(case: Case, scenes: int, device: torch.device) -> Episode:
    """Random pictures on circles, the same every time."""
    count = case.inputs + case.targets
    generator = torch.Generator().manual_seed(0)
    turns = torch.rand(scenes, count, generator=generator)
    rings = [circle(row, case.size) for row in turns]
    cameras = concatenate(rings, dim=0)
    images = torch.rand(scenes, count, 3, case.size, case.size, generator=generator)
    inputs, targets = (
        Views(images[:, part], cameras[:, part])
        for part in (slice(0, case.inputs), slice(case.inputs, count))
    )
    gauge = Gauge(
        torch.eye(3, dtype=torch.float64).repeat(scenes, 1, 1),
        torch.zeros(scenes, 3, dtype=torch.float64),
        torch.ones(scenes, dtype=torch.float64),
        "given",
    )
    episode = Episode(inputs, targets, (case.inputs,), gauge)
    return map_tensors(lambda tensor: tensor.to(device).contiguous(), episode)


def _ours(case: Case, setting: Setting) -> Contender:
    """The project's step: checked, compiled, captured."""
    notes: list[str] = []

    def new_model() -> SceneModel:
        torch.manual_seed(0)
        with torch.device(setting.device):
            return SceneModel(case.config).train()

    def loss_of(model: SceneModel, episode: Episode) -> Tensor:
        _, outputs = model.forward(episode, SET)
        return episode_loss(outputs, episode, _PICTURE)[0]

    error = _gradient_error("train", new_model(), loss_of, case, setting)
    episode = random_episode(case, case.scenes, setting.device)
    with torch.no_grad(), setting.autocast():
        expected = loss_of(new_model(), episode)

    def make() -> tuple[Callable[[], Tensor], Tensor]:
        model = new_model()
        if setting.compile_options is not None:
            model.compile_blocks(**setting.compile_options)
        optimiser = Optimiser(model, OptimiserConfig(hidden="adamw", adamw_rate=_RATE))
        step: Any = partial(training_step, Objective(model), optimiser)
        if setting.device.type == "cuda":
            step = CapturedStep(step, model, notes.append)

        def run() -> Tensor:
            return step(episode, SET, _PICTURE, 1.0).losses["loss"]

        return run, _warm(run)

    (run, first), peak = with_peak(make, setting.device)
    relative_error("the step's first loss", first, expected, expected, _LOSS_LIMIT)
    return Contender(run, peak, error, notes)


def _published(case: Case, setting: Setting) -> Contender:
    """The published model's step: checked, compiled."""

    def new_model() -> PublishedModel:
        torch.manual_seed(0)
        return published_twin(case.config, setting.device).train()

    def loss_of(model: PublishedModel, episode: Episode) -> Tensor:
        inputs, targets = episode.inputs, episode.targets
        weights = model.reconstruct(pluecker(inputs.cameras), inputs.images)
        pictures = model.render(pluecker(targets.cameras), weights)
        return functional.mse_loss(pictures.float(), targets.images)

    error = _gradient_error("the published train", new_model(), loss_of, case, setting)
    episode = random_episode(case, case.scenes, setting.device)
    with torch.no_grad(), setting.autocast():
        expected = loss_of(new_model(), episode)

    def make() -> tuple[Callable[[], Tensor], Tensor]:
        model = new_model()
        model.checkpoints = case.checkpoints
        if setting.compile_options is not None:
            model.compile_blocks(**setting.compile_options)
        fused = setting.device.type == "cuda"
        optimiser = torch.optim.AdamW(model.parameters(), _RATE, (0.9, 0.95), fused=fused)

        def run() -> Tensor:
            with setting.autocast():
                loss = loss_of(model, episode)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            return loss.detach()

        return run, _warm(run)

    (run, first), peak = with_peak(make, setting.device)
    relative_error("the published step's first loss", first, expected, expected, _LOSS_LIMIT)
    return Contender(run, peak, error)


def _warm(run: Callable[[], Tensor]) -> Tensor:
    """The loss of the first step; later ones record."""
    first = run().clone()
    for _ in range(EAGER_USES + 1):
        run()
    return first


def _gradient_error(
    name: str,
    model: Any,
    loss_of: Callable[[Any, Episode], Tensor],
    case: Case,
    setting: Setting,
) -> float:
    """Of the whole gradient for a small scene under autocast, relative to the one in float32."""
    episode = random_episode(replace(case, inputs=2, targets=1), 1, setting.device)
    gradients = []
    for low in (True, False):
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=low):
            loss = loss_of(model, episode)
        loss.backward()
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
        model.zero_grad(set_to_none=True)
    found, exact = gradients
    return relative_error(f"{name}: the gradient", found, exact, exact, _GRADIENT_LIMIT)
