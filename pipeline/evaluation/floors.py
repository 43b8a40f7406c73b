"""Floors: what a picture scores without any scene model, from the same inputs.

A model that loses to the mean colour or to a copied frame has failed; one that beats the warp by
true depth, without having been given depth, is very good.

Pictures are uint8 [H, W, 3]; poses `c2w_cv` float64 [N, 4, 4].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from everview.datasets.captures import Frame

WARPED_VIEWS = 4
# Sources of the warp are this many times the target's size, so that few pixels stay empty.
WARP_OVERSAMPLING = 2
# Points within this share of the nearest depth belong to the same surface and are averaged.
SURFACE_THICKNESS = 0.02

Holes = Literal["white", "nearest"]


def mean_colour(inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean colour of all input pixels, float64 [3] of 0 to 255."""
    # whole rows first: the sums are exact, and those over a last axis of three are slow
    sums = [image.sum(0, dtype=np.uint32).sum(0, np.int64) / (image.size // 3) for image in inputs]
    return np.mean(sums, axis=0)


def view_distances(targets: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """How far each input view is from each target view, float64 [T, N], without unit.

    Distance of the centres over its median + angle of the rotation over its median, the medians
    over a target's inputs.
    """
    shift = np.linalg.norm(targets[:, None, :3, 3] - inputs[None, :, :3, 3], axis=-1)
    cosine = (np.einsum("tij,nij->tn", targets[:, :3, :3], inputs[:, :3, :3]) - 1) / 2
    angle = np.arccos(np.clip(cosine, -1, 1))
    return _over_median(shift) + _over_median(angle)


def _over_median(values: np.ndarray) -> np.ndarray:
    median = np.median(values, axis=1, keepdims=True)
    # half of the inputs at the target's own place or angle: the plain values still rank them
    return values / np.where(median > 0, median, 1.0)


def warp_by_depth(
    target: Frame, sources: Sequence[Frame], holes: Holes, nearest: np.ndarray
) -> np.ndarray:
    """The target's view from the sources' pixels at their true depth, float64 [H, W, 3], 0 to 255.

    sources: nearest first, with depth and camera. Each known pixel is a point that falls into one
    target pixel; those within SURFACE_THICKNESS of the nearest one there are averaged (a z-buffer
    with thickness). holes: what an empty pixel shows, white or `nearest`, the nearest input view.
    """
    camera = target.camera
    assert camera is not None
    cells, depths, colours = [], [], []
    for source in sources:
        assert source.camera is not None
        assert source.depth is not None
        known = source.depth > 0
        points = source.camera.unproject(source.camera.pixel_centres()[known], source.depth[known])
        pixels, depth = camera.project(points)
        front = depth > 1e-6 * np.median(source.depth[known]) if known.any() else depth > 0
        column, row = np.floor(np.where(front[:, None], pixels, -1)).astype(np.int64).T
        inside = (
            front & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        )
        cells.append((row * camera.width + column)[inside])
        depths.append(depth[inside])
        colours.append(source.image[known][inside].astype(np.float64))
    cell, depth, colour = np.concatenate(cells), np.concatenate(depths), np.concatenate(colours)
    size = camera.width * camera.height
    surface = np.full(size, np.inf)
    np.minimum.at(surface, cell, depth)
    seen = depth <= surface[cell] * (1 + SURFACE_THICKNESS)
    count = np.bincount(cell[seen], minlength=size)
    sums = [np.bincount(cell[seen], colour[seen, c], minlength=size) for c in range(3)]
    mean = np.stack(sums, -1) / np.maximum(count, 1)[:, None]
    picture = mean.reshape(camera.height, camera.width, 3)
    empty = (count == 0).reshape(camera.height, camera.width)
    picture[empty] = 255.0 if holes == "white" else nearest[empty]
    return picture


def shows_object(inputs: Sequence[np.ndarray], share: float = 0.9) -> bool:
    """Whether the pictures are of an object on white: nearly all border pixels are white."""
    borders = [np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]) for image in inputs]
    return bool((np.concatenate(borders) >= 250).all(-1).mean() >= share)
