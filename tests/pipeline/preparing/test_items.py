"""What the user names becomes the right items, and a held-out object never a training one."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everview.datasets.errors import DataError
from everview.pipeline.errors import UsageError
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.items import find_items
from tests.pipeline.preparing.sources import capture, write_box, write_pictures

YCB = Path(os.environ.get("EVERVIEW_DATA", "../shared/data")) / "ycb62"


def kinds(found):
    return [(item.kind, item.name) for item in found.items]


def write_posed(folder):
    write_pictures(folder)
    np.savetxt(folder / "poses_c2w.txt", np.tile(np.eye(4).ravel(), (4, 1)))
    np.savetxt(folder / "K.txt", np.eye(3))
    return folder


def test_a_folder_of_meshes_is_its_meshes_and_not_the_pictures_beside_them(tmp_path):
    for name in ("b.glb", "a.ply"):
        write_box(tmp_path / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "texture.png")
    assert kinds(find_items([str(tmp_path)], None)) == [("mesh", "a"), ("mesh", "b")]


def test_a_capture_that_states_cameras_is_one_whatever_lies_in_it(tmp_path):
    write_box(write_posed(tmp_path / "walk") / "points.ply")
    assert kinds(find_items([str(tmp_path / "walk")], None)) == [("capture", "walk")]


def test_a_folder_of_captures_gives_each_and_names_what_is_neither(tmp_path):
    write_posed(tmp_path / "walk")
    write_pictures(tmp_path / "unposed")
    write_box(tmp_path / "chair.obj")
    write_box(tmp_path / "kitchen/pan.glb")
    write_box(tmp_path / "kitchen/pot.glb")
    (tmp_path / "notes.txt").write_text("nothing")
    found = find_items([str(tmp_path)], None)
    # a folder with meshes directly in it is a folder of meshes
    assert kinds(found) == [("mesh", "chair")]
    (tmp_path / "chair.obj").unlink()
    for left in tmp_path.glob("*.mtl"):
        left.unlink()
    found = find_items([str(tmp_path)], None)
    assert kinds(found) == [
        ("mesh", "kitchen-pan"),
        ("mesh", "kitchen-pot"),
        ("capture", "unposed"),
        ("capture", "walk"),
    ]
    assert [Path(name).name for name in found.passed_over] == ["notes.txt"]


def test_items_of_one_name_are_numbered(tmp_path):
    first, second = write_box(tmp_path / "a/box.glb"), write_box(tmp_path / "b/box.glb")
    assert kinds(find_items([str(first), str(second)], None)) == [
        ("mesh", "box"),
        ("mesh", "box-2"),
    ]


def test_what_is_no_source_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "text.txt").write_text("nothing")
    for source in ("absent", "text.txt", "."):
        with pytest.raises(DataError) as caught:
            find_items([str(tmp_path / source)], None)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="SOURCE"):
        PrepareConfig(sources=())


def test_a_split_that_is_asked_for_divides_any_folder(tmp_path):
    for number in range(10):
        write_box(tmp_path / f"{number}.ply")
    everything = find_items([str(tmp_path)], None)
    assert (len(everything.items), everything.split) == (10, "")
    held_out = find_items([str(tmp_path)], "held_out")
    assert (kinds(held_out), held_out.split) == ([("mesh", "0"), ("mesh", "8")], "held_out")
    assert len(find_items([str(tmp_path)], "training").items) == 8


@pytest.mark.skipif(not YCB.is_dir(), reason=f"no YCB objects in {YCB}")
def test_a_held_out_scan_is_prepared_only_when_it_is_asked_for():
    training, held_out = find_items([str(YCB)], None), find_items([str(YCB)], "held_out")
    assert (len(training.items), training.split) == (54, "training")
    assert (len(held_out.items), held_out.split) == (8, "held_out")
    names = sorted(path.stem for path in YCB.glob("*.npz"))
    assert [item.name for item in held_out.items] == names[::8]
    assert not {i.name for i in training.items} & {i.name for i in held_out.items}
    alone = YCB / f"{names[0]}.npz"
    with pytest.raises(UsageError, match="--split held_out"):
        find_items([str(alone)], None)
    assert kinds(find_items([str(alone)], "held_out")) == [("ycb", names[0])]
    assert kinds(find_items([str(YCB / f"{names[1]}.npz"), capture()], None))[0] == (
        "ycb",
        names[1],
    )
