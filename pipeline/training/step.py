"""The one training step: every trainer and every benchmark of training calls this function.

It never waits for the device: what it returns are tensors there, to be read every few dozen steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from everview.models.episode import Episode
from everview.models.scene_model import SceneModel
from everview.models.schedule import Schedule
from everview.pipeline.training.losses import LossWeights, Perceptual, episode_loss
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.precision import mixed_precision


@dataclass(frozen=True)
class StepResult:
    """What one step did; scalars on the device, detached."""

    losses: dict[str, Tensor]
    """each part before its weight, and `loss`, their weighted sum"""
    gradient_norm: Tensor
    """global norm before clipping"""
    accepted: Tensor
    """1, or 0 when the step was skipped"""
    tokens: int
    """patches of inputs and targets that went through the model"""


def training_step(
    model: SceneModel,
    optimiser: Optimiser,
    episode: Episode,
    schedule: Schedule,
    weights: LossWeights,
    rate_factor: float | Tensor,
    perceptual: Perceptual | None = None,
) -> StepResult:
    """Forward, loss, backward, clip, update, for one episode at `rate_factor` of the full rate.

    Runs under bfloat16 autocast on a GPU and in float32 on a CPU. The weights and the factor are
    numbers, or scalars on the device (`everview.pipeline.training.captured`). `perceptual` is
    needed when it has a weight.
    """
    with mixed_precision(model.device):
        _, outputs = model.forward(episode, schedule)
    loss, parts = episode_loss(outputs, episode, weights, perceptual)
    loss.backward()
    verdict = optimiser.step(rate_factor)
    return StepResult(
        losses={"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}},
        gradient_norm=verdict.norm,
        accepted=verdict.accepted,
        tokens=count_tokens(episode, model.config.patch),
    )


def count_tokens(episode: Episode, patch: int) -> int:
    """Patches in an episode's inputs and targets together."""
    total = 0
    for views in (episode.inputs, episode.targets):
        scenes, count = views.cameras.shape
        total += scenes * count * (views.cameras.width // patch) * (views.cameras.height // patch)
    return total
