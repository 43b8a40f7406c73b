"""Meshes are rendered at the right place, with exact depth and their own texture."""

import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.datasets.shards.meshes import (
    RADIUS,
    MeshLight,
    MeshRenderer,
    TexturedMesh,
    load_mesh,
    load_ycb,
    sphere_cameras,
)

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")


def ball() -> TexturedMesh:
    body = trimesh.creation.icosphere(subdivisions=4, radius=2.0)
    vertices = np.asarray(body.vertices) + np.array([5.0, -1.0, 2.0])
    # the upper half of the texture red, the lower blue; v up follows z
    uv = np.stack([np.full(len(vertices), 0.5), (vertices[:, 2] - 2.0) / 4.2 + 0.5], -1)
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:32, :, 0] = texture[32:, :, 2] = 255
    return TexturedMesh("ball", vertices, uv, np.asarray(body.faces), texture)


def test_depth_of_a_ball_lies_on_it_and_its_colours_are_where_they_belong():
    mesh = ball().normalised()
    assert np.linalg.norm(mesh.vertices, axis=-1).max() == pytest.approx(RADIUS)
    camera = sphere_cameras(np.random.default_rng(0), 1, 64, 64)[0]
    image, depth = MeshRenderer(mesh).render(camera, MeshLight.unlit())
    assert (image[depth == 0][0] == 255).all()
    points = camera.unproject(camera.pixel_centres(), depth)[depth > 0]
    radius = np.linalg.norm(points, axis=-1)
    assert radius.max() < RADIUS + 1e-4
    assert radius.min() > RADIUS * 0.995
    upper, lower = points[:, 2] > 0.1, points[:, 2] < -0.1
    colours = image[depth > 0]
    # away from silhouettes, where a pixel is mixed with the background
    facing = np.einsum("pc,pc->p", points, camera.centre - points) > 0.3
    assert (colours[upper & facing][:, 0] > 250).all()
    assert (colours[lower & facing][:, 2] > 250).all()


def test_pixels_outside_the_window_of_a_mesh_are_empty_anyway():
    mesh = ball().normalised()
    camera = sphere_cameras(np.random.default_rng(3), 1, 48, 48)[0]
    renderer = MeshRenderer(mesh)
    image, depth = renderer.render(camera, MeshLight.unlit())
    renderer._window = lambda camera: (slice(0, 48), slice(0, 48))
    whole, whole_depth = renderer.render(camera, MeshLight.unlit())
    assert np.array_equal(image, whole)
    assert np.array_equal(depth, whole_depth)


def test_meshes_are_read_from_common_files(tmp_path):
    body = trimesh.creation.box((1.0, 2.0, 3.0))
    for suffix in (".obj", ".ply", ".glb"):
        path = tmp_path / f"box{suffix}"
        body.export(path)
        mesh = load_mesh(path)
        assert len(mesh.faces) == 12
        assert len(mesh.uv) == len(mesh.vertices)
        image, depth = MeshRenderer(mesh.normalised()).render(
            sphere_cameras(np.random.default_rng(0), 1, 32, 32)[0], MeshLight.unlit()
        )
        assert (depth > 0).any()
        assert (image[depth > 0].min(-1) < 255).any()


def test_what_is_no_mesh_is_refused(tmp_path):
    broken = tmp_path / "broken.ply"
    broken.write_bytes(b"ply\nnothing of the kind")
    with pytest.raises(DataError):
        load_mesh(broken)
    with pytest.raises(DataError):
        load_mesh(tmp_path / "absent.glb")
    np.savez(tmp_path / "no.npz", v=np.zeros((3, 3)))
    with pytest.raises(DataError, match="holds no"):
        load_ycb(tmp_path / "no.npz", tmp_path / "no.jpg")
