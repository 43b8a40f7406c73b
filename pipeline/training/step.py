"""The one training step: every trainer and every benchmark of training calls this function.

It never waits for the device: what it returns are tensors there, to be read every few dozen steps.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everview.models.config import ModelConfig
from everview.models.context import Context
from everview.models.episode import Episode
from everview.models.scene_model import SceneModel
from everview.models.schedule import Schedule
from everview.pipeline.training.losses import (
    LossWeights,
    Perceptual,
    bank_means,
    bank_split,
    episode_loss,
)
from everview.pipeline.training.optimisers import Updater
from everview.pipeline.training.precision import mixed_precision


@dataclass(frozen=True)
class StepResult:
    """What one step did, on all ranks; scalars on the device, detached."""

    losses: dict[str, Tensor]
    """each part before its weight, and `loss`, their weighted sum"""
    gradient_norm: Tensor
    """global norm before clipping"""
    accepted: Tensor
    """1, or 0 when the step was skipped"""
    tokens: int
    """patches of inputs and targets that went through the model"""


class Objective(nn.Module):
    """A model and what it is trained on: the loss of an episode.

    `perceptual` is needed when it has a weight. context: the ranks that share every capture.
    """

    def __init__(
        self,
        model: SceneModel,
        perceptual: Perceptual | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.perceptual = perceptual
        self.context = context or Context()

    def forward(
        self, episode: Episode, schedule: Schedule, weights: LossWeights
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss, its parts before their weights (`episode_loss`), and `bank_split`.

        Runs under bfloat16 autocast on a GPU and in float32 on a CPU.
        """
        with self.precision():
            _, outputs = self.model(episode, schedule, self.context)
        own = episode.own_part(self.context, schedule)
        loss, parts = episode_loss(outputs, own, weights, self.perceptual, self.context)
        return loss, parts, bank_split(outputs, own)

    def precision(self) -> AbstractContextManager[Any]:
        """The context of the model's arithmetic."""
        return mixed_precision(self.model.device)


def training_step(
    objective: Objective,
    optimiser: Updater,
    episode: Episode,
    schedule: Schedule,
    weights: LossWeights,
    rate_factor: float | Tensor,
    micro_batches: int = 1,
) -> StepResult:
    """Forward, loss, backward, clip, update, for one episode at `rate_factor` of the full rate.

    episode: this rank's scenes, which go through the model in `micro_batches` equal groups. The
    weights and the factor are numbers, or scalars on the device
    (`everview.pipeline.training.captured`). After an error nothing of the step is left.
    """
    means, splits = [], []
    try:
        for part in episode.micro_batches(micro_batches):
            loss, parts, split = objective(part, schedule, weights)
            optimiser.backward(loss, micro_batches)
            means.append(torch.stack([loss.detach(), *(term.detach() for term in parts.values())]))
            splits.append(split)
    except BaseException:
        optimiser.drop()
        raise
    told = torch.cat([torch.stack(means).mean(0).float(), torch.stack(splits).sum(0)])
    told = optimiser.ranks.mean(told)
    verdict = optimiser.step(rate_factor)
    losses = dict(zip(("loss", *parts), told.unbind(), strict=False))
    return StepResult(
        losses={**losses, **bank_means(told[-4:])},
        gradient_norm=verdict.norm,
        accepted=verdict.accepted,
        tokens=count_tokens(episode, objective.model.config) * optimiser.ranks.share.count,
    )


def count_tokens(episode: Episode, config: ModelConfig) -> int:
    """Tokens of an episode's inputs and targets together."""
    total = 0
    for views in (episode.inputs, episode.targets):
        grid = config.token_grid(views.cameras.height, views.cameras.width)
        total += math.prod((*views.cameras.shape, *grid))
    return total
