"""Slow weights tuned to one capture: leave-some-out on its own inputs, stopped on others of them.

Every step writes some inputs into a fresh memory and asks for others (training's own step and
loss). Now and then the whole stream of inputs is absorbed and the kept-back ones are drawn; the
best weights so far are what counts, the given ones included, so that adapting never ends worse
than it began as far as the capture itself can tell. Nor blurred: what gained by losing detail
doesn't count (gso_toy gained 0.1 to 0.4 dB so, and lost a fifth to a third of it: the campaign log,
entry 22). (Tuning a feed-forward renderer to a capture:
IBRNet, arXiv 2102.13090.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.episode import Episode
from everview.models.gauge import Gauge
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.views import Views
from everview.pipeline.adapting.config import Recipe
from everview.pipeline.adapting.splits import Lesson, OwnInputs
from everview.pipeline.evaluation.floor_scores import picture_tensor, target_masks
from everview.pipeline.evaluation.image_metrics import score_images
from everview.pipeline.evaluation.protocols import CHUNK_FRAMES, Split, in_chunks_of
from everview.pipeline.evaluation.scene_frames import SceneFrames
from everview.pipeline.evaluation.scene_scores import observe_chunks, render_targets
from everview.pipeline.rendering.renderer import image_tensor, time_tensor
from everview.pipeline.streaming.frame_tensors import stacked_depth
from everview.pipeline.training.averaging import model_with
from everview.pipeline.training.config import LossConfig, OptimiserConfig
from everview.pipeline.training.learning_rate import RateSchedule, constant
from everview.pipeline.training.losses import Perceptual
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.step import Objective, training_step

_OPTIMISER = OptimiserConfig(hidden="adamw", beta2=0.99, weight_decay=0.0)
_LOSS = LossConfig(direct=constant(0.1), charbonnier=constant(0.1), depth=constant(0.05))
"""Of the picture above all: what is asked for is what a viewer will ask for."""


@dataclass(frozen=True)
class Check:
    """What the kept-back inputs looked like. elapsed_s: of learning until then."""

    step: int
    elapsed_s: float
    psnr: float
    memory_alone_psnr: float
    sharpness: float
    """Laplacian power over the truth's, NaN where that is flat"""
    loss: float | None = None
    """mean over the steps since the check before"""


@dataclass(eq=False)
class Adaptation:
    """The weights of `model` on their way; `best` is the weights of the best check.

    is_set: all inputs are absorbed at once, as with `--inputs N`; else in chunks. perceptual: LPIPS
    as a loss, without which the recipe's weight of it is left out.
    """

    model: SceneModel
    scene: SceneFrames
    own: OwnInputs
    gauge: Gauge
    recipe: Recipe
    seed: int
    is_set: bool = False
    perceptual: Perceptual | None = None
    checks: list[Check] = field(default_factory=list)
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.train().requires_grad_(True)
        weight = self.recipe.perceptual if self.perceptual is not None else 0.0
        self._weights = replace(_LOSS, perceptual=constant(weight)).at(0.0)
        self._objective = Objective(self.model, self.perceptual)
        optimiser = replace(_OPTIMISER, adamw_rate=self.recipe.rate)
        self._optimiser = Optimiser(self.model, optimiser)
        self._rate = RateSchedule(self.recipe.warm_up_steps, self.recipe.cooldown)
        self._losses: list[Tensor] = []

    def learn(self, progress: float) -> None:
        """One step at `progress` in [0, 1] of the time."""
        factor = self._rate.factor(self.step, progress)
        lesson = self.own.lesson(self.step, self.seed, self.recipe)
        learner, episode = (self._objective, self._optimiser), self._episode(lesson)
        taken = training_step(*learner, episode, CHUNK_CAUSAL, self._weights, factor)
        self._losses.append(taken.losses["loss"])
        self.step += 1

    def check(self, elapsed_s: float) -> Check:
        """Absorb what is learned from, draw what is kept back; keep the weights if they are the
        best so far."""
        learned = self.own.learned
        chunks = (learned,) if self.is_set else in_chunks_of(learned, CHUNK_FRAMES)
        split = Split(chunks, self.own.kept_back)
        self.model.eval()
        seen = observe_chunks(self.model, self.scene, split.chunks, self.gauge)
        views, _ = render_targets(self.model, self.scene, split, seen.state)
        self.model.train()
        truth = picture_tensor([self.scene.frames[i].image for i in split.targets])
        mask = target_masks(self.scene, split)
        pure_images = [v.memory_image for v in views if v.memory_image is not None]
        drawn = ([v.image for v in views], pure_images)
        scores = [score_images(picture_tensor(images), truth, mask=mask) for images in drawn]
        full, pure = (score.psnr.mean().item() for score in scores)
        sharpness = scores[0].laplacian_ratio.nanmean().item()
        loss = torch.stack(self._losses).mean().item() if self._losses else None
        self._losses = []
        check = Check(self.step, elapsed_s, full, pure, sharpness, loss)
        self.checks.append(check)
        if check is self.best_check:
            self.best = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        return check

    @property
    def best_check(self) -> Check:
        """The first of those that show most of what was kept back, among the sharp enough. More
        detail than the truth has is noise, and may go."""
        least = self.recipe.least_sharpness * min(self.checks[0].sharpness, 1.0)
        sharp = [check for check in self.checks if not check.sharpness < least]  # NaN is no blur
        return max(sharp or self.checks[:1], key=lambda check: check.psnr)

    @property
    def gain_db(self) -> float:
        """What the kept-back inputs gained at best over the weights that were given."""
        return self.best_check.psnr - self.checks[0].psnr

    @property
    def stale_checks(self) -> int:
        """Checks since the best one."""
        return len(self.checks) - 1 - self.checks.index(self.best_check)

    def result(self) -> SceneModel:
        """A model with the best weights, in eval mode."""
        return model_with(self.best, self.model).eval().requires_grad_(False)

    def _episode(self, lesson: Lesson) -> Episode:
        written, asked = lesson.written, lesson.asked
        mask = torch.ones(1, len(asked), dtype=torch.bool, device=self.model.device)
        alone = round(len(asked) * self.recipe.memory_share)
        if alone:
            random = np.random.default_rng((self.seed, self.step, 1))
            mask[0, random.choice(len(asked), alone, replace=False)] = False
        sizes = tuple(len(chunk) for chunk in lesson.chunks)
        gauge = self.gauge.to(self.model.device)
        return Episode(self._views(written), self._views(asked), sizes, gauge, mask)

    def _views(self, indices: tuple[int, ...]) -> Views:
        device = self.model.device
        frames = [self.scene.frames[i] for i in indices]
        cameras = [frame.camera for frame in frames if frame.camera is not None]
        depth = stacked_depth(frames)
        images = image_tensor([frame.image for frame in frames], device)
        times = time_tensor([frame.time_s for frame in frames], device)
        known = None if depth is None else torch.from_numpy(depth)[None].to(device).float()
        placed = Cameras.stack(cameras)[None].to(device=device)
        # mypy takes the optional fields of Views for plain ones in this module
        return Views(images, placed, times, known)  # type: ignore[arg-type]


def adapt(
    adaptation: Adaptation,
    seconds: float,
    checks: int,
    patience: int,
    is_over: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Check]:
    """Learn for `seconds`, until the checks stop gaining, or until `is_over`; yields every check,
    the first before anything was learned. The time of checking doesn't count, nor does that of the
    first step, in which kernels are compiled."""
    yield adaptation.check(0.0)
    learned_s, number = 0.0, 1
    while learned_s < seconds and not is_over():
        begin = clock()
        adaptation.learn(learned_s / seconds)
        if adaptation.step > 1:
            learned_s += clock() - begin
        if learned_s < seconds * number / checks:
            continue
        number = int(checks * learned_s / seconds) + 1
        yield adaptation.check(learned_s)
        if adaptation.stale_checks >= patience:
            return
    if adaptation.checks[-1].step < adaptation.step:
        yield adaptation.check(learned_s)
