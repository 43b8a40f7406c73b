"""Videos, depth pictures and PLY files: written, and read back by something else."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from everview.datasets.errors import DataError
from everview.pipeline.rendering.ply import (
    Mesh,
    PointCloud,
    read_ply,
    write_mesh,
    write_point_cloud,
)
from everview.pipeline.rendering.stills import DepthFolder, colourise_depth
from everview.pipeline.rendering.video import write_video


def pictures(count=7, width=131, height=97):
    for index in range(count):
        image = np.zeros((height, width, 3), np.uint8)
        image[:, :, 0] = 30 * index
        image[:, :, 1] = np.linspace(0, 255, width).astype(np.uint8)
        yield image


def boxes(data: bytes) -> list[str]:
    """Names of the top-level boxes of an mp4, in order."""
    names, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8].decode("latin1"))
        at += size or len(data)
    return names


def test_a_video_plays_in_a_browser(tmp_path):
    """H.264 in yuv420p, even sides, the index before the data, every frame there."""
    file = tmp_path / "novel_views.mp4"
    assert write_video(file, pictures(), frames_per_s=Fraction(30000, 1001)) == 7
    names = boxes(file.read_bytes())
    assert names.index("moov") < names.index("mdat")
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (131 * 5 - 1, 97 * 5 - 1)
        assert stream.average_rate == Fraction(30000, 1001)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 7
    for index, frame in enumerate(decoded):
        assert abs(float(frame[..., 0].mean()) - 30 * index) < 6


def test_large_pictures_keep_their_size(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(2, 640, 480))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (640, 480)


def test_a_video_that_fails_leaves_nothing(tmp_path):
    def breaking():
        yield from pictures(2)
        raise RuntimeError("the renderer broke")

    with pytest.raises(RuntimeError, match="broke"):
        write_video(tmp_path / "a.mp4", breaking())
    with pytest.raises(ValueError, match="no images"):
        write_video(tmp_path / "a.mp4", iter(()))
    assert list(tmp_path.iterdir()) == []


def test_depth_pictures_are_millimetres_of_a_metric_capture(tmp_path):
    depth = np.array([[0, 0.001, 1.2345], [65.5, 70, np.nan]], np.float32)
    DepthFolder(tmp_path, "metric", deepest=70).write("a", depth, np.ones_like(depth))
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, [[0, 1, 1234], [65500, 0, 0]])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["depth"], np.nan_to_num(depth))
    assert json.loads((tmp_path / "units.json").read_text())["png_per_unit"] == 1000
    assert Image.open(tmp_path / "a_colour.png").size == (3, 2)


def test_confidence_is_a_grey_picture_beside_the_depth(tmp_path):
    sure = np.array([[0.0, 0.5, 1.0]], np.float32)
    DepthFolder(tmp_path, "metric", deepest=4).write("a", np.ones((1, 3)), sure)
    grey = np.asarray(Image.open(tmp_path / "a_confidence.png"))
    assert grey.tolist() == [[0, 128, 255]]


def test_a_scene_too_deep_for_16_bits_gets_another_factor_and_says_so(tmp_path):
    DepthFolder(tmp_path, "up_to_scale", deepest=5000).write("a", np.full((2, 2), 4000.0))
    factor = json.loads((tmp_path / "units.json").read_text())["png_per_unit"]
    assert np.asarray(Image.open(tmp_path / "a.png")).max() == 4000 * factor > 10_000


def test_near_is_bright_and_unknown_is_grey():
    picture = colourise_depth(np.array([[0.5, 1.0, 4.0, 0.0]]))
    light = picture.astype(int).sum(-1)[0]
    assert light[0] > light[1] > light[2]
    assert picture[0, 3].tolist() == [128, 128, 128]
    assert (colourise_depth(np.zeros((2, 2))) == 128).all()


def cloud(count=50):
    random = np.random.default_rng(1)
    return PointCloud(
        random.normal(size=(count, 3)).astype(np.float32),
        random.integers(0, 256, (count, 3), np.uint8),
        random.random(count).astype(np.float32),
    )


def test_a_point_cloud_survives_the_round_trip(tmp_path):
    made = cloud()
    assert write_point_cloud(tmp_path / "points.ply", made) == 0
    read = read_ply(tmp_path / "points.ply")
    assert isinstance(read, PointCloud)
    np.testing.assert_array_equal(read.points, made.points)
    np.testing.assert_array_equal(read.colours, made.colours)
    np.testing.assert_array_equal(read.confidence, made.confidence)


def test_points_that_are_not_finite_are_left_out_and_counted(tmp_path):
    made = cloud()
    made.points[[3, 9]] = np.nan
    assert write_point_cloud(tmp_path / "points.ply", made) == 2
    assert len(read_ply(tmp_path / "points.ply").points) == 48


def test_a_mesh_survives_the_round_trip_and_another_reader(tmp_path):
    made = cloud(4)
    mesh = Mesh(made.points, made.colours, np.array([[0, 1, 2], [1, 3, 2]], np.int32))
    write_mesh(tmp_path / "mesh.ply", mesh)
    read = read_ply(tmp_path / "mesh.ply")
    assert isinstance(read, Mesh)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_array_equal(read.vertices, mesh.vertices)
    trimesh = pytest.importorskip("trimesh", reason="another reader: the extra `geometry`")
    other = trimesh.load(tmp_path / "mesh.ply", process=False)
    np.testing.assert_array_equal(other.faces, mesh.faces)
    np.testing.assert_array_equal(other.visual.vertex_colors[:, :3], mesh.colours)


def test_a_face_without_its_vertex_is_refused(tmp_path):
    made = cloud(2)
    with pytest.raises(ValueError, match="vertex"):
        write_mesh(tmp_path / "m.ply", Mesh(made.points, made.colours, np.array([[0, 1, 2]])))


@pytest.mark.parametrize("damage", ["truncated", "longer", "count", "text", "empty"])
def test_a_damaged_ply_is_named_and_allocates_nothing(tmp_path, damage):
    file = tmp_path / "points.ply"
    write_point_cloud(file, cloud())
    content = file.read_bytes()
    damaged = {
        "truncated": content[:-1],
        "longer": content + b"x",
        "count": content.replace(b"vertex 50", b"vertex 99999999999"),
        "text": b"ply\nformat ascii 1.0\nend_header\n",
        "empty": b"",
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(DataError, match=r"points\.ply"):
        read_ply(file)
