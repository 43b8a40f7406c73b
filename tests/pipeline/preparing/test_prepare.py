"""Sources become verified shards that training reads; cut anywhere, the same command goes on."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.resampling import fit_frame
from everview.datasets.shards import open_shards
from everview.datasets.shards.places import LocalPlace, open_place
from everview.pipeline.errors import EnvironmentUnfit, TryAgain, UsageError
from everview.pipeline.preparing import capture_scenes, mesh_scenes
from everview.pipeline.preparing.capture_scenes import cover, cut_evenly
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.run import prepare
from everview.pipeline.training.config import DataConfig, EpisodeShape
from everview.pipeline.training.stored_scenes import StoredScenes
from tests.pipeline.preparing.sources import capture, write_box, write_pictures, write_walk

YCB = Path(os.environ.get("EVERVIEW_DATA", "../shared/data")) / "ycb62"
SMALL = {"size": 32, "views": 3, "lights": 2, "image_format": "png"}


def config(*sources, **changes):
    return PrepareConfig(sources=tuple(map(str, sources)), **{**SMALL, **changes})


def made(out, *sources, fresh=False, **changes):
    return prepare(config(*sources, **changes), out, fresh, command=["prepare"], workers=1)


def content(folder):
    """Every file of the set, by name."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name.startswith(("shard-", "manifest"))
    }


def test_a_capture_keeps_its_cameras_depth_times_and_scale(tmp_path):
    done = made(tmp_path / "out", capture(frames=6))
    (scene,) = open_shards(done.place).read()
    opened = open_capture(capture(frames=6))
    frames = [fit_frame(frame, 32, square=True) for frame in opened]
    assert scene.origin.scale == opened.info.scale
    assert np.array_equal(scene.images, np.stack([frame.image for frame in frames]))
    assert scene.time_s.tolist() == [frame.time_s for frame in frames]
    poses = np.stack([frame.camera.c2w_cv for frame in frames])
    assert np.array_equal(scene.cameras.c2w_cv.numpy(), poses)
    depth = np.stack([frame.depth for frame in frames])
    assert np.abs(scene.depth - depth).max() <= depth.max() / 65535
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert (record["status"], record["prepared"]["views"]) == ("done", 6)


def test_long_captures_are_cut_into_scenes_of_one_world(tmp_path):
    done = made(tmp_path / "out", capture(frames=11), scene_views=4)
    entries = done.manifest.scenes
    assert [entry.views for entry in entries] == [4, 4, 3]
    assert len({entry.origin.world for entry in entries}) == 1
    assert len({entry.name for entry in entries}) == 3
    names = [name for scene in open_shards(done.place).read() for name in scene.view_names]
    assert names == [frame.name for frame in open_capture(capture(frames=11))]


def test_cuts_are_even_where_the_rest_would_be_small():
    lengths = {n: [len(part) for part in cut_evenly(iter(range(n)), 4)] for n in range(14)}
    assert lengths[0] == []
    assert (lengths[4], lengths[5], lengths[8], lengths[9]) == ([4], [3, 2], [4, 4], [4, 3, 2])
    assert all(sum(parts) == n and max(parts, default=0) <= 4 for n, parts in lengths.items())


def test_covering_keeps_what_a_camera_sees_in_place():
    frame = next(iter(open_capture("procedural://tabletop?seed=1&frames=2&size=64")))
    point = frame.camera.unproject(np.array([32.0, 32.0]), np.array(2.0))
    for width, height in ((16, 16), (48, 24), (24, 80)):
        covered = cover(Frame(0, "a", frame.image, frame.camera, depth=frame.depth), width, height)
        assert covered.image.shape == (height, width, 3)
        assert covered.depth.shape == (height, width)
        seen, _ = covered.camera.project(point)
        assert np.abs(seen - [width / 2, height / 2]).max() <= 0.51


def test_meshes_are_seen_under_every_light_with_exact_depth(tmp_path):
    pytest.importorskip("embreex")
    write_box(tmp_path / "box.glb")
    done = made(tmp_path / "out", tmp_path / "box.glb", lights=3, views=4)
    scenes = list(open_shards(done.place).read())
    assert [scene.variant for scene in scenes] == ["unlit", "sun", "sun-2"]
    for scene in scenes:
        assert scene.origin.scale == "normalised"
        cameras = scene.cameras.unbind()
        for depth, camera in zip(scene.depth, cameras, strict=True):
            points = camera.unproject(camera.pixel_centres(), depth)[depth > 0]
            # on the surface of a box of 1 x 2 x 3, scaled to radius 0.9 (glTF has y up)
            sides = np.abs(points) / (0.9 / np.sqrt(14.0))
            half = [1.0, 2.0, 3.0]
            assert np.abs((sides / half).max(-1) - 1.0).max() < 2e-3
    assert done.facts["rendered_views"] == 12
    assert done.facts["rendered_views_per_s"] > 0


def test_one_source_that_fails_is_named_and_the_others_are_prepared(tmp_path):
    pytest.importorskip("embreex")
    write_box(tmp_path / "all/a.ply")
    (tmp_path / "all/b.ply").write_bytes(b"ply\nnothing of the kind")
    write_box(tmp_path / "all/c.ply")
    done = made(tmp_path / "out", tmp_path / "all")
    assert done.exit_code == 1
    assert list(done.failed) == ["b"]
    assert "b.ply" in done.failed["b"]
    assert {scene.name for scene in done.manifest.scenes} == {"a", "c"}
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "failed"
    # mended, the same command prepares what was missing
    write_box(tmp_path / "all/b.ply")
    again = made(tmp_path / "out", tmp_path / "all")
    assert (again.exit_code, len(again.manifest.scenes)) == (0, 6)
    assert len(list(open_shards(again.place).read())) == 6


def test_pictures_without_poses_are_refused_until_poses_are_asked_for(tmp_path):
    write_pictures(tmp_path / "unposed")
    with pytest.raises(DataError, match="--poses sfm"):
        made(tmp_path / "out", tmp_path / "unposed")
    assert not (tmp_path / "out/manifest.json").exists()


class Cut(BaseException):
    """A kill, as far as the writer can tell."""


@pytest.mark.parametrize("after", [False, True])
def test_cut_at_any_write_the_same_command_makes_the_same_set(tmp_path, monkeypatch, after):
    sources = [write_walk(tmp_path / f"walk-{number}", 2) for number in range(3)]
    whole = content(made(tmp_path / "whole", *sources).run)
    write = LocalPlace.write
    writes = 7  # a shard and a receipt a source, and the manifest
    for stop in range(writes):
        left = [stop]

        def cutting(self, name, data, left=left):
            if left[0] == 0 and not after:
                raise Cut
            write(self, name, data)
            if left[0] == 0:
                raise Cut
            left[0] -= 1

        out = tmp_path / f"cut-{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(LocalPlace, "write", cutting)
            with pytest.raises(Cut):
                made(out, *sources)
        again = made(out, *sources)
        # a source takes two writes, and what was finished is not made again
        finished = (stop + after) // 2
        assert again.facts["batches_there"] == min(finished, 3)
        assert content(out) == whole


def test_a_shard_that_was_damaged_or_whose_source_changed_is_made_again(tmp_path, monkeypatch):
    sources = [capture(seed=seed, frames=2) for seed in range(2)]
    whole = content(made(tmp_path / "whole", *sources).run)
    out = tmp_path / "out"
    write = LocalPlace.write

    def cutting(self, name, data):
        if name == "manifest.json":
            raise Cut
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "write", cutting)
        with pytest.raises(Cut):
            made(out, *sources)
    shard = out / "shard-00000-00000.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    (out / ".shard-00001-00000.safetensors.cut").write_bytes(b"half a file")
    again = made(out, *sources)
    assert again.facts["batches_there"] == 1
    assert content(out) == whole
    assert not list(out.glob(".shard-*"))


def test_a_finished_set_is_refused_and_made_anew_when_asked(tmp_path):
    made(tmp_path / "out", capture(frames=2))
    with pytest.raises(UsageError, match="--fresh"):
        made(tmp_path / "out", capture(frames=2))
    assert made(tmp_path / "out", capture(frames=3), fresh=True).manifest.views == 3


def test_a_set_can_lie_at_a_url_and_is_not_written_over(tmp_path):
    where = "memory://prepared/set"
    for name in open_place(where).names():
        open_place(where).remove(name)
    done = made(tmp_path / "out", capture(frames=2), to=where)
    assert done.place == where
    assert open_shards(where).scene(0).views == 2
    with pytest.raises(UsageError, match="not empty"):
        made(tmp_path / "other", capture(frames=2), to=where)
    made(tmp_path / "other", capture(frames=3), to=where, fresh=True)
    assert open_shards(where).scene(0).views == 3


def test_ctrl_c_keeps_what_was_made_and_the_same_command_goes_on(tmp_path):
    import signal

    sources = [capture(seed=seed, frames=2) for seed in range(3)]
    whole = content(made(tmp_path / "whole", *sources).run)

    class Interrupting:
        def step(self, stage, done, total):
            if done == 1:
                signal.raise_signal(signal.SIGINT)

        def say(self, line):
            pass

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(config(*sources), out, progress=Interrupting(), workers=1)
    assert json.loads((out / "run.json").read_text())["exit_status"] == 130
    assert not (out / "manifest.json").exists()
    assert made(out, *sources).facts["batches_there"] == 1
    assert content(out) == whole


def test_without_the_library_it_needs_a_mesh_ends_the_run_with_exit_4(tmp_path, monkeypatch):
    write_box(tmp_path / "box.glb")

    def absent(mesh):
        raise ImportError("No module named 'embreex'")

    monkeypatch.setattr(mesh_scenes, "MeshRenderer", absent)
    with pytest.raises(EnvironmentUnfit, match="pip install"):
        made(tmp_path / "out", tmp_path / "box.glb")


@pytest.mark.parametrize("name", ["shard-", "batch-", "manifest"])
def test_a_full_disk_asks_to_try_again_and_loses_nothing(tmp_path, monkeypatch, name):
    write = LocalPlace.write

    def full(self, file, data):
        if file.startswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, file, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "write", full)
        with pytest.raises(TryAgain, match="no space left"):
            made(tmp_path / "out", capture(frames=2))
    assert made(tmp_path / "out", capture(frames=2)).manifest.views == 2


def test_without_ray_one_process_makes_everything_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setattr("everview.pipeline.preparing.run.has_ray", lambda: False)
    said = []

    class Listening:
        def step(self, stage, done, total):
            pass

        def say(self, line):
            said.append(line)

    sources = [capture(seed=seed, frames=2) for seed in range(2)]
    done = prepare(config(*sources), tmp_path / "out", progress=Listening(), workers=2)
    assert len(done.manifest.scenes) == 2
    assert [line for line in said if "ray" in line] == [
        "ray is not installed: one process makes everything"
    ]


def test_a_capture_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    scenes = capture_scenes.capture_scenes

    def failing(item, *rest):
        for scene in scenes(item, *rest):
            yield scene
            if "seed=1" in item.name:
                raise DataError("its end is damaged")

    monkeypatch.setattr("everview.pipeline.preparing.batches.capture_scenes", failing)
    sources = [capture(seed=seed, frames=5) for seed in range(2)]
    done = made(tmp_path / "out", *sources, scene_views=2)
    assert list(done.failed.values()) == ["its end is damaged"]
    assert len(done.manifest.scenes) == 3
    names = {path.name for path in (tmp_path / "out").glob("shard-*")}
    assert names == {shard.file for shard in done.manifest.shards}


def training_data(*places, **changes):
    shape = EpisodeShape(scenes=4, inputs=2, targets=1, chunks=(1,))
    small = {"size": 32, "views": 3, "pool_scenes": 16, "refresh_scenes": 2, "stored_scenes": 16}
    return DataConfig(**{**small, "shapes": (shape,), "shards": places, **changes})


def test_training_reads_what_was_prepared_and_says_what_does_not_fit(tmp_path):
    done = made(tmp_path / "out", capture(seed=0, frames=7), capture(seed=1, frames=4))
    stored = StoredScenes(training_data(done.place), seed=0)
    views = stored.make(0)
    assert (views.scenes, views.views) == (2, 3)
    scenes = open_shards(done.place).read()
    known = {image.transpose(2, 0, 1).tobytes() for scene in scenes for image in scene.images}
    assert {image.numpy().tobytes() for image in views.images.flatten(0, 1)} <= known
    with pytest.raises(UsageError, match="at most 7 views"):
        StoredScenes(training_data(done.place, views=8), seed=0)
    with pytest.raises(UsageError, match="--size 64"):
        StoredScenes(training_data(done.place, size=64), seed=0)


def test_a_walk_of_unknown_unit_is_trained_on_at_the_distance_of_its_points(tmp_path):
    """Its cameras meet nowhere: what was triangulated says how far away things are."""
    done = made(tmp_path / "out", write_walk(tmp_path / "walk", depth=6.0))
    (scene,) = open_shards(done.place).read()
    assert scene.depth is None
    assert scene.distance == pytest.approx(6.0, abs=0.11)
    views = StoredScenes(training_data(done.place), seed=0).make(0)
    steps = views.c2w_cv[0, :, 2, 3].diff()
    times = steps / (0.1 * 2.0 / scene.distance)  # things are brought to 2 m
    assert times.round().allclose(times, atol=1e-3)


def test_a_walk_of_which_nothing_tells_the_unit_is_refused_when_prepared_not_in_training(tmp_path):
    walk = write_walk(tmp_path / "walk", depth=None)
    done = made(tmp_path / "out", walk, capture())
    assert done.exit_code == 1
    assert "can't be trained on: the scene's scale can't be told" in done.failed["walk"]
    assert StoredScenes(training_data(done.place), seed=0).make(0).views == 3


@pytest.mark.skipif(not YCB.is_dir(), reason=f"no YCB objects in {YCB}")
def test_scanned_objects_are_trained_on_but_never_the_held_out_ones(tmp_path):
    pytest.importorskip("embreex")
    names = sorted(path.stem for path in YCB.glob("*.npz"))
    trained = made(tmp_path / "training", YCB / f"{names[1]}.npz")
    assert trained.manifest.split == "training"
    assert "YCB" in trained.manifest.licences[0]
    assert StoredScenes(training_data(trained.place), seed=0).make(0).views == 3
    kept = made(tmp_path / "kept", YCB / f"{names[0]}.npz", split="held_out")
    with pytest.raises(UsageError, match="never trained on"):
        StoredScenes(training_data(kept.place), seed=0)
