"""Shards give back what was written, refuse what was changed, and never mix the held-out names."""

import json

import numpy as np
import pytest
import torch

from everview.datasets.cameras import Camera
from everview.datasets.errors import DataError
from everview.datasets.procedural.trajectories import look_at
from everview.datasets.shards import open_shards, split_by_name, write_shards
from everview.datasets.shards.reading import decode_depth
from everview.datasets.shards.writing import SceneViews, encode_depth

PLACE = {"scale": "normalised", "licence": "Apache-2.0", "source": "a test"}


def scene(name, *, views=3, height=24, width=32, variant="", timed=False):
    random = np.random.default_rng(len(name) + views)
    images = random.integers(0, 255, (views, height, width, 3), dtype=np.uint8)
    ramp = np.linspace(1.0, 4.0, height * width).reshape(height, width)
    depth = np.where(random.random((views, height, width)) < 0.3, 0.0, ramp).astype(np.float32)
    eyes = random.normal(size=(views, 3)) + 3.0
    poses = look_at(eyes, np.zeros_like(eyes))
    cameras = [Camera(width, height, 30.0, 31.0, 16.0, 12.0, pose) for pose in poses]
    time_s = np.arange(views) / 10.0 if timed else None
    return SceneViews(name, images, depth, cameras, time_s, variant)


def test_png_shards_round_trip(tmp_path):
    scenes = [scene("a"), scene("b", variant="sun"), scene("c", timed=True)]
    write_shards(tmp_path / "set", scenes, image_format="png", **PLACE)
    shards = open_shards(tmp_path / "set")
    views = shards.load()
    assert len(shards) == 3
    assert [(s.name, s.variant) for s in views.scenes] == [("a", ""), ("b", "sun"), ("c", "")]
    for index, written in enumerate(scenes):
        assert np.array_equal(views.images[index], written.images)
        depth = views.depth[index].numpy()
        assert np.array_equal(depth > 0, written.depth > 0)
        assert np.abs(depth - written.depth).max() <= 4.0 / 65535
        poses = np.stack([camera.c2w_cv for camera in written.cameras])
        assert np.array_equal(views.cameras.c2w_cv[index], poses)
    assert torch.isnan(views.time_s[:2]).all()
    assert views.time_s[2].tolist() == [0.0, 0.1, 0.2]
    assert views.images.dtype == torch.uint8
    assert views.depth.dtype == torch.float32


def test_depth_coding_is_exact_for_every_value():
    random = np.random.default_rng(0)
    for steps in (random.integers(0, 65536, (17, 9)), np.full((4, 5), 65535), np.zeros((3, 3))):
        steps = steps.astype(np.uint16)
        assert np.array_equal(decode_depth(encode_depth(steps), steps.shape), steps)


def test_files_stay_below_sixteen_mebibytes(tmp_path, monkeypatch):
    from everview.datasets.shards import writing

    monkeypatch.setattr(writing, "MAX_SHARD_BYTES", 2**16 + 40_000)
    manifest = write_shards(
        tmp_path / "set", (scene(f"s{i}", views=4) for i in range(12)), image_format="png", **PLACE
    )
    assert len(manifest.shards) > 2
    for shard in manifest.shards:
        size = (tmp_path / "set" / shard.file).stat().st_size
        assert size == shard.size_bytes <= 2**16 + 40_000
    assert len(open_shards(tmp_path / "set").load().scenes) == 12


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "gone", "hash", "path", "version", "json", "size"]
)
def test_a_changed_set_is_refused_in_one_sentence(tmp_path, damage):
    write_shards(tmp_path / "set", [scene("a")], image_format="png", **PLACE)
    path, manifest_path = tmp_path / "set/shard-00000.safetensors", tmp_path / "set/manifest.json"
    content, manifest = bytearray(path.read_bytes()), json.loads(manifest_path.read_text())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-10])
    elif damage == "gone":
        path.unlink()
    elif damage == "hash":
        manifest["shards"][0]["sha256"] = "0" * 64
    elif damage == "path":
        manifest["shards"][0]["file"] = "../outside.safetensors"
    elif damage == "version":
        manifest["version"] = 99
    elif damage == "size":
        manifest["width"] = 31
    if damage not in ("flip", "cut", "gone"):
        text = "{" if damage == "json" else json.dumps(manifest)
        manifest_path.write_text(text)
    with pytest.raises(DataError) as caught:
        open_shards(tmp_path / "set").load()
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_manifest_is_no_shard_set(tmp_path):
    with pytest.raises(DataError, match="not a shard set"):
        open_shards(tmp_path)


def test_scenes_must_agree_and_be_named_once(tmp_path):
    with pytest.raises(DataError, match="differs"):
        write_shards(tmp_path / "a", [scene("a"), scene("b", views=4)], **PLACE)
    with pytest.raises(DataError, match="twice"):
        write_shards(tmp_path / "b", [scene("a"), scene("a")], **PLACE)
    with pytest.raises(DataError, match="no scene"):
        write_shards(tmp_path / "c", [], **PLACE)


def test_every_eighth_sorted_name_is_held_out():
    names = [f"{i:03d}_thing" for i in range(62)]
    shuffled = list(np.random.default_rng(1).permutation(names))
    training, held_out = split_by_name(shuffled + shuffled[:5])
    assert held_out == names[::8]
    assert len(training) == 54
    assert not set(training) & set(held_out)
    assert sorted(training + held_out) == names
