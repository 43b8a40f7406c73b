"""Captured cameras of known layouts, for path tests."""

import numpy as np

from everview.datasets.cameras import Camera
from everview.pipeline.rendering.survey import look_at

LENS = Camera(160, 120, 150, 150, 80, 60, np.eye(4))


def ring(count=24, radius=2.0, height=0.7, target=(0.3, -0.2, 0.5), up=(0, 0, 1), arc=360.0):
    """Cameras round `target` over `arc` degrees, `height` above it, all looking at it."""
    up = np.asarray(up, float) / np.linalg.norm(up)
    side = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    front = np.cross(side, up)
    cameras = []
    for angle in np.deg2rad(np.linspace(0, arc, count, endpoint=arc < 360)):
        level = np.cos(angle) * front + np.sin(angle) * side
        position = np.asarray(target) + radius * level + height * up
        cameras.append(LENS.moved(look_at(position, np.asarray(target), up)))
    return cameras


def walk(count=20, step=0.2):
    """A level walk along y that slowly turns to the right; up is z."""
    cameras = []
    for index in range(count):
        position = np.array([0.0, index * step, 1.6])
        angle = np.deg2rad(3 * index)
        ahead = position + np.array([np.sin(angle), np.cos(angle), -0.1 * np.cos(index)])
        cameras.append(LENS.moved(look_at(position, ahead, np.array([0.0, 0.0, 1.0]))))
    return cameras
