"""Sparse features between two pictures: where to start when they are far apart.

SIFT (Lowe, IJCV 2004) and an absolute pose by P3P in LO-RANSAC, both pycolmap's, on one thread and
with a fixed seed, so that the same pictures give the same start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera, invert_rigid
from everview.datasets.captures import Frame
from everview.pipeline.posing.agreement import grey, known_depth
from everview.pipeline.preparing.poses_by_sfm import import_pycolmap

_MOST = 1500
_PEAK = 0.004  # below COLMAP's 0.0067: small pictures have few
_RATIO = 0.85  # of the angles to the best and to the second best descriptor
_LEAST_MATCHES = 10
_ERROR_SHARE = 0.012  # of the short side: how far a point may be off, in pixels


@dataclass(frozen=True, eq=False)
class Features:
    """points: float64 [N, 2] pixels, first pixel's centre 0.5. descriptors: float32 [N, 128]."""

    points: np.ndarray
    descriptors: np.ndarray


@dataclass(frozen=True, eq=False)
class Start:
    """A motion [4, 4] that takes the frame's axes to the keyframe's, and how many points say so."""

    motion: np.ndarray
    inliers: int


class FeatureMatcher:
    """Finds and matches. Raises EnvironmentUnfit without pycolmap."""

    def __init__(self, purpose: str = "--poses odometry") -> None:
        self._pycolmap = import_pycolmap(purpose)
        options = self._pycolmap.FeatureExtractionOptions()
        options.use_gpu, options.num_threads = False, 1
        options.sift.max_num_features = _MOST
        options.sift.peak_threshold = _PEAK
        self._sift = self._pycolmap.FeatureExtractor.create(options, self._pycolmap.Device.cpu)

    def find(self, image: np.ndarray) -> Features:
        """The features of uint8 [H, W, 3]."""
        keypoints, described = self._sift.extract_from_float32_array(grey(image))
        points = self._pycolmap.keypoints_to_matrix(keypoints)[:, :2].astype(np.float64)
        descriptors = np.array(described.data, np.float32)
        norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
        return Features(points, descriptors / np.maximum(norms, 1e-9))

    def match(self, a: Features, b: Features) -> np.ndarray:
        """Pairs of indices [M, 2]: mutually nearest, and clearly nearer than the second."""
        if len(a.points) < 2 or len(b.points) < 2:
            return np.zeros((0, 2), int)
        cosines = a.descriptors @ b.descriptors.T
        best = cosines.argmax(1)
        is_mutual = cosines.argmax(0)[best] == np.arange(len(best))
        two = np.arccos(np.clip(np.sort(cosines, axis=1)[:, -2:], -1, 1))
        kept = np.nonzero(is_mutual & (two[:, 1] < _RATIO * two[:, 0]))[0]
        return np.stack([kept, best[kept]], axis=-1)

    def start(self, frame: Frame, mine: Features, key: Frame, theirs: Features) -> Start | None:
        """Where `frame` is in the axes of `key`, by the key's depth; None when too little matches.

        Both frames have cameras, of which only the intrinsics are used.
        """
        assert frame.camera is not None
        assert key.camera is not None
        pairs = self.match(mine, theirs)
        seen = theirs.points[pairs[:, 1]]
        depth = known_depth(key)
        rows = np.clip(seen[:, 1].astype(int), 0, depth.shape[0] - 1)
        columns = np.clip(seen[:, 0].astype(int), 0, depth.shape[1] - 1)
        z = depth[rows, columns].astype(np.float64)
        known = z > 0
        if known.sum() < _LEAST_MATCHES:
            return None
        points = key.camera.moved(np.eye(4)).unproject(seen[known], z[known])
        found = self._absolute_pose(mine.points[pairs[known, 0]], points, frame.camera)
        if found is None or found["num_inliers"] < _LEAST_MATCHES:
            return None
        frame_from_key = np.vstack([found["cam_from_world"].matrix(), [0.0, 0.0, 0.0, 1.0]])
        return Start(invert_rigid(frame_from_key), int(found["num_inliers"]))

    def _absolute_pose(self, pixels: np.ndarray, points: np.ndarray, camera: Camera) -> Any:
        lens = self._pycolmap.Camera(
            model="PINHOLE",
            width=camera.width,
            height=camera.height,
            params=[camera.fx, camera.fy, camera.cx, camera.cy],
        )
        options = self._pycolmap.AbsolutePoseEstimationOptions()
        options.ransac.max_error = max(1.5, _ERROR_SHARE * min(camera.width, camera.height))
        options.ransac.random_seed, options.ransac.num_threads = 0, 1
        options.ransac.max_num_trials = 2000
        return self._pycolmap.estimate_and_refine_absolute_pose(pixels, points, lens, options)
