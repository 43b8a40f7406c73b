"""After the stream: the mesh against all that the depth sensor saw, where there was one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.captures import Capture, Scale
from everview.pipeline.fusion.scene_geometry import MESH_NAME
from everview.pipeline.fusion.surface_distance import SensorCloud, reference_voxel
from everview.pipeline.rendering.ply import Mesh, read_ply
from everview.pipeline.streaming.preparing import read_again, readable_again
from everview.pipeline.streaming.progress import Progress
from everview.pipeline.streaming.review import evenly
from everview.pipeline.streaming.trajectory import Trajectory


def measure_mesh(
    capture: Capture,
    trajectory: Trajectory,
    out: Path,
    scale: Scale,
    voxel_size: float,
    most: int,
    progress: Progress,
) -> dict[str, Any] | None:
    """Distances of out/mesh.ply from the cloud of at most `most` frames' depth, evenly taken, those
    held out among them; None without a mesh or without depth. For metrics.json."""
    file = out / MESH_NAME
    if most < 1 or not capture.info.has_depth or not file.is_file():
        return None
    mesh = read_ply(file)
    assert isinstance(mesh, Mesh)
    reference = SensorCloud(reference_voxel(scale, voxel_size))
    every = np.sort(np.concatenate([trajectory.observed_indices(), trajectory.held_out_indices()]))
    wanted = evenly(readable_again(capture, every), most)
    for done, frame in enumerate(read_again(capture, set(wanted)), 1):
        reference.add(frame)
        progress.step("measure mesh", done, len(wanted))
    found = reference.distance_of(mesh)
    return None if found is None else asdict(found) | {"unit": _unit(scale)}


def as_sentence(told: Mapping[str, Any]) -> str:
    """One line for people."""
    is_metric = told["unit"] == "m"
    factor, unit = (1000.0, " mm") if is_metric else (1.0, "")

    def length(value: float) -> str:
        return f"{factor * value:.3g}{unit}"

    vertices, surface, floor = told["vertices"], told["surface"], told["floor"]
    return (
        f"mesh to the sensor's cloud of {told['num_frames']} frames, voxels of "
        f"{length(told['voxel_size'])}: vertices median {length(vertices['median'])}, 90 % within "
        f"{length(vertices['p90'])}; surface {length(surface['median'])}, "
        f"{length(surface['p90'])}; floor (the sensor's pixels) {length(floor['median'])}, "
        f"{length(floor['p90'])}; {told['covered']:.0%} of the cloud covered"
    )


def _unit(scale: Scale) -> str:
    return "m" if scale == "metric" else "the capture's"
