"""A streamed run in the folders of other tools: opened again by our readers and by theirs."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everview.datasets.errors import DataError
from everview.datasets.lenses import Lens, rectify
from everview.datasets.opening import open_capture
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.models.config import tiny
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.pipeline.errors import EnvironmentUnfit, InputRejected, UsageError
from everview.pipeline.exporting.config import ExportConfig
from everview.pipeline.exporting.normals import mesh_normals, point_normals
from everview.pipeline.exporting.run import export_run
from everview.pipeline.exporting.streamed_run import open_streamed_run
from everview.pipeline.posing.trajectory_errors import TrajectoryErrors
from everview.pipeline.rendering.ply import read_ply
from everview.pipeline.streaming import outputs
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.sources.iterated import IteratedSource
from everview.pipeline.streaming.stream import stream_capture, stream_source

DRAWN = "procedural://tabletop?seed=3&frames=10&size=48&dynamic=true"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A capture on disk with depth and time, in millimetres."""
    folder = tmp_path_factory.mktemp("capture")
    images = []
    (folder / "depth").mkdir()
    for frame in open_capture(DRAWN):
        name = f"view {frame.index}.png"
        Image.fromarray(frame.image).save(folder / name)
        depth = np.round(1000 * frame.depth).astype(np.uint16)
        Image.fromarray(depth).save(folder / "depth" / name)
        images.append(PosedImage(name, frame.camera, frame.time_s, f"depth/{name}"))
    write_transforms_json(folder / "transforms.json", images, "metric")
    return str(folder)


@pytest.fixture(scope="module")
def config(capture: str, tmp_path_factory: pytest.TempPathFactory) -> StreamConfig:
    """A stream of ten frames with depth and time, by an untrained model."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "untrained"
    save_weights(SceneModel(tiny()), weights, "An untrained model for tests.")
    policies = StreamPolicies(chunk_frames=4, snapshot_every_s=600)
    return StreamConfig(
        capture=capture, weights=str(weights), size=32, hold_out=5, policies=policies,
        video_frames=2, review_views=2, device="cpu", mesh=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def streamed(config: StreamConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "open_lpips", lambda **_: (None, "left out of this test"))
        return stream_capture(config, tmp_path_factory.mktemp("runs") / "stream").run


@pytest.fixture(scope="module")
def live(config: StreamConfig, capture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same frames from an iterator, which can't be read again."""
    config = replace(config, capture="iterated://")
    source = IteratedSource(iter(open_capture(capture)), "a camera", scale="metric", has_depth=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "open_lpips", lambda **_: (None, "left out of this test"))
        return stream_source(source, config, tmp_path_factory.mktemp("runs") / "live").run


def assert_same_frames(folder: Path, run: Path, tolerance: float = 1e-6) -> None:
    """An exported folder holds the cameras that the stream used and the pictures it saw."""
    exported = list(open_capture(str(folder)))
    scene = open_streamed_run(run)
    seen = list(scene.frames(1000, None, None))
    assert len(exported) == len(seen) == 10
    for ours, theirs in zip(seen, exported, strict=True):
        assert np.abs(ours.camera.c2w_cv - theirs.camera.c2w_cv).max() < tolerance
        assert np.abs(ours.camera.intrinsics - theirs.camera.intrinsics).max() < tolerance
        assert np.array_equal(ours.image, theirs.image)


def test_our_own_readers_find_the_cameras_and_pictures_of_the_stream(streamed, tmp_path):
    done = export_run(ExportConfig(str(streamed), ("nerfstudio", "colmap")), tmp_path / "out")
    for name in ("nerfstudio", "colmap"):
        assert_same_frames(tmp_path / "out" / name, streamed)
    assert done.written["nerfstudio"]["with_depth"] == 10
    again = open_capture(str(tmp_path / "out" / "nerfstudio"))
    assert again.info.scale == "metric"
    seen = list(open_streamed_run(streamed).frames(1000, None, None))
    for ours, theirs in zip(seen, again, strict=True):
        assert theirs.time_s == ours.time_s
        assert np.abs(theirs.depth - ours.depth).max() <= 0.5e-3 + 1e-6
    cloud = read_ply(streamed / "points.ply")
    sparse = open_capture(str(tmp_path / "out" / "colmap")).info.points_world
    assert np.abs(sparse - cloud.points).max() < 1e-6
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert names == {"run.json", "nerfstudio", "colmap", "trajectory_tum.txt"}


def test_colmap_itself_reads_the_text_model(streamed, tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="needs the extra `geometry`")
    export_run(ExportConfig(str(streamed), ("colmap",)), tmp_path / "out")
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "colmap" / "sparse" / "0"))
    frames = {f.index: f for f in open_streamed_run(streamed).frames(1000, None, None)}
    assert model.num_reg_images() == len(frames) == 10
    for image in model.images.values():
        frame = frames[int(image.name.removesuffix(".png"))]
        given = np.asarray(image.cam_from_world().matrix())
        assert np.abs(given - frame.camera.w2c_cv[:3]).max() < 1e-6
        lens = model.cameras[image.camera_id]
        assert lens.model.name == "PINHOLE"
        stated = (frame.camera.fx, frame.camera.fy, frame.camera.cx, frame.camera.cy)
        assert np.abs(np.asarray(lens.params) - stated).max() < 1e-6
    assert len(model.points3D) == len(read_ply(streamed / "points.ply").points)


def test_pictures_of_another_size_keep_their_rays(streamed, capture, tmp_path):
    export_run(ExportConfig(str(streamed), ("nerfstudio",), size=48), tmp_path / "out")
    large = list(open_capture(str(tmp_path / "out" / "nerfstudio")))
    small = list(open_streamed_run(streamed).frames(1000, None, None))
    source = list(open_capture(capture))
    for one, two, truth in zip(large, small, source, strict=True):
        assert one.image.shape == (48, 48, 3)
        assert np.array_equal(one.image, truth.image)
        assert one.camera.fx / 48 == pytest.approx(two.camera.fx / 32)


def streamed_by(poses: str, streamed: Path, copy: Path) -> Path:
    """A copy of a run that says where its cameras were from."""
    shutil.copytree(streamed, copy)
    record = json.loads((copy / "run.json").read_text())
    record["config"]["poses"] = poses
    (copy / "run.json").write_text(json.dumps(record))
    return copy


def test_depth_in_another_unit_than_the_poses_is_left_out(streamed, tmp_path):
    assert all(f.depth is not None for f in open_streamed_run(streamed).frames(9, None, None))
    learned = open_streamed_run(streamed_by("learned", streamed, tmp_path / "learned"))
    assert all(frame.depth is None for frame in learned.frames(9, None, None))


def test_pictures_posed_by_sfm_are_exported_without_the_distortion_that_was_found(
    streamed, capture, tmp_path
):
    run = streamed_by("sfm", streamed, tmp_path / "sfm")
    with pytest.raises(DataError, match="sfm is not there"):
        list(open_streamed_run(run).frames(9, None, capture))
    model = run / "sfm" / "sparse"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 SIMPLE_RADIAL 48 48 48 24 24 -0.2\n")
    images = [f"{n} 1 0 0 0 0.1 0 0 1 {n:06d}.png\n\n" for n in range(10)]
    (model / "images.txt").write_text("".join(images))
    (model / "points3D.txt").write_text("")
    told = {"frames": 10, "error_px": 1.0, "errors": TrajectoryErrors().to_facts()}
    (run / "sfm" / "found.json").write_text(json.dumps(told))
    drawn, lens = next(iter(open_capture(capture))), Lens(48, 48, 48, 48, 24, 24, "opencv", (-0.2,))
    exported = next(iter(open_streamed_run(run).frames(9, 48, None)))
    assert np.array_equal(exported.image, rectify(lens, drawn.image))
    assert not np.array_equal(exported.image, drawn.image)
    assert exported.depth is None


def test_a_stream_that_passed_once_gives_its_keyframes_and_says_what_is_missing(live, tmp_path):
    done = export_run(ExportConfig(str(live), ("nerfstudio",)), tmp_path / "out")
    frames = list(open_capture(str(tmp_path / "out" / "nerfstudio")))
    assert 1 <= len(frames) < 10
    assert done.written["nerfstudio"]["points"] > 100
    (told,) = done.notes
    assert f"{len(frames)} keyframes of the geometry, of 10 frames" in told
    assert json.loads((tmp_path / "out" / "run.json").read_text())["missing"] == [told]


def test_a_source_that_moved_is_named_and_found_where_capture_says(streamed, capture, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(streamed, moved)
    record = json.loads((moved / "run.json").read_text())
    record["config"]["capture"] = str(tmp_path / "gone")
    (moved / "run.json").write_text(json.dumps(record))
    done = export_run(ExportConfig(str(moved), ("nerfstudio",)), tmp_path / "out")
    assert any("--capture" in note for note in done.notes)
    config = ExportConfig(str(moved), ("nerfstudio",), capture=capture)
    again = export_run(config, tmp_path / "out2")
    assert (again.written["nerfstudio"]["frames"], again.notes) == (10, ())


def test_frames_of_another_capture_are_not_taken_for_those_of_the_stream(
    streamed, tmp_path, frames
):
    config = ExportConfig(str(streamed), ("colmap",), capture=str(frames))
    with pytest.raises(DataError, match="no picture"):
        export_run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "colmap").exists()


@pytest.fixture
def frames(streamed: Path, tmp_path: Path) -> Path:
    """A capture with as many frames, under other names."""
    export_run(ExportConfig(str(streamed), ("nerfstudio",)), tmp_path / "other")
    return tmp_path / "other" / "nerfstudio"


def test_an_export_is_whole_or_not_there_and_is_not_written_over(streamed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    config = ExportConfig(str(streamed), ("nerfstudio",))

    def stops(path: Path, images: Any, scale: str, points: str | None = None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("everview.pipeline.exporting.run.write_transforms_json", stops)
        with pytest.raises(KeyboardInterrupt):
            export_run(config, out)
    left = {path.name for path in out.iterdir() if path.is_dir()}
    assert left == set()
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    export_run(config, out)
    before = (out / "nerfstudio" / "transforms.json").read_bytes()
    with pytest.raises(UsageError, match="finished run"):
        export_run(config, out)
    assert (out / "nerfstudio" / "transforms.json").read_bytes() == before
    export_run(replace(config, format=("colmap",)), out, fresh=True)
    assert not (out / "nerfstudio").exists()


def test_meshlab_gets_points_with_normals_towards_the_cameras(streamed, tmp_path):
    export_run(ExportConfig(str(streamed), ("meshlab",)), tmp_path / "out")
    cloud = read_ply(tmp_path / "out" / "meshlab" / "points.ply")
    assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-4)
    centres = np.stack(
        [seen.camera.centre for seen in open_streamed_run(streamed).trajectory.seen()]
    )
    towards = centres.mean(axis=0) - cloud.points
    assert (np.einsum("ni,ni->n", cloud.normals, towards) > 0).mean() > 0.9
    project = (tmp_path / "out" / "meshlab" / "scene.mlp").read_text()
    assert 'filename="points.ply"' in project
    assert "mesh.ply" not in project


def test_normals_of_a_plane_stand_on_it():
    random = np.random.default_rng(0)
    points = np.column_stack([random.random((200, 2)), np.zeros(200)])
    assert np.allclose(point_normals(points, np.array([[0.5, 0.5, 3.0]])), [0, 0, 1], atol=1e-6)
    faces = np.array([[0, 1, 2], [1, 3, 2]], np.int32)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    assert np.allclose(mesh_normals(corners, faces), [0, 0, 1])


def test_without_rerun_one_sentence_names_the_extra(streamed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(EnvironmentUnfit, match=r"everview\[rerun\]"):
        export_run(ExportConfig(str(streamed), ("nerfstudio", "rerun")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Recorded:
    """Stands where rerun's stream does: what would be in the recording, in order."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, dict[str, float], bool]] = []
        self.now: dict[str, float] = {}
        self.file = ""

    def module(self) -> SimpleNamespace:
        kinds = ("Transform3D", "Pinhole", "EncodedImage", "DepthImage", "Points3D", "Mesh3D",
                 "LineStrips3D", "Scalars")  # fmt: skip
        made = {kind: lambda *_, **__: object() for kind in kinds}
        views = SimpleNamespace(RDF="RDF")
        return SimpleNamespace(RecordingStream=lambda *_, **__: self, ViewCoordinates=views, **made)

    def save(self, file: str) -> None:
        Path(file).write_bytes(b"")

    def reset_time(self) -> None:
        self.now = {}

    def set_time(self, name: str, *, sequence: int | None = None, duration: float | None = None):
        self.now[name] = duration if sequence is None else sequence

    def log(self, entity: str, value: object, static: bool = False) -> None:
        self.logged.append((entity, dict(self.now), static))

    def disconnect(self) -> None:
        pass


def test_a_recording_has_every_frame_at_its_time_and_what_was_compared(
    streamed, capture, tmp_path, monkeypatch
):
    recorded = Recorded()
    monkeypatch.setitem(sys.modules, "rerun", recorded.module())
    done = export_run(ExportConfig(str(streamed), ("rerun",)), tmp_path / "out")
    assert done.written["rerun"]["frames"] == 10
    assert done.written["rerun"]["compared"] == 2
    truth = {frame.index: frame.time_s for frame in open_capture(capture)}
    images = [now for entity, now, _ in recorded.logged if entity == "world/camera/image"]
    assert images == [{"frame": index, "time": time} for index, time in truth.items()]
    assert sum(entity == "world/camera/depth" for entity, _, _ in recorded.logged) == 10
    assert {e for e, _, static in recorded.logged if static} == {"world/points", "world/path"}
    rendered = [now["frame"] for e, now, _ in recorded.logged if e == "compared/rendered"]
    assert rendered == [0, 5]
    assert any(entity == "curves/psnr" for entity, _, _ in recorded.logged)


def test_what_is_no_stream_is_refused(tmp_path):
    with pytest.raises(InputRejected, match="not a run of `everview stream`"):
        export_run(ExportConfig(str(tmp_path)), tmp_path / "out")
    with pytest.raises(UsageError, match="format"):
        ExportConfig("run", ())
