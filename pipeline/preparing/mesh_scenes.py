"""Meshes into scenes: each seen from cameras around it, once under every light."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from everview.datasets.cameras import Cameras
from everview.datasets.shards import Origin, PosedScene
from everview.datasets.shards.meshes import (
    RADIUS,
    MeshLight,
    MeshRenderer,
    load_mesh,
    load_ycb,
    sphere_cameras,
)
from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.preparing.account import Account
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.items import Item

YCB_LICENCE = "CC BY 4.0 (YCB Object and Model Set, Calli et al. 2015)"


def mesh_scenes(
    item: Item, config: PrepareConfig, size: tuple[int, int], account: Account
) -> Iterator[PosedScene]:
    """The mesh, moved to the origin and scaled to one radius, under each light; `size` is (W, H).

    Cameras and lights follow from the seed and the name alone, so an object looks the same in
    every set it is in. Raises DataError for a file that is no mesh.
    """
    path = Path(item.source)
    is_ycb = item.kind == "ycb"
    try:
        mesh = (
            load_ycb(path, path.with_suffix(".jpg")) if is_ycb else load_mesh(path)
        ).normalised()
        renderer = MeshRenderer(mesh)
    except ImportError as error:
        raise EnvironmentUnfit(
            f"meshes need trimesh and embreex ({error}); pip install 'everview[geometry]'"
        ) from None
    generator = np.random.default_rng([config.seed, zlib.crc32(item.name.encode())])
    lights = [MeshLight.unlit()] + [MeshLight.random(generator) for _ in range(config.lights - 1)]
    origin = Origin(
        world=item.name,
        scale="normalised",
        licence=config.licence or (YCB_LICENCE if is_ycb else "unknown"),
        source=f"{'YCB object' if is_ycb else f'mesh {path.suffix.lower()}'}, rendered from "
        f"distances of 2.2 to 3.1 about a radius of {RADIUS}",
    )
    for number, light in enumerate(lights):
        cameras = sphere_cameras(generator, config.views, *size)
        begin = time.process_time()
        rendered = [renderer.render(camera, light) for camera in cameras]
        account.render_cpu_s += time.process_time() - begin
        account.rendered_views += len(cameras)
        images, depth = (np.stack(part) for part in zip(*rendered, strict=True))
        yield PosedScene(
            name=item.name,
            images=images,
            cameras=Cameras.stack(cameras),
            origin=origin,
            depth=depth,
            view_names=tuple(f"{view:04d}" for view in range(len(cameras))),
            variant=light.name if number < 2 else f"{light.name}-{number}",
        )
