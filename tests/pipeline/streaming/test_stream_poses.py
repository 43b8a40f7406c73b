"""Streams without known cameras: by odometry, from their pictures, or refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.lenses import Lens
from everview.datasets.opening import open_capture
from everview.datasets.writers.colmap_text import write_colmap_text
from everview.datasets.writers.posed_image import PosedImage
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.posing import sfm_source
from everview.pipeline.posing.sfm_source import SfmSource
from everview.pipeline.preparing.poses_by_sfm import RecoveredPoses, read_poses
from everview.pipeline.streaming.events import read_events
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.published import World
from everview.pipeline.streaming.scenes import open_model
from everview.pipeline.streaming.session import Session
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.sources.iterated import IteratedSource
from everview.pipeline.streaming.stream import stream_capture, stream_source
from everview.pipeline.streaming.trajectory import ROWS_NAME

POLICIES = StreamPolicies(chunk_frames=4, snapshot_every_s=3600.0)


@pytest.fixture(scope="module")
def walk() -> list[Frame]:
    return list(open_capture("procedural://room?seed=5&frames=11&size=64"))


def test_odometry_streams_frames_and_measures_its_poses(walk, config, tmp_path, without_lpips):
    pytest.importorskip("open3d")
    wanted = replace(config, poses="odometry", size=64, policies=POLICIES)
    blind = replace(walk[7], depth=None)
    frames = [*walk[:7], blind, *walk[8:]]
    source = IteratedSource(iter(frames), "walk", scale="metric", has_depth=True)
    done = stream_source(source, wanted, tmp_path / "run")
    told = done.metrics["trajectory"]
    assert (told["poses"], told["alignment"], told["unit"]) == ("odometry", "SE3", "m")
    assert told["frames"] == 10
    assert told["ate_share_of_path"] < 0.03
    assert told["counts"]["lost"] == 1
    assert "1 frames were lost" in done.table
    assert done.metrics["details"]["held_out_frames"] == 3
    (lost,) = [event for event in read_events(done.run) if event["event"] == "lost"]
    assert lost["sequence"] == 7
    assert len((done.run / "trajectory_tum.txt").read_text().splitlines()) >= 10


def test_odometry_resumed_from_a_snapshot_is_as_if_never_stopped(
    walk, weights, tmp_path, monkeypatch
):
    pytest.importorskip("open3d")
    from everview.pipeline.posing.odometer import Odometer
    from everview.pipeline.posing.refinement import Refiner

    # the refinement alone isn't repeatable to the bit everywhere (`refinement`): the true motion
    true = {frame.index: frame.camera.c2w_cv for frame in walk}
    monkeypatch.setattr(
        Refiner,
        "refine",
        lambda _, frame, key, __: np.linalg.inv(true[key.index]) @ true[frame.index],
    )

    model = open_model(str(weights), "cpu")

    def session(name: str) -> Session:
        (tmp_path / name).mkdir(exist_ok=True)
        return Session(model, POLICIES, tmp_path / name, World("metric"), odometer=Odometer())

    whole, stopped = session("whole"), session("stopped")
    for frame in walk:
        whole.push(frame)
    for frame in walk[:6]:
        stopped.push(frame)
    assert stopped.snapshot() is not None
    resumed = session("stopped")
    resumed.restore(load_snapshot(tmp_path / "stopped"))
    for frame in walk[6:]:
        resumed.push(frame)
    rows = [(one.out / ROWS_NAME).read_bytes() for one in (whole, resumed)]
    assert rows[0] == rows[1]
    assert whole.intake.odometer.to_facts() == resumed.intake.odometer.to_facts()


def recover_truly(frames, name, folder, **rest):
    """A stand-in for the mapper: the true poses in a world a quarter as large, but for one."""
    frames = list(frames)
    cameras = {frame.index: frame.camera for frame in frames if frame.index != 3}
    lenses = {
        index: Lens(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        for index, camera in cameras.items()
    }
    poses = {index: camera.c2w_cv.copy() for index, camera in cameras.items()}
    for pose in poses.values():
        pose[:3, 3] *= 0.25
    (folder / "sparse").mkdir()
    return RecoveredPoses(lenses, poses, len(frames), 0.5)


def test_sfm_poses_come_first_and_are_compared_with_those_given(
    config, tmp_path, monkeypatch, without_lpips
):
    monkeypatch.setattr(sfm_source, "recover_poses", recover_truly)
    done = stream_capture(replace(config, poses="sfm"), tmp_path / "run")
    told = done.metrics["trajectory"]
    assert (told["poses"], told["alignment"], told["frames"]) == ("sfm", "Sim3", 20)
    assert told["scale"] == pytest.approx(4.0)
    assert told["ate_rmse"] < 1e-6
    found = json.loads((done.run / "sfm" / "found.json").read_text())
    assert (found["frames"], found["registered"]) == (21, 20)
    stream = json.loads((done.run / "run.json").read_text())["stream"]
    assert stream["refused"] == {"no camera": 1}


def test_a_continued_run_uses_the_poses_that_were_found_and_looks_for_none(
    capture_folder, tmp_path, monkeypatch
):
    def recover(frames, name, folder, **rest):
        """As the mapper leaves it: a model whose pictures go with the working folder."""
        images = [PosedImage(f"{f.index:06d}.png", f.camera, None) for f in frames]
        write_colmap_text(folder / "sparse", images)
        return read_poses(folder, len(images), 0.5)

    def cameras():
        source = SfmSource(open_capture(str(capture_folder)))
        source.begin(tmp_path, lambda _: None)
        return [frame.camera.c2w_cv for frame in source.seen_again()]

    monkeypatch.setattr(sfm_source, "recover_poses", recover)
    found = cameras()
    monkeypatch.delattr(sfm_source, "recover_poses")
    assert np.array_equal(cameras(), found)


def test_too_few_registered_frames_refuse_the_stream(config, tmp_path, monkeypatch):
    def few(frames, name, folder, **rest):
        found = recover_truly(frames, name, folder)
        return replace(found, c2w_cv={0: found.c2w_cv[0]})

    monkeypatch.setattr(sfm_source, "recover_poses", few)
    with pytest.raises(DataError, match=r"for 1 of 21 frames, fewer than 70%"):
        stream_capture(replace(config, poses="sfm"), tmp_path / "run")
    assert not (tmp_path / "run" / "sfm").exists()


def test_what_a_way_to_poses_needs_is_said_where_it_is_missing(config, tmp_path):
    with pytest.raises(DataError, match=r"has no depth, and odometry needs it.*--poses sfm"):
        stream_capture(replace(config, poses="odometry"), tmp_path / "a")
    with pytest.raises(UsageError, match="--poses sfm needs all frames at once"):
        stream_capture(replace(config, poses="sfm", watch=True), tmp_path / "b")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (32, 32)).save(pictures / "0.png")
    with pytest.raises(
        DataError, match=r"no camera poses.*--poses sfm.*--poses odometry.*--poses learned"
    ):
        stream_capture(replace(config, capture=str(pictures)), tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_a_folder_with_depth_and_intrinsics_needs_no_poses(tmp_path):
    np.savetxt(tmp_path / "K.txt", [[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    Image.new("RGB", (32, 24)).save(tmp_path / "0.png")
    Image.fromarray(np.full((24, 32), 1500, np.uint16)).save(tmp_path / "0_depth.png")
    capture = open_capture(tmp_path)
    assert (capture.info.has_cameras, capture.info.has_depth) == (False, True)
    assert (capture.info.lens.width, capture.info.lens.fx) == (32, 30.0)
    (frame,) = capture
    assert frame.camera is None
    assert np.allclose(frame.depth, 1.5)


def test_learned_poses_stream_pictures_with_a_lens_and_are_measured(
    walk, config, tmp_path, without_lpips, monkeypatch
):
    from everview.pipeline.streaming import posing
    from tests.pipeline.posing.exact_matcher import ExactMatcher

    class Moved(ExactMatcher):
        def to(self, device):
            return self

    monkeypatch.setattr(posing, "load_matcher", lambda: Moved(walk))
    wanted = replace(config, poses="learned", size=64, policies=POLICIES)
    source = IteratedSource(iter(walk), "walk", scale="metric", has_depth=True)
    done = stream_source(source, wanted, tmp_path / "run")
    told = done.metrics["trajectory"]
    assert (told["poses"], told["alignment"], told["unit"]) == ("learned", "Sim3", "m")
    assert told["frames"] == 11
    assert told["ate_share_of_path"] < 0.02
    record = json.loads((done.run / "run.json").read_text())
    assert record["gauge"]["rule"] == "median triangulated depth"
    # depth in metres says nothing of pictures in a unit of their own
    assert done.metrics["depth_abs_rel"] is None


def test_learned_poses_without_their_weights_are_refused_in_a_sentence(
    walk, config, tmp_path, monkeypatch
):
    from everview.models.pairs import files
    from everview.pipeline.streaming import posing

    monkeypatch.setattr(posing, "load_matcher", lambda: files.load_matcher(tmp_path / "nowhere"))
    source = IteratedSource(iter(walk), "walk")
    with pytest.raises(InputRejected, match="no weights called"):
        stream_source(source, replace(config, poses="learned", size=64), tmp_path / "run")
