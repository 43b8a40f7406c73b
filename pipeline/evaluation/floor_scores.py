"""The floors of one scene, drawn and scored like the model's pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everview.pipeline.evaluation.floors import (
    WARPED_VIEWS,
    Holes,
    mean_colour,
    shows_object,
    view_distances,
    warp_by_depth,
)
from everview.pipeline.evaluation.image_metrics import ImageScores, score_images
from everview.pipeline.evaluation.lpips_alex import LpipsAlex
from everview.pipeline.evaluation.protocols import Split
from everview.pipeline.evaluation.scene_frames import SceneFrames


@dataclass(frozen=True, eq=False)
class Floors:
    """scores: by floor; those that can't be drawn are in `missing` with the reason.

    nearest: for each target, the index of its nearest input frame.
    """

    scores: dict[str, ImageScores]
    missing: dict[str, str]
    nearest: tuple[int, ...]


def picture_tensor(pictures: list[np.ndarray]) -> Tensor:
    """Pictures [H, W, 3] of 0 to 255 as float32 [V, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def target_masks(scene: SceneFrames, split: Split) -> Tensor | None:
    """bool [V, H, W], False where a target's pixel must be ignored; None when all count."""
    masks = [scene.frames[t].mask for t in split.targets]
    if all(mask is None for mask in masks):
        return None
    full = np.ones(scene.frames[0].image.shape[:2], bool)
    return torch.from_numpy(np.stack([full if m is None else m.astype(bool) for m in masks]))


def score_floors(scene: SceneFrames, split: Split, lpips: LpipsAlex | None) -> Floors:
    """Mean colour, nearest view, and, with depth, the four nearest warped by it."""
    inputs = list(split.inputs)
    images = [scene.frames[i].image for i in inputs]
    truth = picture_tensor([scene.frames[t].image for t in split.targets])
    mask = target_masks(scene, split)
    order = np.argsort(
        view_distances(scene.poses[list(split.targets)], scene.poses[inputs]), axis=1, kind="stable"
    )
    nearest = tuple(inputs[row[0]] for row in order)
    colour = torch.from_numpy(mean_colour(images)).float().view(1, 3, 1, 1) / 255
    drawn = {
        "mean_colour": colour.expand_as(truth),
        "nearest_view": picture_tensor([scene.frames[i].image for i in nearest]),
    }
    missing = {}
    if scene.large:
        holes: Holes = "white" if shows_object(images) else "nearest"
        drawn["depth_warp"] = picture_tensor(
            [
                warp_by_depth(
                    scene.frames[target],
                    [scene.large[inputs[n]] for n in row[:WARPED_VIEWS]],
                    holes,
                    scene.frames[inputs[row[0]]].image,
                )
                for target, row in zip(split.targets, order, strict=True)
            ]
        )
    else:
        missing["depth_warp"] = "the capture has no depth"
    scores = {name: score_images(pictures, truth, lpips, mask) for name, pictures in drawn.items()}
    return Floors(scores, missing, nearest)
