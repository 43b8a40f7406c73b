"""Pairs of held-out scenes: how far matches, and the camera motion they say, are off."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from everview.models.pairs.config import STRIDE
from everview.models.pairs.geometry import fit_pose, rotation_error
from everview.models.pairs.matcher import PairMatcher, to_plane
from everview.pipeline.training.config import World
from everview.pipeline.training.held_out import world_name
from everview.pipeline.training.pairs.config import PairTrainConfig
from everview.pipeline.training.pairs.drawing import chosen_pairs
from everview.pipeline.training.pairs.truth import PairViews, pair_truth
from everview.pipeline.training.scene_pool import HELD_OUT_SEEDS, RenderScenes

_WORLDS = (World("room", trajectory="video"), World("room", dynamic=True, trajectory="video"),
           World("room"), World("tabletop", trajectory="video"))  # fmt: skip
_APART = (1, 4)  # frames of a video
_LEAST_SHARED = 0.25


def held_out_pairs(
    config: PairTrainConfig, render: RenderScenes, device: torch.device
) -> dict[str, PairViews]:
    """Pairs by name: of videos 1 and 4 frames apart, of views at random any two."""
    seeds = np.arange(HELD_OUT_SEEDS, HELD_OUT_SEEDS + config.held_out_scenes)
    scenes, zero = torch.arange(len(seeds)), torch.zeros(len(seeds), dtype=torch.long)
    found = {}
    for world in _WORLDS:
        views = render(world, seeds, max(_APART) + 1, config.data.size, device)
        for apart in _APART if world.trajectory == "video" else _APART[:1]:
            name = f"{world_name(world)}" + (f"/{apart}" if world.trajectory == "video" else "")
            found[name] = chosen_pairs(views, scenes, zero, zero + apart, config.data.size)
    return found


@torch.no_grad()
def measure_pairs(model: PairMatcher, pairs: dict[str, PairViews]) -> dict[str, float]:
    """Medians over pairs that share a quarter of what they see, by `name/figure`; NaN without.

    pixels: error of visible matches; turn_deg, shift: of the pose by weighted matches and exact
    depth from no start, in degrees and in shares of the median depth.
    """
    figures: dict[str, float] = {}
    for name, views in pairs.items():
        a = model.describe(views.images_a, views.intrinsics_a)
        b = model.describe(views.images_b, views.intrinsics_b)
        matches = model.compare(a, b)
        truth = pair_truth(views, STRIDE)
        seen = truth.visible & truth.judged
        error = (matches.position.flatten(1, 2) - truth.position).norm(dim=-1)
        target = to_plane(matches.position.flatten(1, 2), views.intrinsics_b)
        start = torch.eye(4, device=target.device).expand(len(target), 4, 4)
        weight = matches.confidence.flatten(1) * truth.known
        fit = fit_pose(truth.rays, truth.rho, target, weight, start, steps=12)
        turn = rotation_error(fit.motion[:, :3, :3], truth.motion[:, :3, :3]).rad2deg()
        shift = (fit.motion[:, :3, 3] - truth.motion[:, :3, 3]).norm(dim=-1)
        told = (truth.visible & truth.known).float().mean(1) > _LEAST_SHARED
        figures[f"{name}/pixels"] = _median(error[seen])
        figures[f"{name}/turn_deg"] = _median(turn[told])
        figures[f"{name}/shift"] = _median(shift[told])
    return figures


def _median(values: Tensor) -> float:
    return float(values.median()) if values.numel() else float("nan")
