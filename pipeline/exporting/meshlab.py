"""For MeshLab: mesh.ply and points.ply with normals and colours, and scene.mlp that opens both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from everview.datasets.writers.atomic import write_atomically
from everview.pipeline.exporting.normals import mesh_normals, point_normals
from everview.pipeline.rendering.ply import Mesh, PointCloud, write_mesh, write_point_cloud

PROJECT_NAME = "scene.mlp"


def write_meshlab(
    folder: Path, mesh: Mesh | None, points: PointCloud | None, centres: np.ndarray
) -> list[str]:
    """Write what there is; returns the names. centres: of the cameras [M, 3], towards which the
    normals of points turn."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    if mesh is not None:
        normals = mesh_normals(mesh.vertices, mesh.faces)
        write_mesh(folder / "mesh.ply", replace(mesh, normals=normals))
        names.append("mesh.ply")
    if points is not None:
        normals = point_normals(points.points, centres)
        write_point_cloud(folder / "points.ply", replace(points, normals=normals))
        names.append("points.ply")
    write_atomically(folder / PROJECT_NAME, _project(names))
    return [*names, PROJECT_NAME]


def _project(names: list[str]) -> str:
    """MeshLab's project: layers by file, each with its matrix."""
    matrix = "\n".join(" ".join(f"{v:g}" for v in row) + " " for row in np.eye(4))
    layers = "".join(
        f"  <MLMesh label={quoteattr(name)} filename={quoteattr(name)}>\n"
        f"   <MLMatrix44>\n{matrix}\n</MLMatrix44>\n  </MLMesh>\n"
        for name in names
    )
    return (
        "<!DOCTYPE MeshLabDocument>\n<MeshLabProject>\n"
        f" <MeshGroup>\n{layers} </MeshGroup>\n <RasterGroup/>\n</MeshLabProject>\n"
    )
