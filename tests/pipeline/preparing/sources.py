"""Small sources to prepare: meshes as files, and captures made up on the spot."""

from __future__ import annotations

from pathlib import Path

CAPTURE = "procedural://tabletop?seed={seed}&frames={frames}&size=32"


def capture(seed=0, frames=6):
    """A posed capture with depth and a clock."""
    return CAPTURE.format(seed=seed, frames=frames)


def write_box(path: Path, extents=(1.0, 2.0, 3.0)) -> Path:
    """A box as a mesh file of the format its suffix says."""
    import trimesh

    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.creation.box(extents).export(path)
    return path


def write_pictures(folder: Path, count: int = 4) -> Path:
    """A folder of pictures of noise, without cameras."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        noise = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder
