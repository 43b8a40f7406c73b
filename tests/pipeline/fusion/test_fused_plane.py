"""Fusion of a known plane: real Open3D, real camera model, depth made by hand."""

import numpy as np
import pytest

from everview.datasets.cameras import Camera
from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.fusion import mesh as mesh_module
from everview.pipeline.fusion.depth_views import DepthView, trusted_depth, voxel_size_for
from everview.pipeline.fusion.mesh import TsdfVolume
from everview.pipeline.fusion.point_cloud import VoxelCloud
from everview.pipeline.rendering.survey import look_at

PLANE_Z = 3.0


def plane_view(position, colour=(200, 80, 40), size=64, scale=1.0) -> DepthView:
    """The plane z = 3 (times scale) from `position`, coloured by halves of x."""
    target = np.array([0.0, 0.0, PLANE_Z * scale])
    pose = look_at(np.asarray(position, float) * scale, target, np.array([0.0, -1.0, 0.0]))
    camera = Camera(size, size, size, size, size / 2, size / 2, pose)
    centre = camera.centre
    rays = camera.unproject(camera.pixel_centres(), np.ones((size, size))) - centre
    depth = ((PLANE_Z * scale - centre[2]) / rays[..., 2]).astype(np.float32)
    image = np.zeros((size, size, 3), np.uint8)
    image[:] = colour
    return DepthView(camera, image, depth, np.ones((size, size), np.float32))


VIEWS = [plane_view((x, y, 0.0)) for x, y in ((0, 0), (0.5, 0), (-0.5, 0.2), (0, -0.4))]


def fused(scale=1.0) -> TsdfVolume:
    pytest.importorskip(
        "open3d", reason="the mesh needs the extra `geometry`", exc_type=ImportError
    )
    volume = TsdfVolume(voxel_size_for(PLANE_Z * scale))
    for x, y in ((0, 0), (0.5, 0), (-0.5, 0.2), (0, -0.4)):
        volume.add(plane_view((x, y, 0.0), scale=scale))
    return volume


def test_a_fused_plane_has_vertices_on_the_plane():
    mesh = fused().mesh()
    assert len(mesh.vertices) > 1000
    assert len(mesh.faces) > 1000
    assert np.abs(mesh.vertices[:, 2] - PLANE_Z).max() < voxel_size_for(PLANE_Z)
    assert np.abs(np.median(mesh.colours, axis=0) - [200, 80, 40]).max() <= 2


def test_world_units_are_floats_of_any_size():
    """A scene 1000 times smaller or larger than a metre fuses to the same shape."""
    for scale in (1e-3, 1e3):
        mesh = fused(scale).mesh()
        assert len(mesh.vertices) > 1000
        assert np.allclose(mesh.vertices[:, 2] / scale, PLANE_Z, atol=voxel_size_for(PLANE_Z))


def test_pixel_centres_do_not_shift_the_mesh():
    """A step seen head-on lies where it is, not half a pixel beside it."""
    pytest.importorskip(
        "open3d", reason="the mesh needs the extra `geometry`", exc_type=ImportError
    )
    view = plane_view((0, 0, 0))
    depth = view.depth.copy()
    depth[:, :32] = 0  # only x > 0 is known
    volume = TsdfVolume(voxel_size_for(PLANE_Z))
    volume.add(DepthView(view.camera, view.image, depth, view.confidence))
    pixel = PLANE_Z / 64
    assert volume.mesh().vertices[:, 0].min() == pytest.approx(0, abs=1.05 * pixel)


def test_a_full_volume_stops_growing_and_says_so():
    pytest.importorskip(
        "open3d", reason="the mesh needs the extra `geometry`", exc_type=ImportError
    )
    volume = TsdfVolume(voxel_size_for(PLANE_Z), max_gib=0.002)
    for view in VIEWS:
        volume.add(view)
    assert volume.is_full


def test_without_open3d_the_reason_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    with pytest.raises(EnvironmentUnfit, match=r"everview\[geometry\]"):
        mesh_module.TsdfVolume(0.01)


def test_the_point_cloud_of_a_plane_lies_on_it_in_its_colour():
    cloud = VoxelCloud(voxel_size_for(PLANE_Z))
    for view in VIEWS:
        cloud.add(view)
    points = cloud.points()
    assert len(points.points) > 1000
    assert np.abs(points.points[:, 2] - PLANE_Z).max() < 1e-5
    assert (points.colours == [200, 80, 40]).all()
    assert (points.confidence == 1).all()


def test_the_point_cloud_never_exceeds_its_limit_and_keeps_its_extent():
    free, bounded = VoxelCloud(0.01), VoxelCloud(0.01, max_points=500)
    for view in VIEWS:
        free.add(view)
        bounded.add(view)
    assert len(free.points().points) > 500 >= len(bounded.points().points)
    for axis in (0, 1):
        wide = np.ptp(free.points().points[:, axis])
        assert np.ptp(bounded.points().points[:, axis]) > 0.8 * wide


def test_unsure_pixels_and_depth_edges_are_not_fused():
    view = plane_view((0, 0, 0))
    depth, confidence = view.depth.copy(), view.confidence.copy()
    depth[:, 40:] *= 2
    confidence[:10] = 0.1
    kept = trusted_depth(DepthView(view.camera, view.image, depth, confidence), 0.5)
    assert (kept[:10] == 0).all()
    assert (kept[20:, 39:41] == 0).all()
    assert (kept[20:, :38] > 0).all()


def test_a_floor_at_a_grazing_angle_is_kept_whole():
    """Neighbouring pixels differ by a third of their depth, and still lie on one plane."""
    view = plane_view((0, 0, 0))
    rows = np.arange(64)[:, None] + 1.0
    depth = np.broadcast_to(64 / rows, (64, 64)).astype(np.float32)
    kept = trusted_depth(DepthView(view.camera, view.image, depth, view.confidence), 0.5)
    assert (kept > 0).all()
