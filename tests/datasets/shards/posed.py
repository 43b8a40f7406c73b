"""Small scenes of noise with true cameras, for tests of shards."""

from __future__ import annotations

import zlib

import numpy as np

from everview.datasets.cameras import Camera, Cameras
from everview.datasets.procedural.trajectories import look_at
from everview.datasets.shards import Origin, PosedScene

ORIGIN = Origin("a", "normalised", "Apache-2.0", "a test")


def scene(name, *, views=3, height=24, width=32, variant="", timed=False, deep=True):
    """Noise under a ramp of depth, seen from around the origin."""
    random = np.random.default_rng([zlib.crc32(name.encode()), views])
    images = random.integers(0, 255, (views, height, width, 3), dtype=np.uint8)
    ramp = np.linspace(1.0, 4.0, height * width).reshape(height, width)
    depth = np.where(random.random((views, height, width)) < 0.3, 0.0, ramp).astype(np.float32)
    eyes = random.normal(size=(views, 3)) + 3.0
    poses = look_at(eyes, np.zeros_like(eyes))
    cameras = [Camera(width, height, 30.0, 31.0, 16.0, 12.0, pose) for pose in poses]
    return PosedScene(
        name=name,
        images=images,
        cameras=Cameras.stack(cameras),
        origin=ORIGIN,
        depth=depth if deep else None,
        time_s=np.arange(views) / 10.0 if timed else None,
        view_names=tuple(f"{name}-{view}.png" for view in range(views)),
        variant=variant,
    )
