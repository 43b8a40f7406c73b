"""The cube in every format, written plainly, without the project's own writers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from everview.datasets.cameras import invert_rigid
from tests.datasets.cube import CX, CY, FOCAL_X, FOCAL_Y, HEIGHT, WIDTH, View, cameras, view

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
INTRINSICS = {"fl_x": FOCAL_X, "fl_y": FOCAL_Y, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT}


def cube_views(count: int = 4) -> list[View]:
    return [view(camera) for camera in cameras(count)]


def save_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def wxyz_w2c(c2w_cv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w2c = invert_rigid(c2w_cv)
    x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
    return np.array([w, x, y, z]), w2c[:3, 3]


def write_transforms(root: Path, views: list[View]) -> Path:
    frames = []
    for k, seen in enumerate(views):
        save_image(root / f"images/{k:04d}.png", seen.image)
        save_image(root / f"depth/{k:04d}.png", seen.depth_mm)
        frames.append({
            "file_path": f"images/{k:04d}.png",
            "transform_matrix": (seen.camera.c2w_cv @ FLIP).tolist(),
            "depth_file_path": f"depth/{k:04d}.png",
        })  # fmt: skip
    (root / "transforms.json").write_text(json.dumps(INTRINSICS | {"frames": frames}))
    return root


def write_opencv_cameras(root: Path, views: list[View]) -> Path:
    frames = []
    for k, seen in enumerate(views):
        save_image(root / f"{k:04d}.png", seen.image)
        frames.append({
            "file_path": f"{k:04d}.png", "w2c": invert_rigid(seen.camera.c2w_cv).tolist(),
            "fx": FOCAL_X, "fy": FOCAL_Y, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT,
        })  # fmt: skip
    (root / "opencv_cameras.json").write_text(json.dumps(frames))
    return root


def write_colmap_text(root: Path, views: list[View], model: str = "sparse/0") -> Path:
    folder = root / model
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(
        f"# a comment\n7 PINHOLE {WIDTH} {HEIGHT} {FOCAL_X} {FOCAL_Y} {CX} {CY}\n"
    )
    lines = ["# a comment\n"]
    for k, seen in enumerate(views):
        save_image(root / f"images/{k:04d}.png", seen.image)
        quaternion, translation = wxyz_w2c(seen.camera.c2w_cv)
        pose = " ".join(f"{value:.12g}" for value in (*quaternion, *translation))
        keypoints = "1.0 2.0 -1" if k % 2 else ""
        lines.append(f"{k + 1} {pose} 7 {k:04d}.png\n{keypoints}\n")
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text("# a comment\n1 0.5 0.4 0.3 255 0 0 0.1 1 0\n")
    return root


def write_colmap_binary(root: Path, views: list[View], model: str = "sparse/0") -> Path:
    folder = root / model
    folder.mkdir(parents=True)
    cameras_bin = struct.pack("<QiiQQ4d", 1, 7, 1, WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY)
    (folder / "cameras.bin").write_bytes(cameras_bin)
    images_bin = struct.pack("<Q", len(views))
    for k, seen in enumerate(views):
        save_image(root / f"images/{k:04d}.png", seen.image)
        quaternion, translation = wxyz_w2c(seen.camera.c2w_cv)
        images_bin += struct.pack("<i7di", k + 1, *quaternion, *translation, 7)
        images_bin += f"{k:04d}.png".encode() + b"\0"
        images_bin += struct.pack("<Q", k) + struct.pack("<ddq", 1.0, 2.0, -1) * k
    (folder / "images.bin").write_bytes(images_bin)
    point = struct.pack("<Q3d3BdQ", 1, 0.5, 0.4, 0.3, 255, 0, 0, 0.1, 1) + struct.pack("<ii", 1, 0)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)
    return root


def matrix_text() -> str:
    return f"{FOCAL_X} 0 {CX}\n0 {FOCAL_Y} {CY}\n0 0 1\n"


def write_posed_rgbd(root: Path, views: list[View]) -> Path:
    rows = []
    for k, seen in enumerate(views):
        save_image(root / f"{k:05d}.png", seen.image)
        save_image(root / f"{k:05d}_depth.png", seen.depth_mm)
        rows.append(" ".join(f"{value:.12g}" for value in seen.camera.c2w_cv.ravel()))
    (root / "poses_c2w.txt").write_text("\n".join(rows) + "\n")
    (root / "K.txt").write_text(matrix_text())
    return root


def write_seven_scenes(root: Path, views: list[View]) -> Path:
    for k, seen in enumerate(views):
        save_image(root / f"frame-{k:06d}.color.png", seen.image)
        depth = seen.depth_mm.copy()
        depth[0, 0], depth[0, 1] = 65535, 0
        save_image(root / f"frame-{k:06d}.depth.png", depth)
        np.savetxt(root / f"frame-{k:06d}.pose.txt", seen.camera.c2w_cv)
    (root / "camera-intrinsics.txt").write_text(matrix_text())
    return root


def write_tum(root: Path, views: list[View]) -> Path:
    rgb, depth, poses = ["# colour\n"], [], []
    for k, seen in enumerate(views):
        stamp = 1000.0 + k / 30
        save_image(root / f"rgb/{stamp:.6f}.png", seen.image)
        save_image(root / f"depth/{stamp:.6f}.png", seen.depth_mm * np.uint16(5))
        rgb.append(f"{stamp:.6f} rgb/{stamp:.6f}.png\n")
        depth.append(f"{stamp + 0.004:.6f} depth/{stamp:.6f}.png\n")
        quaternion = Rotation.from_matrix(seen.camera.c2w_cv[:3, :3]).as_quat()
        numbers = (*seen.camera.centre, *quaternion)
        poses.append(f"{stamp + 0.003:.6f} " + " ".join(f"{v:.12g}" for v in numbers) + "\n")
    (root / "rgb.txt").write_text("".join(rgb))
    (root / "depth.txt").write_text("".join(depth))
    (root / "groundtruth.txt").write_text("".join(poses))
    # as OpenCV calibrates: the first pixel's centre is (0, 0)
    (root / "calibration.txt").write_text(f"{FOCAL_X} {FOCAL_Y} {CX - 0.5} {CY - 0.5}\n")
    return root


def realestate_rows(views: list[View], stamps_us: list[int]) -> str:
    lines = ["https://www.youtube.com/watch?v=none\n"]
    for stamp, seen in zip(stamps_us, views, strict=True):
        w2c = invert_rigid(seen.camera.c2w_cv)[:3]
        numbers = (FOCAL_X / WIDTH, FOCAL_Y / HEIGHT, CX / WIDTH, CY / HEIGHT, 0, 0, *w2c.ravel())
        lines.append(f"{stamp} " + " ".join(f"{value:.12g}" for value in numbers) + "\n")
    return "".join(lines)


def write_realestate(root: Path, views: list[View]) -> Path:
    stamps = [40_000 * k + 52_719_333 for k in range(len(views))]
    for stamp, seen in zip(stamps, views, strict=True):
        save_image(root / f"clip/{stamp}.png", seen.image)
    (root / "clip.txt").write_text(realestate_rows(views, stamps))
    return root


WRITERS = {
    "transforms": write_transforms,
    "opencv_cameras": write_opencv_cameras,
    "colmap_text": write_colmap_text,
    "colmap_binary": write_colmap_binary,
    "posed_rgbd": write_posed_rgbd,
    "seven_scenes": write_seven_scenes,
    "tum": write_tum,
    "realestate": write_realestate,
}
HAS_DEPTH = {"transforms", "posed_rgbd", "seven_scenes", "tum"}
METRIC = HAS_DEPTH
