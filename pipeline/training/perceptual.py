"""LPIPS-alex as a loss, from the same features that the evaluation uses."""

from __future__ import annotations

import torch
from torch import Tensor

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.training.config import LossConfig
from everview.pipeline.training.losses import Perceptual

STRIDE = 2
"""Every n-th target of a scene counts: AlexNet on all would cost more than it teaches."""


def open_perceptual(config: LossConfig, device: torch.device) -> Perceptual | None:
    """The distance as a differentiable mean over images; None where the loss never weighs it.

    Raises EnvironmentUnfit when the lpips package or AlexNet's weights are missing.
    """
    if config.perceptual.first == config.perceptual.last == 0:
        return None
    try:
        from everview.pipeline.evaluation.lpips_alex import (
            BackboneMissingError,
            LpipsAlex,
            find_backbone,
        )

        network = LpipsAlex(find_backbone(download=False), device).network
    except (ImportError, BackboneMissingError) as error:
        raise EnvironmentUnfit(
            f"the loss weighs LPIPS, which can't be computed here ({error}); "
            "set --loss.perceptual.last 0 or provide it"
        ) from error

    def distance(images: Tensor, truth: Tensor) -> Tensor:
        shown, right = (views[:, ::STRIDE].flatten(0, 1) for views in (images, truth))
        return network(shown.clamp(0, 1), right, normalize=True).float().mean()

    return distance
