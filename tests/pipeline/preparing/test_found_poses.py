"""Poses from pictures: used when they are asked for, compared with given ones, refused when few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.datasets.lenses import Lens
from everview.datasets.opening import open_capture
from everview.datasets.shards import open_shards
from everview.pipeline.preparing import capture_scenes
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.poses_by_sfm import RecoveredPoses
from everview.pipeline.preparing.run import prepare
from tests.pipeline.preparing.sources import capture, write_pictures

SCALE = 0.25


def recover_truly(missing):
    """A stand-in for the mapper: the true poses in a world a quarter as large, some missing."""

    def recover(frames, name, folder, **rest):
        frames = list(frames)
        posed = [frame for frame in frames if frame.index not in missing]
        lenses, poses = {}, {}
        for frame in posed:
            pose = frame.camera.c2w_cv.copy()
            pose[:3, 3] *= SCALE
            camera = frame.camera
            lenses[frame.index] = Lens(
                camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
            )
            poses[frame.index] = pose
        return RecoveredPoses(lenses, poses, len(frames), 0.5)

    return recover


def asked(out, source, **changes):
    config = PrepareConfig(sources=(source,), poses="sfm", size=32, image_format="png", **changes)
    return prepare(config, out, workers=1)


def test_found_poses_replace_given_ones_and_are_compared_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_scenes, "recover_poses", recover_truly({2}))
    done = asked(tmp_path / "out", capture(frames=6))
    (scene,) = open_shards(done.place).read()
    frames = [frame for frame in open_capture(capture(frames=6)) if frame.index != 2]
    centres = np.stack([frame.camera.centre for frame in frames])
    assert np.allclose(scene.cameras.centres.numpy(), SCALE * centres)
    assert scene.view_names == tuple(frame.name for frame in frames)
    # metric depth would contradict cameras of another scale
    assert (scene.origin.scale, scene.depth) == ("up_to_scale", None)
    assert any("not registered" in line for line in done.facts["skipped_frames"])
    assert any("5 of 6 frames registered" in note for note in done.facts["notes"])
    assert any("rotation 0.000 deg" in note for note in done.facts["notes"])


def test_too_few_registered_frames_refuse_the_capture(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_scenes, "recover_poses", recover_truly({1, 2, 3, 4}))
    with pytest.raises(DataError, match=r"2 of 6 frames registered.*--min-registered 0.7"):
        asked(tmp_path / "out", capture(frames=6))
    assert asked(tmp_path / "low", capture(frames=6), min_registered=0.3).manifest.views == 2


def test_pictures_of_nothing_are_refused_in_one_sentence(tmp_path):
    pytest.importorskip("pycolmap")
    write_pictures(tmp_path / "noise")
    with pytest.raises(DataError, match="no camera of noise could be found") as caught:
        asked(tmp_path / "out", str(tmp_path / "noise"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_photographs_without_their_poses_give_them_back(tmp_path, data_dir: Path):
    """The first eight of `fox`; `pose_errors` in `pipeline.preparing` has the figures of all."""
    pytest.importorskip("pycolmap")
    from everview.pipeline.preparing.pose_errors import compare_with_capture

    fox = data_dir / "fox"
    if not fox.is_dir():
        pytest.skip(f"no photographs in {fox}")
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted((fox / "images").iterdir())[:8]:
        (some / path.name).write_bytes(path.read_bytes())
    done = asked(tmp_path / "out", str(some))
    assert done.manifest.views == 8
    errors = compare_with_capture(done.place, str(fox))
    assert errors.rotation_deg_mean < 2.0
    assert errors.translation_rmse < 0.05
