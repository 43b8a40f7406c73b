"""How far a surface is from what a sensor measured: distances to the fused cloud of its depth.

The reference is every depth pixel of the sensor, at its own resolution and not at the stream's,
fused to one point a voxel (20 mm where the world is metric). Distances are from the mesh's
vertices, and from points drawn evenly over its area, to the nearest point of that cloud. A cloud of
points is not a surface: the sensor's own pixels are `floor` away from it, and hardly a mesh can be
nearer. The other way round, `covered` is the share of the cloud that has a vertex within twice the
voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from everview.datasets.captures import Frame, Scale
from everview.pipeline.fusion.depth_views import DepthView, trusted_depth
from everview.pipeline.fusion.point_cloud import VoxelCloud
from everview.pipeline.rendering.ply import Mesh

METRIC_VOXEL = 0.02
_MOST_POINTS = 1_500_000
_SAMPLES = 100_000
_PIXELS_OF_A_FRAME = 500  # for the floor


@dataclass(frozen=True)
class Spread:
    """Of distances, world units: the median and what 90 % stay below."""

    median: float
    p90: float

    @staticmethod
    def of(distances: np.ndarray) -> Spread:
        median, p90 = np.percentile(distances, [50, 90])
        return Spread(float(median), float(p90))


@dataclass(frozen=True)
class SurfaceDistance:
    """World units. covered: share of the reference cloud, 0 to 1."""

    vertices: Spread
    surface: Spread
    floor: Spread
    covered: float
    voxel_size: float
    num_frames: int
    num_points: int


class SensorCloud:
    """The reference, frame by frame: every known pixel but those on depth edges."""

    def __init__(self, voxel_size: float):
        """voxel_size: edge in world units."""
        self.voxel_size = voxel_size
        self.num_frames = 0
        self._cloud = VoxelCloud(voxel_size, _MOST_POINTS)
        self._pixels: list[np.ndarray] = []
        self._random = np.random.default_rng(0)

    def add(self, frame: Frame) -> None:
        """A frame at the sensor's resolution; one without camera or depth says nothing."""
        if frame.depth is None or frame.camera is None:
            return
        depth = np.nan_to_num(frame.depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        view = DepthView(frame.camera, frame.image, depth, np.ones(depth.shape, np.float32))
        self._cloud.add(view)
        self.num_frames += 1
        trusted = trusted_depth(view, 0.0)
        seen = np.flatnonzero(trusted.ravel() > 0)
        if len(seen):
            some = self._random.choice(seen, min(len(seen), _PIXELS_OF_A_FRAME), replace=False)
            pixels = frame.camera.pixel_centres().reshape(-1, 2)[some]
            self._pixels.append(frame.camera.unproject(pixels, trusted.ravel()[some]))

    def distance_of(self, mesh: Mesh) -> SurfaceDistance | None:
        """None where there is no cloud, or no mesh to measure."""
        points = self._cloud.points().points
        if not len(points) or not len(mesh.faces):
            return None
        tree = cKDTree(points)
        vertices = mesh.vertices.astype(np.float64)
        around, _ = cKDTree(vertices).query(points, distance_upper_bound=2 * self.voxel_size)
        return SurfaceDistance(
            vertices=Spread.of(tree.query(vertices)[0]),
            surface=Spread.of(tree.query(sampled(mesh, _SAMPLES))[0]),
            floor=Spread.of(tree.query(np.concatenate(self._pixels))[0]),
            covered=float(np.isfinite(around).mean()),
            voxel_size=self._cloud.voxel_size,
            num_frames=self.num_frames,
            num_points=len(points),
        )


def reference_voxel(scale: Scale, voxel_size: float) -> float:
    """Of the reference cloud: 20 mm, or the mesh's own where the world has no metres."""
    return METRIC_VOXEL if scale == "metric" else voxel_size


def sampled(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    """Points drawn evenly over a mesh's area, float64 [count, 3]."""
    random = np.random.default_rng(seed)
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(across, axis=1)
    chosen = corners[random.choice(len(corners), count, p=area / area.sum())]
    u, v = random.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return chosen[:, 0] + u * (chosen[:, 1] - chosen[:, 0]) + v * (chosen[:, 2] - chosen[:, 0])
