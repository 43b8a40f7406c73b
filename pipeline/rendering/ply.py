"""PLY files, binary little-endian: point clouds and triangle meshes with vertex colours.

Vertices: float x y z, float nx ny nz if there are normals, uchar red green blue, for point clouds
also float confidence. Faces: a list `vertex_indices` of three ints. What we write, viewers, splat
trainers and Open3D read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from everview.datasets.errors import DataError

_XYZ = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
_NORMAL = [("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4")]
_RGB = [("red", "u1"), ("green", "u1"), ("blue", "u1")]
_FACE = [("count", "u1"), ("vertex_indices", "<i4", (3,))]
_PLY_NAMES = {"<f4": "float", "u1": "uchar", "|u1": "uchar"}
_MAX_HEADER = 4096


@dataclass(frozen=True, eq=False)
class PointCloud:
    """points float32 [N, 3] in world units, colours uint8 [N, 3], confidence float32 [N], normals
    float32 [N, 3] of length 1, or None."""

    points: np.ndarray
    colours: np.ndarray
    confidence: np.ndarray
    normals: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices float32 [N, 3] in world units, colours uint8 [N, 3], faces int32 [M, 3], normals
    float32 [N, 3] of the vertices, of length 1, or None."""

    vertices: np.ndarray
    colours: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None


def write_point_cloud(file: Path, cloud: PointCloud) -> int:
    """Write the finite points; returns how many were left out because they are not finite."""
    finite = np.isfinite(cloud.points).all(axis=1) & np.isfinite(cloud.confidence)
    normals = None if cloud.normals is None else cloud.normals[finite]
    rows = _rows(cloud.points[finite], cloud.colours[finite], normals, [("confidence", "<f4")])
    rows["confidence"] = cloud.confidence[finite]
    _write(file, rows, None)
    return int((~finite).sum())


def write_mesh(file: Path, mesh: Mesh) -> None:
    """Write a triangle mesh. Raises ValueError when a face names a vertex that is not there."""
    if len(mesh.faces) and not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
        raise ValueError("a face names a vertex that is not in the mesh")
    rows = _rows(mesh.vertices, mesh.colours, mesh.normals, [])
    faces = np.empty(len(mesh.faces), np.dtype(_FACE))
    faces["count"], faces["vertex_indices"] = 3, mesh.faces
    _write(file, rows, faces)


def read_ply(file: Path) -> PointCloud | Mesh:
    """Read a file this module wrote: a Mesh if it has faces, else a PointCloud.

    The counts in the header are checked against the file's size before anything is allocated.
    Raises DataError, naming the file, for anything else.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_MAX_HEADER)
        end = head.find(b"end_header\n")
        lines = head[:end].decode("ascii", "replace").split("\n")
        if end < 0 or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
            raise DataError(f"{file} is not a binary little-endian PLY file")
        counts = {
            words[1]: int(words[2])
            for words in (line.split() for line in lines)
            if len(words) == 3 and words[0] == "element" and words[2].isdecimal()
        }
        names = [line.split()[-1] for line in lines if line.startswith("property")]
        has_confidence = "confidence" in names
        has_normals = "nx" in names
        vertex = _vertex(has_normals, [("confidence", "<f4")] if has_confidence else [])
        expected = [*vertex.names, *(["vertex_indices"] if "face" in counts else [])]
        if names != expected or "vertex" not in counts:
            raise DataError(f"{file} has other properties than everview writes: {names}")
        num_vertices, num_faces = counts["vertex"], counts.get("face", 0)
        start = end + len(b"end_header\n")
        needed = start + num_vertices * vertex.itemsize + num_faces * np.dtype(_FACE).itemsize
        if needed != size:
            raise DataError(f"{file} has {size} bytes where its header promises {needed}")
        stream.seek(start)
        rows = np.fromfile(stream, vertex, num_vertices)
        faces = np.fromfile(stream, np.dtype(_FACE), num_faces)
    points = np.stack([rows["x"], rows["y"], rows["z"]], axis=-1)
    colours = np.stack([rows["red"], rows["green"], rows["blue"]], axis=-1)
    normals = np.stack([rows[n] for n in ("nx", "ny", "nz")], axis=-1) if has_normals else None
    if "face" in counts:
        return Mesh(points, colours, faces["vertex_indices"].copy(), normals)
    confidence = rows["confidence"].copy() if has_confidence else np.ones(len(rows), np.float32)
    return PointCloud(points, colours, confidence, normals)


def _vertex(has_normals: bool, more: list[tuple[str, str]]) -> np.dtype:
    return np.dtype([*_XYZ, *(_NORMAL if has_normals else []), *_RGB, *more])


def _rows(
    points: np.ndarray,
    colours: np.ndarray,
    normals: np.ndarray | None,
    more: list[tuple[str, str]],
) -> np.ndarray:
    rows = np.empty(len(points), _vertex(normals is not None, more))
    if normals is not None:
        for axis, name in enumerate(("nx", "ny", "nz")):
            rows[name] = normals[:, axis]
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colours[:, channel]
    return rows


def _write(file: Path, rows: np.ndarray, faces: np.ndarray | None) -> None:
    header = ["ply", "format binary_little_endian 1.0", "comment everview"]
    header.append(f"element vertex {len(rows)}")
    for name in rows.dtype.names:
        header.append(f"property {_PLY_NAMES[rows.dtype[name].str]} {name}")
    if faces is not None:
        header.append(f"element face {len(faces)}")
        header.append("property list uchar int vertex_indices")
    header.append("end_header\n")
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as stream:
        stream.write("\n".join(header).encode("ascii"))
        rows.tofile(stream)
        if faces is not None:
            faces.tofile(stream)
    os.replace(partial, file)
