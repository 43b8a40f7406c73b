"""The views a stream's geometry is made of: a bounded number, spread over where it has been.

A view joins when it stands apart from all that are there: by `spacing`, which counts the way
between two cameras in depths of the scene and the turn between them in radians. When there are too
many, the spacing grows and those that now stand too close to an earlier one go, as the stride of a
thinned list doubles. Order alone decides, so the same frames give the same views.

What is fused is a function of these views and nothing else. They are part of every snapshot, a few
MiB, and after a kill the voxels are made from them again: a grid of voxels would be ten times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.pipeline.fusion.depth_views import DepthView

SPACING = 0.1  # 10 cm in front of things a metre away, or 6 degrees
_WIDER = 1.5
_THINNED = 0.75  # of the views that may be there stay at most when it grows: it grows seldom


@dataclass(frozen=True, eq=False)
class Keyframe:
    """frame: with camera, and depth float32 [H, W], 0 where it should not be fused. confidence:
    uint8 [H, W], in 255ths, so that a snapshot gives back what was fused."""

    frame: Frame
    confidence: np.ndarray

    def view(self) -> DepthView:
        """As fusion takes it."""
        frame = self.frame
        assert frame.camera is not None
        assert frame.depth is not None
        confidence = self.confidence.astype(np.float32) / np.float32(255)
        return DepthView(frame.camera, frame.image, frame.depth, confidence)


class Keyframes:
    """At most `most` of them, in the order of the stream."""

    def __init__(self, most: int, unit: float, spacing: float = SPACING):
        """unit: the typical depth of the scene, world units."""
        if most < 1:
            raise ValueError(f"{most} keyframes: at least 1")
        self.most, self.unit, self.spacing = most, unit, spacing
        self.items: list[Keyframe] = []

    def is_apart(self, camera: Camera, joining: Sequence[Camera] = ()) -> bool:
        """Whether a view from there would join. joining: others that will."""
        others = [*self._cameras(self.items), *joining]
        return not others or self._nearest(camera, others) >= self.spacing

    def add(self, keyframe: Keyframe) -> bool:
        """Take one that `is_apart`; whether others had to go."""
        self.items.append(keyframe)
        if len(self.items) <= self.most:
            return False
        while len(self.items) > max(1, int(_THINNED * self.most)):
            self.spacing *= _WIDER
            kept: list[Keyframe] = []
            for item, camera in zip(self.items, self._cameras(self.items), strict=True):
                if not kept or self._nearest(camera, self._cameras(kept)) >= self.spacing:
                    kept.append(item)
            self.items = kept
        return True

    @staticmethod
    def _cameras(items: Sequence[Keyframe]) -> list[Camera]:
        return [item.frame.camera for item in items if item.frame.camera is not None]

    def _nearest(self, camera: Camera, among: Sequence[Camera]) -> float:
        poses = np.stack([other.c2w_cv for other in among])
        way = np.linalg.norm(poses[:, :3, 3] - camera.centre, axis=1) / self.unit
        # trace(A^T B) = 1 + 2 cos of the angle between two rotations
        traces = np.einsum("nij,ij->n", poses[:, :3, :3], camera.c2w_cv[:3, :3])
        turn = np.arccos(np.clip((traces - 1) / 2, -1, 1))
        return float((way + turn).min())
