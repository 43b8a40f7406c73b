"""What training minimises: pictures, pictures of the memory alone, depth and confidence.

    L = w_r MSE(rgb) + w_b MSE(rgb before the copy) + w_d mean |log d - log d*|
        + w_c (|error| / b + log b) + w_h charbonnier(rgb) + w_p LPIPS(rgb)

An episode's bank mask marks targets that may not use the frame bank: their picture is the memory's
alone, so the memory learns to be a picture and not only an index. Each weight is a ramp over the
run's progress; the terms that sharpen (Charbonnier, LPIPS) enter with the cooldown. Depth enters
in logarithms and in the model's gauge. b is the predicted Laplace scale of the colour error, which
is detached: no picture is made worse to be more predictable.

Every term is a mean over scenes of something that belongs to a scene, so that the mean over
micro-batches and over ranks is the term of the whole batch. Where a scene's views are divided among
ranks, what a scene counts is counted over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from everview.models.context import Context
from everview.models.episode import Episode
from everview.models.scene_model import EpisodeOutputs, Outputs

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Two batches of views [B, V, 3, H, W] in [0, 1] to their mean distance."""

LossWeights = Mapping[str, float | Tensor]
"""The terms of a step's loss by name (`LossConfig.at`), and how much each counts: numbers, or
scalars on the device, which a captured step can change."""

CHARBONNIER_EPSILON = 1e-3
BANK_MEANS = ("rgb", "memory_rgb")
"""Mean squared errors with and without the frame bank, as `bank_means` names them."""


def episode_loss(
    outputs: EpisodeOutputs,
    episode: Episode,
    weights: LossWeights,
    perceptual: Perceptual | None = None,
    context: Context | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and each part before its weight; only parts with a weight are computed.

    `perceptual` is needed when it has a weight. context: the ranks whose parts of the same scenes'
    views `outputs` and `episode` are; their mean is the loss.
    """
    context = context or Context()
    targets, truth = outputs.targets, episode.targets.images
    assert targets.rgb is not None
    assert truth is not None
    error = targets.rgb.float() - truth
    parts = {}
    if "picture" in weights:
        parts["picture"] = error.square().mean()
    if "direct" in weights and targets.direct_rgb is not None:
        parts["direct"] = (targets.direct_rgb.float() - truth).square().mean()
    if "depth" in weights and episode.targets.depth is not None:
        parts["depth"] = depth_error(targets, episode.targets.depth, episode, context)
    if "input_depth" in weights and episode.inputs.depth is not None:
        seen = episode.inputs.depth
        parts["input_depth"] = depth_error(outputs.inputs, seen, episode, context)
    if "confidence" in weights and targets.log_scale is not None:
        parts["confidence"] = laplace_nll(error.detach().abs().mean(2), targets.log_scale)
    if "charbonnier" in weights:
        parts["charbonnier"] = (error.square() + CHARBONNIER_EPSILON**2).sqrt().mean()
    if "perceptual" in weights:
        if perceptual is None:
            raise ValueError("a perceptual weight needs a perceptual distance")
        parts["perceptual"] = perceptual(targets.rgb.float(), truth)
    loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    return loss, parts


def bank_split(outputs: EpisodeOutputs, episode: Episode) -> Tensor:
    """Squared errors of the targets with the frame bank, and of those without, and how many each
    are: [4], sums that add up over micro-batches and ranks (`bank_means`)."""
    targets, truth = outputs.targets, episode.targets.images
    assert targets.rgb is not None
    assert truth is not None
    squared = (targets.rgb.detach().float() - truth).square().mean((2, 3, 4))
    mask = episode.bank_mask
    used = torch.ones_like(squared) if mask is None else mask.float()
    rest = 1 - used
    return torch.stack([(squared * used).sum(), (squared * rest).sum(), used.sum(), rest.sum()])


def bank_means(split: Tensor) -> dict[str, Tensor]:
    """`rgb` and `memory_rgb`, the mean squared errors with and without the frame bank; NaN for a
    kind that no target was of."""
    return dict(zip(BANK_MEANS, (split[:2] / split[2:]).unbind(), strict=True))


def depth_error(
    outputs: Outputs, depth: Tensor, episode: Episode, context: Context | None = None
) -> Tensor:
    """Log-depth error against world depth [B, V, H, W], before and after the copy refines it."""
    truth = episode.gauge.depth_to_model(depth)
    assert outputs.log_depth is not None
    error = log_depth_error(outputs.log_depth, truth, context)
    if outputs.log_depth_direct is None or outputs.log_depth_direct is outputs.log_depth:
        return error
    return (error + log_depth_error(outputs.log_depth_direct, truth, context)) / 2


def log_depth_error(
    log_depth: Tensor, true_depth: Tensor, context: Context | None = None
) -> Tensor:
    """Mean over scenes of the mean |log d - log d*| over a scene's pixels with d* > 0, [B, V, H, W]
    each; a scene without any counts as 0."""
    context = context or Context()
    known = true_depth > 0
    log_truth = torch.where(known, true_depth, 1.0).log()
    error = torch.where(known, log_depth.float() - log_truth, 0.0).abs()
    count = context.mean(known.sum((1, 2, 3)).float())
    return (error.sum((1, 2, 3)) / count.clamp(min=1 / context.count)).mean()


def laplace_nll(error: Tensor, log_scale: Tensor) -> Tensor:
    """Mean of e / b + log b with b = exp(log_scale): least at b = e. Both [B, V, H, W]."""
    log_scale = log_scale.float().clamp(min=-7.0)
    return (error * (-log_scale).exp() + log_scale).mean()
