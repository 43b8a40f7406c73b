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


def write_walk(folder: Path, frames: int = 4, depth: float | None = 6.0) -> Path:
    """A COLMAP model of a walk straight ahead, whose cameras look at no common point; its points
    are a wall at `depth` from the middle camera, or there are none."""
    import numpy as np

    from everview.datasets.cameras import Camera
    from everview.datasets.writers.colmap_text import write_colmap_text
    from everview.datasets.writers.posed_image import PosedImage

    images = []
    write_pictures(folder / "images", frames)
    for number in range(frames):
        pose = np.eye(4)
        pose[2, 3] = 0.1 * (number - frames // 2)
        images.append(PosedImage(f"{number}.png", Camera(64, 64, 64.0, 64.0, 32.0, 32.0, pose)))
    grid = np.linspace(-1.0, 1.0, 5)
    wall = None if depth is None else np.array([(x, y, depth) for x in grid for y in grid])
    write_colmap_text(folder / "sparse" / "0", images, wall)
    return folder


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
