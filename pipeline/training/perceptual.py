"""LPIPS-alex as a loss, from the same features that the evaluation uses."""

from __future__ import annotations

import torch
from torch import Tensor

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.training.config import LossConfig
from everview.pipeline.training.losses import Perceptual

STRIDE = 2
"""Every n-th target of a scene counts: AlexNet on all would cost more than it teaches."""


def open_perceptual(config: LossConfig, device: torch.device, side: int) -> Perceptual | None:
    """The distance as a differentiable mean over images; None where the loss never weighs it.

    side: of the smallest views, pixels. Raises EnvironmentUnfit when the lpips package or AlexNet's
    weights are missing, and for views too small for it.
    """
    if config.perceptual.first == config.perceptual.last == 0:
        return None
    distance, why_not = search_perceptual(device, side)
    if distance is None:
        raise EnvironmentUnfit(
            f"the loss weighs LPIPS, which can't be computed here ({why_not}); "
            "set --loss.perceptual.last 0 or provide it"
        )
    return distance


def search_perceptual(device: torch.device, side: int) -> tuple[Perceptual | None, str]:
    """The distance for views whose shorter side is at least `side` pixels, or None and the reason
    why it can't be computed; and where its features are."""
    try:
        from everview.pipeline.evaluation.lpips_alex import LpipsAlex, search_backbone

        backbone, note = search_backbone(download=False, side=side)
        if backbone is None:
            return None, note
        network = LpipsAlex(backbone, device).network
    except ImportError as error:
        return None, str(error)

    def distance(images: Tensor, truth: Tensor) -> Tensor:
        shown, right = (views[:, ::STRIDE].flatten(0, 1) for views in (images, truth))
        return network(shown.clamp(0, 1), right, normalize=True).float().mean()

    return distance, note
