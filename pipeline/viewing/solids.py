"""points.ply and mesh.ply of a run in a page's scene, bounded, off until asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everview.datasets.errors import DataError
from everview.pipeline.rendering.ply import Mesh, PointCloud, read_ply
from everview.pipeline.report.contents import is_own_file

if TYPE_CHECKING:
    from viser import ViserServer

MOST_POINTS = 150_000
MOST_FACES = 300_000
_MOST_BYTES = 512 * 2**20


class Solids:
    """Loads the files when they are there, and again when they have been written anew."""

    def __init__(self, server: ViserServer, run: Path):
        self._server, self._run = server, run
        self._loaded: dict[str, int] = {}
        self._nodes: dict[str, Any] = {}
        self.notes: dict[str, str] = {}

    def update(self, radius: float) -> bool:
        """Look for the files; radius: the scene's, for the size of points. Whether one is new."""
        is_new = False
        for name in ("points.ply", "mesh.ply"):
            file = self._run / name
            if not is_own_file(file) or self._loaded.get(name) == file.stat().st_mtime_ns:
                continue
            self._loaded[name] = file.stat().st_mtime_ns
            try:
                if file.stat().st_size > _MOST_BYTES:
                    raise DataError(f"larger than {_MOST_BYTES // 2**20} MiB")
                self._show(name, read_ply(file), radius)
                is_new = True
            except (DataError, OSError, ImportError) as error:
                self.notes[name] = str(error)
        return is_new

    def has(self, name: str) -> bool:
        """Whether a file is in the scene."""
        return name in self._nodes

    def set_visible(self, name: str, is_visible: bool) -> None:
        """Show or hide what a file holds."""
        if name in self._nodes:
            self._nodes[name].visible = is_visible

    def _show(self, name: str, solid: Mesh | PointCloud, radius: float) -> None:
        before = self._nodes.get(name)
        is_visible = before is not None and before.visible
        if isinstance(solid, PointCloud):
            finite = np.flatnonzero(np.isfinite(solid.points).all(axis=1))
            kept = finite[:: -(-len(finite) // MOST_POINTS) or 1]
            self._nodes[name] = self._server.scene.add_point_cloud(
                "/points", solid.points[kept], solid.colours[kept], point_size=radius / 120,
                precision="float32", visible=is_visible,
            )  # fmt: skip
            return
        if len(solid.faces) > MOST_FACES:
            raise DataError(f"{len(solid.faces)} faces: more than a page should hold")
        if not np.isfinite(solid.vertices).all():
            raise DataError("it has vertices that are not finite")
        import trimesh

        mesh = trimesh.Trimesh(
            solid.vertices, solid.faces, vertex_colors=solid.colours, process=False
        )
        self._nodes[name] = self._server.scene.add_mesh_trimesh("/mesh", mesh, visible=is_visible)
