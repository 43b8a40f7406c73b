"""Hostile and broken input: one bad frame is skipped, a bad capture is one sentence.

`refused` stands for exit code 3: DataError, one line, naming a file. Nothing else may come out.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from everview.datasets.errors import DataError
from everview.datasets.guards import image_size, load_npy, load_npz, read_json
from everview.datasets.images import read_colour, read_mask
from everview.datasets.opening import open_capture
from tests.datasets import captures_on_disk as disk


def refused(source: Path, *said: str) -> str:
    """The sentence with which a whole capture is refused, at opening or after one pass."""
    with pytest.raises(DataError) as caught:
        list(open_capture(source))
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    for part in said:
        assert part in text, text
    return text


def png_header(width: int, height: int, payload: bytes = b"") -> bytes:
    """A PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", payload) + chunk(b"IEND", b"")


def folder_of_images(root: Path, count: int = 3) -> Path:
    for k in range(count):
        disk.save_image(root / f"{k}.png", np.full((8, 8, 3), 40 * k, np.uint8))
    return root


@pytest.mark.parametrize("side", [8_001, 20_000, 50_000])
def test_an_image_bomb_is_skipped_unread(tmp_path, side):
    folder_of_images(tmp_path)
    (tmp_path / "1.png").write_bytes(png_header(side, side, zlib.compress(bytes(10**6))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    capture = open_capture(tmp_path)
    assert [frame.name for frame in capture] == ["0.png", "2.png"]
    assert "1.png" in capture.skipped[0].reason
    assert "64000000" in capture.skipped[0].reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


@pytest.mark.parametrize(
    "damage",
    {
        "truncated": lambda data: data[: len(data) * 2 // 3],
        "header only": lambda data: data[:40],
        "empty": lambda data: b"",
        "text": lambda data: b"this is not an image",
        "bit flips": lambda data: data[:60] + bytes(b ^ 0x5A for b in data[60:90]) + data[90:],
        "gif": lambda data: b"GIF89a" + bytes(40),
        "postscript": lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_image_is_skipped_named_and_counted(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for k in range(3):
        disk.save_image(tmp_path / f"{k}.png", noise)
    path = tmp_path / "1.png"
    path.write_bytes(damage[1](path.read_bytes()))
    capture = open_capture(tmp_path)
    frames = list(capture)
    assert [frame.index for frame in frames] == [0, 2]
    assert [skip.name for skip in capture.skipped] == ["1.png"]
    assert str(path) in capture.skipped[0].reason
    with pytest.raises(DataError):
        capture[1]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]), st.randoms(use_true_random=False))
def test_random_damage_to_an_image_gives_pixels_or_data_error(tmp_path_factory, kind, random):
    noise = np.random.default_rng(1).integers(0, 255, (16, 24, 3), np.uint8)
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind.lower()}"
    Image.fromarray(noise).save(path, kind)
    data = bytearray(path.read_bytes())
    for _ in range(random.randint(1, 6)):
        data[random.randrange(len(data))] = random.randrange(256)
    path.write_bytes(bytes(data[: random.randint(len(data) // 2, len(data))]))
    for read in (read_colour, lambda path: read_colour(path, orient=True), read_mask, image_size):
        try:
            read(path)
        except DataError as error:
            refusal = str(error)
            assert_one_line(refusal, path)


def assert_one_line(refusal: str, path: Path) -> None:
    assert "\n" not in refusal
    assert path.name in refusal


def test_a_truncated_jpeg_is_not_filled_with_grey(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for k in range(2):
        Image.fromarray(noise).save(tmp_path / f"{k}.jpg")
    data = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(data[: len(data) // 2])
    assert [frame.name for frame in open_capture(tmp_path)] == ["1.jpg"]


def test_when_every_image_is_bad_the_capture_is(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"no")
    refused(tmp_path, "no usable frame", "3 skipped", "0.png")


def test_names_that_are_no_text_are_escaped_wherever_they_are_said(tmp_path):
    """Line breaks, terminal escapes and raw bytes in a file's name stay harmless."""
    folder_of_images(tmp_path, 1)
    for name in ("a\n\x1b[31m.png", "b\udcff.png"):
        disk.save_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
        (tmp_path / f"damaged {name}").write_bytes(b"no")
    capture = open_capture(tmp_path)
    said = [frame.name for frame in capture]
    assert len(said) == 3
    said += [part for skip in capture.skipped for part in (skip.name, skip.reason)]
    assert len(said) == 7
    assert all(text.isprintable() and text.encode() for text in said)


def test_pipes_and_devices_are_not_opened(tmp_path):
    folder_of_images(tmp_path)
    os.mkfifo(tmp_path / "fifo.png")
    capture = open_capture(tmp_path)
    assert len(list(capture)) == 3
    assert capture.skipped[0].name == "fifo.png"
    refused(tmp_path / "fifo.png", "fifo.png")


BAD_POSES = {
    "NaN": np.full((4, 4), np.nan).tolist(),
    "infinite": [[1e999, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "singular": np.zeros((4, 4)).tolist(),
    "mirrored": np.diag([1.0, 1.0, -1.0, 1.0]).tolist(),
    "scaled": np.diag([3.0, 3.0, 3.0, 1.0]).tolist(),
    "projective": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
    "too short": [[1, 0, 0]],
    "words": [["a", "b", "c", "d"]] * 4,
    "ragged": [[1, 0, 0, 0], [0, 1], [], [0]],
    "a number": 4,
    "null": None,
    "huge integers": [[10**400, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


@pytest.fixture
def transforms(tmp_path):
    return disk.write_transforms(tmp_path / "scene", disk.cube_views(3)) / "transforms.json"


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", BAD_POSES)
def test_one_bad_pose_costs_one_frame_and_all_bad_poses_the_capture(transforms, kind):
    edit(transforms, lambda c: c["frames"][1].update(transform_matrix=BAD_POSES[kind]))
    capture = open_capture(transforms)
    assert len(list(capture)) == 2
    assert capture.skipped[0].name == "images/0001.png"
    edit(transforms, lambda c: [f.update(transform_matrix=BAD_POSES[kind]) for f in c["frames"]])
    refused(transforms, "no usable frame", "transforms.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("fl_x", -150.0), ("fl_x", 0), ("fl_x", float("nan")), ("fl_y", -1), ("w", 0), ("h", -5),
     ("cx", float("inf")), ("fl_x", "wide"), ("k1", float("nan")), ("k1", -80.0), ("w", 1e308),
     ("camera_model", "EQUIRECTANGULAR"), ("fl_x", True), ("fl_x", [1])],
)  # fmt: skip
def test_bad_global_intrinsics_refuse_the_capture(transforms, key, value):
    edit(transforms, lambda c: c.update({key: value}))
    refused(transforms)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """One folder with both JSON indices beside the same pictures."""
    root = tmp_path_factory.mktemp("indexed")
    disk.write_opencv_cameras(root, disk.cube_views(2))
    disk.write_transforms(root, disk.cube_views(2))
    return root


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_value_anywhere_in_an_index_gives_frames_or_data_error(indexed, data):
    path = indexed / data.draw(st.sampled_from(["transforms.json", "opencv_cameras.json"]))
    whole = path.read_text()
    content = {"root": json.loads(whole)}
    node, key = content, "root"
    for _ in range(data.draw(st.integers(0, 4))):
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        node, key = inner, data.draw(st.sampled_from(keys))
    node[key] = data.draw(json_values)
    path.write_text(json.dumps(content["root"]))
    try:
        survives(path)
    finally:
        path.write_text(whole)


def test_a_negative_focal_of_one_frame_costs_that_frame(transforms):
    edit(transforms, lambda c: c["frames"][2].update(disk.INTRINSICS | {"fl_y": -3.0}))
    capture = open_capture(transforms)
    assert len(list(capture)) == 2
    assert "not positive" in capture.skipped[0].reason


@pytest.mark.parametrize("key", ["file_path", "depth_file_path", "mask_path"])
@pytest.mark.parametrize(
    "name", ["../secret.png", "images/../../secret.png", "ABSOLUTE", "", 5, "a\0b"]
)
def test_paths_that_leave_the_folder_are_not_followed(transforms, key, name):
    secret = transforms.parent.parent / "secret.png"
    disk.save_image(secret, np.full((120, 160), 255, np.uint8))
    name = str(secret) if name == "ABSOLUTE" else name
    edit(transforms, lambda c: c["frames"][0].update({key: name}))
    capture = open_capture(transforms)
    assert len(list(capture)) == 2
    assert len(capture.skipped) == 1
    if name in ("../secret.png", str(secret)):
        assert "leads outside" in capture.skipped[0].reason
        trusted = open_capture(transforms, allow_external_paths=True)
        assert len(list(trusted)) == 3


def test_names_longer_than_any_file_system_takes_are_missing_files(transforms):
    edit(transforms, lambda c: c["frames"][0].update(file_path="x" * 5000))
    capture = open_capture(transforms)
    assert len(list(capture)) == 2
    assert "no image file" in capture.skipped[0].reason


def test_links_that_leave_the_folder_are_not_followed(tmp_path):
    disk.save_image(tmp_path / "secret" / "s.png", np.full((8, 8, 3), 9, np.uint8))
    root = folder_of_images(tmp_path / "scene")
    (root / "link.png").symlink_to(tmp_path / "secret" / "s.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    capture = open_capture(root)
    assert len(list(capture)) == 3
    assert {skip.name for skip in capture.skipped} == {"link.png", "loop.png"}
    assert len(list(open_capture(root, allow_external_paths=True))) == 4


def test_a_linked_folder_in_a_path_is_not_followed(transforms):
    outside = transforms.parent.parent / "outside"
    (transforms.parent / "images").rename(outside)
    (transforms.parent / "images").symlink_to(outside)
    refused(transforms, "leads outside")
    assert len(list(open_capture(transforms, allow_external_paths=True))) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 200_000, '{"a":' * 100_000, "null", "[]", '{"frames": {}}', '{"frames": []}',
     '{"frames": [1, null, "x"]}', "\x00\x01", '{"frames": ' + "9" * 5000 + "}", "\ud800"],
)  # fmt: skip
def test_broken_indices_are_one_sentence(tmp_path, text):
    data = text.encode("utf-8", "surrogatepass")
    for name in ("transforms.json", "opencv_cameras.json"):
        root = tmp_path / name.split(".")[0]
        root.mkdir()
        (root / name).write_bytes(data)
        refused(root, name)


def test_a_json_of_millions_of_lists_is_refused_before_it_is_built(tmp_path):
    path = tmp_path / "transforms.json"
    path.write_text("[" + "[]," * 3_000_000 + "[]]")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="more than the limit"):
        read_json(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_rows_that_do_not_match_the_images_refuse_the_capture(tmp_path):
    root = disk.write_posed_rgbd(tmp_path, disk.cube_views(3))
    rows = (root / "poses_c2w.txt").read_text().splitlines()
    (root / "poses_c2w.txt").write_text("\n".join(rows[:2]))
    refused(root, "2 poses for 3 images")
    (root / "poses_c2w.txt").write_text("\n".join([*rows[:2], "1 2 3"]))
    refused(root, "line 3 has 3 numbers")
    (root / "poses_c2w.txt").write_text("\n".join(["nan " * 16] * 3))
    refused(root, "no pose that is finite")
    (root / "poses_c2w.txt").write_text("\n".join([rows[0], "nan " * 16, rows[2]]))
    assert len(list(open_capture(root))) == 2
    (root / "K.txt").write_text(disk.matrix_text().replace("150.0", "-150.0"))
    refused(root, "K.txt", "not positive")
    (root / "K.txt").unlink()
    refused(root, "K.txt")


@pytest.mark.parametrize("writer", ["colmap_binary", "colmap_text", "tum", "realestate"])
def test_a_truncated_index_never_raises_anything_but_data_error(tmp_path, writer):
    """Every format's index cut at many places: frames or one sentence, nothing else."""
    root = disk.WRITERS[writer](tmp_path, disk.cube_views(3))
    indices = [p for p in root.rglob("*") if p.suffix in (".bin", ".txt")]
    for path in indices:
        whole = path.read_bytes()
        for cut in range(0, len(whole), max(1, len(whole) // 25)):
            path.write_bytes(whole[:cut])
            survives(root)
        path.write_bytes(whole)
    assert len(list(open_capture(root))) == 3


def survives(root: Path) -> None:
    refusal = ""
    try:
        for _ in open_capture(root):
            pass
    except DataError as error:
        refusal = str(error)
    assert "\n" not in refusal


@pytest.fixture(scope="module")
def binary_model(tmp_path_factory):
    return disk.write_colmap_binary(tmp_path_factory.mktemp("model"), disk.cube_views(2))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_damage_to_a_binary_model_never_raises_anything_but_data_error(binary_model, data):
    name = data.draw(st.sampled_from(["cameras.bin", "images.bin", "points3D.bin"]))
    path = binary_model / "sparse/0" / name
    whole = path.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        survives(binary_model)
    finally:
        path.write_bytes(whole)


def test_counts_beyond_the_file_are_refused_before_anything_is_allocated(tmp_path):
    root = disk.write_colmap_binary(tmp_path, disk.cube_views(2))
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        path = root / "sparse/0" / name
        whole = path.read_bytes()
        path.write_bytes(struct.pack("<Q", 2**60) + whole[8:])
        refused(root, name, "more than its size can hold")
        path.write_bytes(whole)


def test_colmap_names_do_not_lead_outside(tmp_path):
    root = disk.write_colmap_text(tmp_path / "scene", disk.cube_views(2))
    disk.save_image(tmp_path / "secret.png", disk.cube_views(1)[0].image)
    path = root / "sparse/0/images.txt"
    path.write_text(path.read_text().replace("0001.png", "../../secret.png"))
    capture = open_capture(root)
    assert len(list(capture)) == 1
    assert "leads outside" in capture.skipped[0].reason


def test_arrays_are_held_against_the_size_of_their_file(tmp_path):
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    with (tmp_path / "big.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match="larger than its file"):
        load_npy(tmp_path / "big.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        load_npy(tmp_path / "objects.npy")
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(10**7))
    with pytest.raises(DataError, match="unpacks to"):
        load_npz(tmp_path / "bomb.npz")
    np.savez(tmp_path / "good.npz", a=np.arange(3), b=np.eye(2))
    assert load_npz(tmp_path / "good.npz")["b"].shape == (2, 2)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.npz"):
        load_npz(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    "source", ["missing", "http://127.0.0.1/x.mp4", "file:///etc/passwd", "a\0b", "x" * 5000]
)
def test_sources_that_are_no_captures_are_one_sentence(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(Path(source) if "://" not in source else source)


def test_empty_folders_and_unknown_files_say_what_is_readable(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "it is empty", "COLMAP model")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "not a capture")
    (tmp_path / "zero.mp4").write_bytes(b"")
    refused(tmp_path / "zero.mp4", "is empty")
