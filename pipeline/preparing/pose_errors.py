"""How far one set of camera poses is from another, whatever their worlds and scales.

`python -m everview.pipeline.preparing.pose_errors SET CAPTURE` compares the poses in prepared
shards with those that a capture states, view by view, by file name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from everview.datasets.errors import DataError
from everview.pipeline.posing.trajectory_errors import rotation_angles


@dataclass(frozen=True)
class PoseErrors:
    """After the similarity that fits the camera centres best.

    rotation_deg: angle between the two rotations of a camera. translation: distance of the two
    centres, as a share of the extent (largest distance of a true centre from their mean).
    """

    views: int
    scale: float
    rotation_deg_mean: float
    rotation_deg_max: float
    translation_rmse: float
    translation_max: float

    def as_text(self) -> str:
        """One line for people."""
        return (
            f"{self.views} views after a similarity fit (scale {self.scale:.4g}): rotation "
            f"{self.rotation_deg_mean:.3f} deg mean, {self.rotation_deg_max:.3f} max; translation "
            f"{100 * self.translation_rmse:.3f} % of the extent RMSE, "
            f"{100 * self.translation_max:.3f} % max"
        )


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """scale, rotation [3, 3] and shift [3] that take points `source` [N, 3] to `target` best.

    Least squares (Umeyama, TPAMI 1991). Raises ValueError with fewer than 3 points, or all of them
    at one place.
    """
    if len(source) < 3 or source.shape != target.shape:
        raise ValueError(f"a similarity needs 3 pairs of points, not {len(source)}")
    middle, goal = source.mean(0), target.mean(0)
    a, b = source - middle, target - goal
    spread = (a**2).sum()
    if spread < 1e-24 or (b**2).sum() < 1e-24:
        raise ValueError("all points are at one place: their similarity is not determined")
    u, values, vt = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((values * signs).sum() / spread)
    return scale, rotation, goal - scale * rotation @ middle


def pose_errors(found: np.ndarray, true: np.ndarray) -> PoseErrors:
    """Compare camera-to-world [N, 4, 4] with the true ones, in any similar world."""
    scale, rotation, shift = fit_similarity(found[:, :3, 3], true[:, :3, 3])
    centres = scale * found[:, :3, 3] @ rotation.T + shift
    turned = rotation @ found[:, :3, :3]
    angles = np.degrees(rotation_angles(np.swapaxes(turned, -1, -2) @ true[:, :3, :3]))
    goal = true[:, :3, 3]
    extent = np.linalg.norm(goal - goal.mean(0), axis=-1).max()
    distances = np.linalg.norm(centres - goal, axis=-1) / extent
    return PoseErrors(
        views=len(found),
        scale=scale,
        rotation_deg_mean=float(angles.mean()),
        rotation_deg_max=float(angles.max()),
        translation_rmse=float(np.sqrt((distances**2).mean())),
        translation_max=float(distances.max()),
    )


def compare_with_capture(where: str, capture: str) -> PoseErrors:
    """The poses in the set at `where` against those of a capture, by the views' file names.

    Raises DataError when fewer than 3 names agree.
    """
    from everview.datasets.listed import ListedCapture
    from everview.datasets.opening import open_capture
    from everview.datasets.shards import open_shards

    opened = open_capture(capture)
    if not isinstance(opened, ListedCapture):
        raise DataError(f"{capture} is a video, which states no poses to compare with")
    true = {
        PurePath(record.name).stem: record.c2w_cv
        for record in opened.records
        if record.c2w_cv is not None
    }
    pairs = []
    for scene in open_shards(where).read():
        for name, pose in zip(scene.view_names, scene.cameras.c2w_cv.numpy(), strict=True):
            known = true.get(PurePath(name).stem)
            if known is not None:
                pairs.append((pose, known))
    if len(pairs) < 3:
        raise DataError(f"{where} and {capture} have {len(pairs)} view names in common; 3 at least")
    found, known_poses = (np.stack(part) for part in zip(*pairs, strict=True))
    return pose_errors(found, known_poses)


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("set", help="prepared shards: a path or URL")
    parser.add_argument("capture", help="a capture that states poses")
    given = parser.parse_args(words)
    try:
        print(compare_with_capture(given.set, given.capture).as_text())
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
