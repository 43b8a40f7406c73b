"""Dense RGB-D registration of two frames: Open3D's tensor odometry, on one thread.

Multi-scale Gauss-Newton on point-to-plane and intensity residuals together (Park, Zhou, Koltun,
Colored Point Cloud Registration Revisited, ICCV 2017), Huber-weighted. Open3D 0.20 adds up in
parallel in no fixed order (40 runs on one pair gave 40 results, up to 1 cm apart where it converges
slowly), so it is held to one thread here: a stream that was resumed should not differ. On some
processors (an AMD EPYC without AVX-512) one thread isn't enough: a call repeated at once gives the
same bits, but after other work, when its memory lies elsewhere, poses up to 0.1 mm apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.pipeline.fusion.mesh import import_open3d
from everview.pipeline.posing.agreement import known_depth

_ITERATIONS = (10, 15, 15)  # coarse to fine
_TRUNCATION = 0.03  # shares of the keyframe's median depth: what is an outlier, where Huber bends
_HUBER = 0.02
_INTENSITY_HUBER = 0.1


class Refiner:
    """Raises EnvironmentUnfit without Open3D."""

    def __init__(self) -> None:
        self._o3d = import_open3d("--poses odometry needs")
        self._odometry = self._o3d.t.pipelines.odometry

    def refine(self, frame: Frame, key: Frame, start: np.ndarray) -> np.ndarray | None:
        """The motion [4, 4] from the frame's axes to the keyframe's, from a start near it; None
        when the equations are singular. Both have depth, one size and the same intrinsics."""
        assert key.camera is not None
        odometry, core = self._odometry, self._o3d.core
        depth = known_depth(key)
        middle = float(np.median(depth[depth > 0]))
        farthest = float(max(depth.max(), known_depth(frame).max()))
        intrinsics = key.camera.intrinsics
        intrinsics[:2, 2] -= 0.5  # Open3D's first pixel has its centre at 0
        criteria = [odometry.OdometryConvergenceCriteria(count) for count in _ITERATIONS]
        loss = odometry.OdometryLossParams(_TRUNCATION * middle, _HUBER * middle, _INTENSITY_HUBER)
        with self._one_thread():
            try:
                result = odometry.rgbd_odometry_multi_scale(
                    self._rgbd(frame), self._rgbd(key), core.Tensor(intrinsics),
                    core.Tensor(np.asarray(start, np.float64)), 1.0, 1.01 * farthest,
                    criteria, odometry.Method.Hybrid, loss,
                )  # fmt: skip
            except RuntimeError:  # "Singular 6x6 linear system": too little is in common
                return None
        motion: np.ndarray = result.transformation.cpu().numpy().astype(np.float64)
        return motion if np.isfinite(motion).all() else None

    def _rgbd(self, frame: Frame) -> Any:
        image, core = self._o3d.t.geometry.Image, self._o3d.core
        colour = image(core.Tensor(np.ascontiguousarray(frame.image)))
        return self._o3d.t.geometry.RGBDImage(colour, image(core.Tensor(known_depth(frame))))

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        self._o3d.utility.set_max_threads(1)
        try:
            yield
        finally:
            self._o3d.utility.set_max_threads(0)  # as it was: the mesh is fused with all of them
