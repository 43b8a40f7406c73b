"""points.ply and mesh.ply of a scene, fused while views come, in bounded memory.

The views are `Keyframes`: a bounded number of them, and everything here follows from them in their
order. When they are thinned, voxels are made again from those that stay; when the mesh's grid
would outgrow its budget, it is made again with voxels of twice the size. So a walk that never ends
gets coarser rather than larger, and a session that was killed makes the same voxels again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.fusion.keyframes import Keyframe, Keyframes
from everview.pipeline.fusion.mesh import TsdfVolume
from everview.pipeline.fusion.point_cloud import VoxelCloud
from everview.pipeline.rendering.ply import Mesh, PointCloud, write_mesh, write_point_cloud

POINTS_NAME, MESH_NAME = "points.ply", "mesh.ply"
_GRID_GIB = 0.25


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
    """Fuses keyframes as they come, then writes what they made.

    A mesh that can't be made is a reason in the report's `missing`, never a failure.
    """

    def __init__(
        self,
        keyframes: Keyframes,
        voxel_size: float,
        has_mesh: bool = True,
        mesh_voxel_size: float | None = None,
        grid_gib: float = _GRID_GIB,
    ):
        """keyframes: those so far, fused here and now. voxel_size: edge in world units
        (`voxel_size_for`). mesh_voxel_size: what the mesh's had grown to. grid_gib: its budget."""
        self.keyframes = keyframes
        self.voxel_size = voxel_size
        self.mesh_voxel_size = mesh_voxel_size or voxel_size
        self._grid_gib = grid_gib
        self._missing: dict[str, str] = {}
        self._cloud = VoxelCloud(voxel_size)
        self._volume: TsdfVolume | None = None
        self._has_mesh = has_mesh
        if not has_mesh:
            self._missing[MESH_NAME] = "not asked for"
        self._fuse_again()

    @property
    def num_views(self) -> int:
        """Views that the geometry is made of now."""
        return len(self.keyframes.items)

    def add(self, keyframe: Keyframe) -> None:
        """Fuse one more, which `keyframes.is_apart` let in."""
        if self.keyframes.add(keyframe):
            self._fuse_again()
            return
        view = keyframe.view()
        self._cloud.add(view)
        if self._volume is not None:
            self._volume.add(view)
            if self._volume.is_full:
                self._volume = self._filled_volume()

    def points(self) -> PointCloud:
        """The cloud so far."""
        return self._cloud.points()

    def mesh(self) -> Mesh | None:
        """The surface so far; None where it can't be made."""
        if self._volume is None:
            return None
        return self._volume.mesh(least_views=1 if self.num_views < 4 else 2)

    def write_points(self, out: Path) -> int:
        """Write out/points.ply if there are any, for those who look while it grows; how many."""
        points = self.points()
        if len(points.points):
            write_point_cloud(out / POINTS_NAME, points)
        return len(points.points)

    def write(self, out: Path) -> GeometryReport:
        """Write out/points.ply and out/mesh.ply, as far as there is something to write."""
        missing, notes = dict(self._missing), []
        num_points = self.write_points(out)
        if not num_points:
            missing[POINTS_NAME] = "no pixel had a depth that could be trusted"
        if self._cloud.voxel_size != self.voxel_size:
            notes.append(f"points were merged to voxels of {self._cloud.voxel_size:.3g}")
        vertices = faces = 0
        if (mesh := self.mesh()) is not None:
            vertices, faces = len(mesh.vertices), len(mesh.faces)
            if faces:
                write_mesh(out / MESH_NAME, mesh)
            else:
                missing[MESH_NAME] = "no surface was seen from enough views to close"
            if self.mesh_voxel_size != self.voxel_size:
                notes.append(f"the mesh was made with voxels of {self.mesh_voxel_size:.3g}")
        for name in missing:  # of an earlier attempt
            (out / name).unlink(missing_ok=True)
        return GeometryReport(
            num_views=self.num_views,
            num_points=num_points,
            num_vertices=vertices,
            num_faces=faces,
            voxel_size=self.voxel_size,
            notes=tuple(notes),
            missing=missing,
        )

    def _fuse_again(self) -> None:
        self._cloud = VoxelCloud(self.voxel_size)
        for keyframe in self.keyframes.items:
            self._cloud.add(keyframe.view())
        if self._has_mesh:
            self._volume = self._filled_volume()

    def _filled_volume(self) -> TsdfVolume | None:
        """All keyframes in a grid of voxels as fine as its budget allows; None without Open3D."""
        try:
            volume = TsdfVolume(self.mesh_voxel_size, self._grid_gib)
        except EnvironmentUnfit as error:
            self._missing[MESH_NAME] = str(error)
            return None
        for keyframe in self.keyframes.items:
            volume.add(keyframe.view())
            if volume.is_full:
                self.mesh_voxel_size *= 2
                return self._filled_volume()
        return volume
