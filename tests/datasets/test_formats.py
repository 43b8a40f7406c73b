"""What each reader has to know beyond a plain cube: variants, missing parts, odd layouts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everview.datasets.lenses import Lens
from everview.datasets.opening import open_capture
from tests.datasets import captures_on_disk as disk
from tests.datasets.cube import (
    CX,
    CY,
    FOCAL_X,
    FOCAL_Y,
    HEIGHT,
    WIDTH,
    cameras,
    corner_errors_px,
    view,
)
from tests.datasets.videos import write_video


def edited(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def transforms(tmp_path):
    return disk.write_transforms(tmp_path, disk.cube_views(3)) / "transforms.json"


def test_frames_listed_without_an_image_are_skipped_and_counted(transforms):
    (transforms.parent / "images" / "0001.png").unlink()
    capture = open_capture(transforms.parent)
    assert len(capture) == capture.info.num_frames == 2
    assert [(skip.name, "no image" in skip.reason) for skip in capture.skipped] == [
        ("images/0001.png", True)
    ]
    assert [frame.index for frame in capture] == [0, 1]
    assert capture[1].name == "images/0002.png"


def test_a_missing_depth_file_costs_the_depth_and_a_missing_mask_the_frame(transforms):
    (transforms.parent / "depth" / "0001.png").unlink()
    edited(transforms, lambda c: c["frames"][2].update(mask_path="masks/none.png"))
    capture = open_capture(transforms)
    assert [frame.depth is None for frame in capture] == [False, True]
    assert "no mask file" in capture.skipped[0].reason
    assert any("1 frames list a depth file" in note for note in capture.info.notes)


def test_a_frame_overrides_the_global_intrinsics(transforms):
    def change(content):
        content["frames"][1] |= disk.INTRINSICS | {"fl_x": 133.0}

    edited(transforms, change)
    assert [camera.fx for camera in open_capture(transforms).cameras()] == [150.0, 133.0, 150.0]


def test_blender_files_have_an_angle_no_size_and_no_suffix(tmp_path):
    root = disk.write_transforms(tmp_path, disk.cube_views(2))
    content = json.loads((root / "transforms.json").read_text())
    frames = [
        {"file_path": "./" + frame["file_path"].removesuffix(".png"),
         "transform_matrix": frame["transform_matrix"]}
        for frame in content["frames"]
    ]  # fmt: skip
    (root / "transforms.json").unlink()
    index = {"camera_angle_x": 2 * math.atan(0.5 * WIDTH / FOCAL_X), "frames": frames}
    (root / "transforms_train.json").write_text(json.dumps(index))
    capture = open_capture(root)
    camera = capture[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((150, 150, 80, 60))
    assert capture.info.scale == "normalised"
    assert "Blender" in capture.info.format


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [("OPENCV", {"k1": 0.1, "k2": -0.05, "p1": 0.002, "p2": -0.001}),
     ("OPENCV_FISHEYE", {"k1": 0.03, "k2": -0.01, "k3": 0.002, "k4": 0.001})],
)  # fmt: skip
def test_distortion_is_taken_out_once_at_reading(tmp_path, model, coefficients):
    kind = "opencv" if model == "OPENCV" else "fisheye"
    lens = Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, kind, tuple(coefficients.values()))
    root = disk.write_transforms(tmp_path, [view(camera, lens) for camera in cameras(2)])
    edited(root / "transforms.json", lambda c: c.update(coefficients, camera_model=model))
    for frame in open_capture(root):
        assert corner_errors_px(frame.image, frame.camera).max() < 0.15


def test_masks_time_and_applied_scale_are_read(transforms):
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, :50] = 0
    disk.save_image(transforms.parent / "masks" / "m.png", mask)

    def change(content):
        content["applied_scale"] = 0.5
        for k, frame in enumerate(content["frames"]):
            frame |= {"mask_path": "masks/m.png", "time": k / 2}

    before = open_capture(transforms)[0].depth
    edited(transforms, change)
    capture = open_capture(transforms)
    frames = list(capture)
    assert [frame.time_s for frame in frames] == [0.0, 0.5, 1.0]
    assert not frames[0].mask[:, :50].any()
    assert frames[0].mask[:, 50:].all()
    np.testing.assert_allclose(frames[0].depth, before * 0.5, rtol=1e-6)
    assert capture.info.scale == "up_to_scale"


def test_dl3dv_takes_the_reduced_images_and_scales_the_intrinsics(tmp_path):
    root = disk.write_transforms(tmp_path / "nerfstudio", disk.cube_views(2))
    (root / "images_4").mkdir()
    for path in (root / "images").iterdir():
        Image.open(path).resize((WIDTH // 4, HEIGHT // 4)).save(root / "images_4" / path.name)
    shutil.rmtree(root / "images")
    capture = open_capture(tmp_path)
    assert "DL3DV" in capture.info.format
    frame = capture[0]
    assert frame.image.shape == (HEIGHT // 4, WIDTH // 4, 3)
    assert frame.camera.fx == pytest.approx(FOCAL_X / 4)
    assert capture.cameras()[0].fx == pytest.approx(FOCAL_X / 4)


def test_dl3dv_portrait_images_under_landscape_intrinsics_are_skipped(transforms):
    path = transforms.parent / "images" / "0000.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    capture = open_capture(transforms)
    assert len(list(capture)) == 2
    assert "intrinsics are for 160x120" in capture.skipped[0].reason


def test_opencv_cameras_may_stand_under_frames(tmp_path):
    root = disk.write_opencv_cameras(tmp_path, disk.cube_views(2))
    frames = json.loads((root / "opencv_cameras.json").read_text())
    (root / "opencv_cameras.json").unlink()
    (root / "anything.json").write_text(json.dumps({"frames": frames}))
    assert len(list(open_capture(root / "anything.json"))) == 2


def test_transparency_is_composited_on_the_stated_colour(tmp_path):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, 0] = (200, 100, 50, 255)
    pixels[:, 1] = (200, 100, 50, 128)
    disk.save_image(tmp_path / "a.png", pixels)
    white = open_capture(tmp_path)[0].image
    assert white[0, 0].tolist() == [200, 100, 50]
    assert white[0, 1].tolist() == [227, 177, 152]  # 128/255 of the colour over white
    assert white[0, 5].tolist() == [255, 255, 255]
    red = open_capture(tmp_path, background=(255, 0, 0))[0].image
    assert red[0, 5].tolist() == [255, 0, 0]


def test_of_several_colmap_models_the_largest_is_read_and_said(tmp_path):
    views = disk.cube_views(4)
    disk.write_colmap_text(tmp_path, views[:1], "sparse/0")
    disk.write_colmap_binary(tmp_path, views, "sparse/1")
    capture = open_capture(tmp_path)
    assert len(capture) == 4
    assert any("sparse/1 chosen" in note for note in capture.info.notes)


@pytest.mark.parametrize("model", ["sparse/0", "sparse", "colmap/sparse/0"])
def test_colmap_models_are_found_where_tools_put_them(tmp_path, model):
    disk.write_colmap_binary(tmp_path, disk.cube_views(2), model)
    assert len(open_capture(tmp_path)) == 2
    assert len(open_capture(tmp_path / model)) == 2
    np.testing.assert_allclose(open_capture(tmp_path).info.points_world, [[0.5, 0.4, 0.3]])


def test_colmap_text_without_keypoint_lines_is_read(tmp_path):
    root = disk.write_colmap_text(tmp_path, disk.cube_views(3))
    path = root / "sparse/0/images.txt"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ".png" in line))
    assert len(open_capture(root)) == 3


def test_7_scenes_depth_of_65535_is_unknown_and_frames_without_a_part_are_skipped(tmp_path):
    root = disk.write_seven_scenes(tmp_path / "seq-01", disk.cube_views(3))
    (root / "frame-000001.color.png").unlink()
    (root / "frame-000002.depth.png").unlink()
    capture = open_capture(tmp_path)
    frames = list(capture)
    assert [skip.name for skip in capture.skipped] == ["frame-000001"]
    assert frames[0].depth[0, 0] == frames[0].depth[0, 1] == 0
    assert frames[0].depth[0, 2] > 1
    assert frames[1].depth is None


def test_tum_colour_without_a_pose_in_time_is_skipped(tmp_path):
    root = disk.write_tum(tmp_path, disk.cube_views(3))
    lines = (root / "groundtruth.txt").read_text().splitlines()
    (root / "groundtruth.txt").write_text("\n".join(lines[1:]))
    capture = open_capture(root)
    assert len(capture) == 2
    assert "no pose within 0.02 s" in capture.skipped[0].reason
    assert capture[0].time_s == pytest.approx(1000.0 + 1 / 30, abs=1e-6)


def test_tum_without_calibration_takes_the_published_one_half_a_pixel_on(tmp_path):
    root = disk.write_tum(tmp_path / "rgbd_dataset_freiburg3_desk", disk.cube_views(1))
    (root / "calibration.txt").unlink()
    picture = np.zeros((480, 640, 3), np.uint8)
    for path in (root / "rgb").iterdir():
        disk.save_image(path, picture)
    capture = open_capture(root)
    camera = capture[0].camera
    assert (camera.fx, camera.cx, camera.cy) == pytest.approx((535.4, 320.6, 248.1))
    assert any("freiburg3" in note for note in capture.info.notes)


def test_realestate_frames_may_be_counted_instead_of_named(tmp_path):
    root = disk.write_realestate(tmp_path, disk.cube_views(3))
    for k, path in enumerate(sorted((root / "clip").iterdir())):
        path.rename(path.with_name(f"{k}.png"))
    frames = list(open_capture(root / "clip.txt"))
    assert len(frames) == 3
    assert all(corner_errors_px(frame.image, frame.camera).max() < 0.1 for frame in frames)


def test_folders_sort_naturally_and_apply_exif_orientation(tmp_path):
    for name in ("9.png", "10.png", "a2.png", "a10.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (6, 4)).save(tmp_path / "11.jpg", exif=exif)
    (tmp_path / ".hidden.png").write_bytes(b"no")
    capture = open_capture(tmp_path)
    assert [frame.name for frame in capture] == ["9.png", "10.png", "11.jpg", "a2.png", "a10.png"]
    assert capture[2].image.shape == (6, 4, 3)
    assert capture[0].camera is None


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    disk.save_image(tmp_path / "a.png", np.full((4, 4), 32768, np.uint16))
    assert open_capture(tmp_path)[0].image[0, 0].tolist() == [128, 128, 128]


def test_cameras_are_known_without_decoding(tmp_path):
    root = disk.write_transforms(tmp_path, disk.cube_views(3))
    capture = open_capture(root)
    without_pixels = capture.cameras()
    for camera, frame in zip(without_pixels, capture, strict=True):
        np.testing.assert_array_equal(camera.c2w_cv, frame.camera.c2w_cv)
        np.testing.assert_array_equal(camera.intrinsics, frame.camera.intrinsics)


def test_a_folder_with_one_video_is_that_video(tmp_path):
    write_video(tmp_path / "walk.mp4", count=4)
    (tmp_path / "readme.md").write_text("a walk")
    capture = open_capture(tmp_path)
    assert capture.info.format == "video"
    assert len(list(capture)) == 4


def test_depth_maps_beside_images_are_not_frames(tmp_path):
    root = disk.write_posed_rgbd(tmp_path, disk.cube_views(3))
    (root / "poses_c2w.txt").unlink()
    assert [frame.name for frame in open_capture(root)] == ["00000.png", "00001.png", "00002.png"]


def test_procedural_addresses_are_captures_too():
    capture = open_capture("procedural://tabletop?seed=7&frames=3&size=16")
    frames = list(capture)
    assert [frame.image.shape for frame in frames] == [(16, 16, 3)] * 3
    assert all(frame.camera is not None and frame.depth is not None for frame in frames)


def test_what_else_a_folder_looks_like_is_said(tmp_path):
    disk.write_transforms(tmp_path, disk.cube_views(2))
    disk.write_colmap_text(tmp_path, disk.cube_views(2))
    capture = open_capture(tmp_path)
    assert capture.info.format.startswith("transforms.json")
    assert any("also looks like COLMAP model" in note for note in capture.info.notes)
