"""Shards give back what was written, refuse what was changed, and never mix the held-out names."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.shards import open_place, open_shards, split_by_name, write_shards
from everview.datasets.shards.coding import decode_depth, encode_depth
from tests.datasets.shards.posed import scene


def test_scenes_with_and_without_depth_and_clock_round_trip(tmp_path):
    scenes = [
        scene("a"),
        scene("b", variant="sun", views=5),
        scene("c", timed=True, deep=False, views=1),
    ]
    write_shards(tmp_path / "set", scenes, image_format="png")
    shards = open_shards(tmp_path / "set")
    assert len(shards) == 3
    assert [(s.name, s.variant, s.views) for s in shards.manifest.scenes] == [
        ("a", "", 3), ("b", "sun", 5), ("c", "", 1),
    ]  # fmt: skip
    for written, read in zip(scenes, shards.read(), strict=True):
        assert np.array_equal(read.images, written.images)
        assert torch.equal(read.cameras.c2w_cv, written.cameras.c2w_cv)
        assert torch.equal(read.cameras.intrinsics, written.cameras.intrinsics)
        assert read.view_names == written.view_names
        assert read.origin == written.origin
        if written.depth is None:
            assert read.depth is None
        else:
            assert np.array_equal(read.depth > 0, written.depth > 0)
            assert np.abs(read.depth - written.depth).max() <= 4.0 / 65535
    assert shards.scene(0).time_s is None
    assert shards.scene(2).time_s.tolist() == [0.0]


def test_the_manifest_counts_what_is_inside(tmp_path):
    write_shards(tmp_path / "set", [scene("a"), scene("b", views=7)])
    content = json.loads((tmp_path / "set/manifest.json").read_text())
    assert (content["num_scenes"], content["num_views"]) == (2, 10)
    assert content["views_per_scene"] == [3, 7]
    assert content["scales"] == ["normalised"]
    assert content["licences"] == ["Apache-2.0"]
    lowest, highest = content["cameras"]["fov_deg"]
    assert lowest == highest == pytest.approx(2 * np.degrees(np.arctan(16 / 30)), rel=1e-5)


def test_depth_coding_is_exact_for_every_value():
    random = np.random.default_rng(0)
    for steps in (random.integers(0, 65536, (17, 9)), np.full((4, 5), 65535), np.zeros((3, 3))):
        steps = steps.astype(np.uint16)
        assert np.array_equal(decode_depth(encode_depth(steps), steps.shape), steps)


def test_files_stay_below_the_limit_and_are_read_one_at_a_time(tmp_path, monkeypatch):
    from everview.datasets.shards import writing

    monkeypatch.setattr(writing, "MAX_SHARD_BYTES", 2**16 + 40_000)
    names = [f"s{i}" for i in range(12)]
    manifest = write_shards(
        tmp_path / "set", (scene(name, views=4) for name in names), image_format="png"
    )
    assert len(manifest.shards) > 2
    for shard in manifest.shards:
        size = (tmp_path / "set" / shard.file).stat().st_size
        assert size == shard.size_bytes <= 2**16 + 40_000
    # what lies behind the first shard may be missing until it is asked for
    (tmp_path / "set" / manifest.shards[-1].file).unlink()
    shards = open_shards(tmp_path / "set", open_shards=1)
    assert shards.scene(0).name == "s0"
    with pytest.raises(DataError, match=manifest.shards[-1].file):
        shards.scene(11)


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "gone", "hash", "path", "version", "json", "size", "views", "twice"]
)
def test_a_changed_set_is_refused_in_one_sentence_that_names_the_file(tmp_path, damage):
    write_shards(tmp_path / "set", [scene("a")], image_format="png")
    path, manifest_path = tmp_path / "set/shard-00000.safetensors", tmp_path / "set/manifest.json"
    content, manifest = bytearray(path.read_bytes()), json.loads(manifest_path.read_text())
    entry = manifest["shards"][0]
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-10])
    elif damage == "gone":
        path.unlink()
    elif damage == "hash":
        entry["sha256"] = "0" * 64
    elif damage == "path":
        entry["file"] = "../outside.safetensors"
    elif damage == "version":
        manifest["version"] = 99
    elif damage == "size":
        manifest["width"] = 31
    elif damage == "views":
        entry["scenes"][0]["views"] = manifest["num_views"] = 4
    elif damage == "twice":
        manifest["shards"].append(entry)
        manifest.update(num_scenes=2, num_views=6)
    if damage not in ("flip", "cut", "gone"):
        text = "{" if damage == "json" else json.dumps(manifest)
        manifest_path.write_text(text)
    with pytest.raises(DataError) as caught:
        open_shards(tmp_path / "set").scene(0)
    assert "\n" not in str(caught.value)
    named = "shard-00000" if damage in ("flip", "cut", "gone", "hash", "size", "views") else ""
    assert named in str(caught.value)


def test_a_folder_without_a_manifest_is_no_shard_set(tmp_path):
    with pytest.raises(DataError, match="not a shard set"):
        open_shards(tmp_path)


def test_a_set_lies_wherever_fsspec_reaches():
    where = "memory://shards/of/a/test"
    write_shards(where, [scene("a")], image_format="png")
    assert open_place(where).names() == ["manifest.json", "shard-00000.safetensors"]
    assert np.array_equal(open_shards(where).scene(0).images, scene("a").images)
    open_place(where).remove("shard-00000.safetensors")
    with pytest.raises(DataError, match=r"memory://.*shard-00000"):
        open_shards(where).scene(0)


def test_a_missing_driver_and_a_foreign_scheme_are_said_in_one_sentence(monkeypatch):
    import fsspec

    def without_driver(scheme):
        raise ImportError("no module")

    monkeypatch.setattr(fsspec, "filesystem", without_driver)
    with pytest.raises(DataError, match="pip install s3fs"):
        open_shards("s3://bucket/set")
    with pytest.raises(DataError, match="read from a path or"):
        open_shards("http://somewhere/set")
    with pytest.raises(DataError, match="read from a path or"):
        open_shards("memory://a::file://b")


def test_scenes_must_agree_fit_and_be_named_once(tmp_path):
    with pytest.raises(DataError, match="differs in size"):
        write_shards(tmp_path / "a", [scene("a"), scene("b", width=40)])
    with pytest.raises(DataError, match="twice"):
        write_shards(tmp_path / "b", [scene("a"), scene("a")])
    with pytest.raises(DataError, match="no scene"):
        write_shards(tmp_path / "c", [])
    whole = scene("a")
    with pytest.raises(DataError, match="depth"):
        replace(whole, depth=whole.depth[:, 1:])
    with pytest.raises(DataError, match="not finite"):
        replace(whole, cameras=replace(whole.cameras, c2w_cv=whole.cameras.c2w_cv * np.nan))
    with pytest.raises(DataError, match="not negative"):
        write_shards(tmp_path / "d", [replace(whole, depth=-whole.depth)])


def test_every_eighth_sorted_name_is_held_out():
    names = [f"{i:03d}_thing" for i in range(62)]
    shuffled = list(np.random.default_rng(1).permutation(names))
    training, held_out = split_by_name(shuffled + shuffled[:5])
    assert held_out == names[::8]
    assert len(training) == 54
    assert not set(training) & set(held_out)
    assert sorted(training + held_out) == names


def test_a_scene_of_a_set_is_a_capture_with_a_cursor(tmp_path):
    scenes = [scene("cup", views=5, timed=True), scene("cup", views=4, variant="sun")]
    write_shards(tmp_path / "set", scenes, image_format="png")
    for written, title in zip(scenes, ("cup", "cup/sun"), strict=True):
        capture = open_capture(f"{tmp_path / 'set'}#{title}")
        frames = list(capture)
        assert [frame.name for frame in frames] == list(written.view_names)
        assert np.array_equal(np.stack([frame.image for frame in frames]), written.images)
        cameras = Cameras.stack([frame.camera for frame in frames])
        assert torch.equal(cameras.c2w_cv, written.cameras.c2w_cv)
        assert [frame.time_s for frame in frames] == list(
            [None] * 4 if written.time_s is None else written.time_s
        )
        assert (capture.info.scale, capture.info.licence) == ("normalised", "Apache-2.0")
        again = open_capture(f"{tmp_path / 'set'}#{title}")
        assert next(iter(again)).index == 0
        capture.restore(again.state())
        assert [frame.index for frame in capture] == list(range(1, written.views))
    with pytest.raises(DataError, match="another capture"):
        capture.restore(open_capture(f"{tmp_path / 'set'}#cup").state())


def test_a_scene_that_a_set_lacks_is_named_beside_those_it_has(tmp_path):
    write_shards(tmp_path / "set", [scene("cup"), scene("jar")])
    with pytest.raises(DataError, match=r"has no scene 'jug'; it has cup, jar"):
        open_capture(f"{tmp_path / 'set'}#jug")
