"""The measure of a mesh against a sensor: on a plane whose distance is known."""

import numpy as np
import pytest

from everview.datasets.captures import Frame
from everview.pipeline.fusion.surface_distance import SensorCloud, reference_voxel, sampled
from everview.pipeline.rendering.ply import Mesh
from tests.pipeline.fusion.test_fused_plane import PLANE_Z, plane_view

VOXEL = 0.02


def plane_mesh(offset: float, half: float = 0.4) -> Mesh:
    """A grid in the plane z = 3 + offset, finer than the voxels."""
    line = np.linspace(-half, half, 60)
    x, y = np.meshgrid(line, line)
    vertices = np.stack([x, y, np.full_like(x, PLANE_Z + offset)], -1).reshape(-1, 3)
    corner = (np.arange(59)[:, None] * 60 + np.arange(59)).ravel()
    first = np.stack([corner, corner + 1, corner + 60], 1)
    second = np.stack([corner + 1, corner + 61, corner + 60], 1)
    faces = np.concatenate([first, second]).astype(np.int32)
    return Mesh(vertices.astype(np.float32), np.zeros((3600, 3), np.uint8), faces)


@pytest.fixture(scope="module")
def reference() -> SensorCloud:
    made = SensorCloud(VOXEL)
    for number, x in enumerate((0.0, 0.1, -0.1)):
        view = plane_view((x, 0, 0), size=256)
        made.add(Frame(number, "f", view.image, view.camera, None, view.depth))
    made.add(Frame(3, "no depth", view.image, view.camera))
    return made


def test_a_mesh_on_the_plane_is_as_near_as_the_sensor_itself(reference):
    found = reference.distance_of(plane_mesh(0.0))
    assert found.num_frames == 3
    assert found.vertices.median == pytest.approx(found.floor.median, rel=0.15)
    assert found.surface.median == pytest.approx(found.floor.median, rel=0.15)
    assert 0.25 * VOXEL < found.floor.median < 0.6 * VOXEL


def test_a_mesh_beside_the_plane_is_as_far_as_it_is(reference):
    found = reference.distance_of(plane_mesh(5 * VOXEL))
    assert found.vertices.median == pytest.approx(5 * VOXEL, rel=0.02)
    assert found.surface.p90 == pytest.approx(5 * VOXEL, rel=0.02)
    assert found.covered == 0


def test_a_small_mesh_on_the_plane_covers_its_share(reference):
    """A cloud of 3 x 3 m: a mesh of a ninth of it."""
    whole, part = (reference.distance_of(plane_mesh(0.0, half)) for half in (1.4, 0.5))
    assert whole.covered > 0.7
    assert part.covered == pytest.approx(1 / 9, abs=0.05)


def test_samples_lie_evenly_over_the_area_and_on_the_faces():
    corners = np.array([[0, 0, 0], [3, 0, 0], [0, 1, 0], [9, 0, 5], [10, 0, 5], [9, 1, 5]])
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    points = sampled(Mesh(corners.astype(np.float32), np.zeros((6, 3), np.uint8), faces), 4000)
    large = points[points[:, 2] == 0]
    assert len(large) / len(points) == pytest.approx(0.75, abs=0.03)
    assert (large[:, 0] / 3 + large[:, 1] <= 1 + 1e-9).all()
    assert large.mean(axis=0) == pytest.approx([1, 1 / 3, 0], abs=0.05)


def test_metric_scenes_are_measured_at_twenty_millimetres():
    assert reference_voxel("metric", 0.05) == 0.02
    assert reference_voxel("up_to_scale", 0.05) == 0.05
