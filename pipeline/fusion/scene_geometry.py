"""points.ply and mesh.ply of a scene, from depth views that come one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.fusion.depth_views import DepthView
from everview.pipeline.fusion.mesh import TsdfVolume
from everview.pipeline.fusion.point_cloud import VoxelCloud
from everview.pipeline.rendering.ply import write_mesh, write_point_cloud


@dataclass(frozen=True)
class GeometryReport:
    """What fusion left. missing: file name -> one sentence saying why it is not there."""

    num_views: int
    num_points: int
    num_vertices: int
    num_faces: int
    voxel_size: float
    notes: tuple[str, ...]
    missing: dict[str, str]


class SceneGeometry:
    """Fuses depth views as they come, then writes what they made.

    A mesh that can't be made is a reason in the report's `missing`, never a failure.
    """

    def __init__(self, voxel_size: float, has_mesh: bool = True):
        """voxel_size: edge in world units (`voxel_size_for`)."""
        self.voxel_size = voxel_size
        self.num_views = 0
        self._missing: dict[str, str] = {}
        self._cloud = VoxelCloud(voxel_size)
        self._volume: TsdfVolume | None = None
        if not has_mesh:
            self._missing["mesh.ply"] = "not asked for"
            return
        try:
            self._volume = TsdfVolume(voxel_size)
        except EnvironmentUnfit as error:
            self._missing["mesh.ply"] = str(error)

    def add(self, view: DepthView) -> None:
        """Fuse one view."""
        self._cloud.add(view)
        if self._volume is not None:
            self._volume.add(view)
        self.num_views += 1

    def write(self, out: Path) -> GeometryReport:
        """Write out/points.ply and out/mesh.ply, as far as there is something to write."""
        missing, notes = dict(self._missing), []
        points = self._cloud.points()
        if len(points.points):
            write_point_cloud(out / "points.ply", points)
        else:
            missing["points.ply"] = "no pixel had a depth that could be trusted"
        if self._cloud.voxel_size != self.voxel_size:
            notes.append(f"points were merged to voxels of {self._cloud.voxel_size:.3g}")
        vertices = faces = 0
        if self._volume is not None:
            mesh = self._volume.mesh(least_views=1 if self.num_views < 4 else 2)
            vertices, faces = len(mesh.vertices), len(mesh.faces)
            if faces:
                write_mesh(out / "mesh.ply", mesh)
            else:
                missing["mesh.ply"] = "no surface was seen from enough views to close"
            if self._volume.is_full:
                notes.append("the mesh's volume reached its memory limit: far parts are left out")
        return GeometryReport(
            num_views=self.num_views,
            num_points=len(points.points),
            num_vertices=vertices,
            num_faces=faces,
            voxel_size=self.voxel_size,
            notes=tuple(notes),
            missing=missing,
        )
