"""The scanned objects of YCB as shards: what may be trained on, and what may only be shown."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from everview.datasets.errors import DataError
from everview.datasets.shards.manifest import Manifest
from everview.datasets.shards.meshes import MeshLight, MeshRenderer, load_ycb, sphere_cameras
from everview.datasets.shards.splitting import split_by_name
from everview.datasets.shards.writing import SceneViews, write_shards

LICENCE = "CC BY 4.0 (YCB Object and Model Set, Calli et al. 2015)"


def ycb_names(folder: Path) -> tuple[list[str], list[str]]:
    """(training, held out) names of the objects in `folder`, as `split_by_name` says."""
    names = [path.stem for path in Path(folder).glob("*.npz")]
    if not names:
        raise DataError(f"{folder} holds no .npz meshes; give the folder of YCB objects")
    return split_by_name(names)


def write_ycb_shards(
    folder: Path,
    directory: Path,
    names: Sequence[str],
    *,
    views: int,
    size: int = 128,
    lit: bool = True,
    seed: int = 0,
) -> Manifest:
    """Render `names` from `folder` into shards: unlit, and (lit) once more under a random sun."""
    return write_shards(
        directory,
        _scenes(Path(folder), names, views, size, lit, seed),
        scale="normalised",
        licence=LICENCE,
        source=f"YCB objects, {views} views each on a sphere of radius 2.2 to 3.1 about radius 0.9",
    )


def _scenes(
    folder: Path, names: Sequence[str], views: int, size: int, lit: bool, seed: int
) -> Iterator[SceneViews]:
    for name in names:
        mesh = load_ycb(folder / f"{name}.npz", folder / f"{name}.jpg").normalised()
        renderer = MeshRenderer(mesh)
        # of the name alone, so that an object looks the same in every set it is in
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        lights = [MeshLight.unlit(), MeshLight.random(generator)][: 2 if lit else 1]
        for light in lights:
            cameras = sphere_cameras(generator, views, size)
            rendered = [renderer.render(camera, light) for camera in cameras]
            images, depth = (np.stack(part) for part in zip(*rendered, strict=True))
            yield SceneViews(name, images, depth, cameras, variant=light.name)
