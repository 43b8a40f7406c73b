"""Camera poses from pictures alone: COLMAP's incremental mapper through pycolmap, on the CPU.

Schoenberger and Frahm, Structure-from-Motion Revisited, CVPR 2016. Features: SIFT of the image at
its own scale (without COLMAP's doubled octave, which costs most of the time and adds points too
fine to matter here). The largest model is used; its unit is its own (`up_to_scale`).

On the 50 photographs of `fox` (540x960, 2 cores, pycolmap 4.2.1): all registered in 75 s; against
the poses it ships, after a similarity fit, 0.13 degrees of rotation and 0.13 % of the extent.

    everview prepare fox/images --poses sfm --out OUT
    python -m everview.pipeline.preparing.pose_errors OUT fox
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.formats.colmap_model import (
    is_model,
    read_cameras,
    read_images,
    read_points,
)
from everview.datasets.lenses import Lens, rectify
from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.streaming.progress import Progress

MAX_FRAMES = 1000
"""More would take hours; `--every` thins a capture."""
_MAX_SIDE = 960
_MAX_FEATURES = 4096
# Up to so many unordered pictures every pair is tried; more are taken for a path.
_MAX_EXHAUSTIVE = 60
# With fewer, a principal point that may move takes up other errors.
_MANY_IMAGES = 20
_QUIET = 3  # of glog's levels: what goes wrong is said in our own words


@dataclass(frozen=True, eq=False)
class RecoveredPoses:
    """lens and c2w_cv of every registered frame, by frame index; how many there were in all.

    error_px: mean reprojection error, at the size that was matched. points_world: float32 [N, 3],
    what was triangulated.
    """

    lenses: dict[int, Lens]
    c2w_cv: dict[int, np.ndarray]
    num_frames: int
    error_px: float
    points_world: np.ndarray | None = None

    @property
    def registered(self) -> float:
        """Share of the frames that have a pose."""
        return len(self.c2w_cv) / self.num_frames


def recover_poses(
    frames: Iterable[Frame],
    name: str,
    folder: Path,
    *,
    is_ordered: bool,
    is_pinhole: bool,
    threads: int,
    seed: int,
    progress: Progress,
) -> RecoveredPoses:
    """Poses and one lens of `frames`, working in the empty `folder`.

    is_ordered: neighbours in time overlap (a video). is_pinhole: distortion was already removed.
    Raises DataError when no model is found, EnvironmentUnfit without pycolmap.
    """
    pycolmap = import_pycolmap("--poses sfm")
    indices, sizes = _write_images(frames, folder / "images", name, progress)
    if len(indices) < 3:
        raise DataError(f"{name} has {len(indices)} frames; poses need at least 3 that overlap")
    database = folder / "database.db"
    _extract(pycolmap, database, folder / "images", indices, sizes, is_pinhole, threads, progress)
    _match(pycolmap, database, len(indices), is_ordered, threads)
    models = _map(pycolmap, database, folder, len(indices), threads, seed, progress)
    if not models:
        raise DataError(
            f"no camera of {name} could be found: its pictures share too few features; take them "
            "with more overlap and texture, or give poses"
        )
    best = max(models.values(), key=lambda model: model.num_reg_images())
    _refine_principal_point(pycolmap, best)
    (folder / "sparse").mkdir()
    best.write_binary(str(folder / "sparse"))
    return read_poses(folder, len(indices), float(best.compute_mean_reprojection_error()))


def posed_frame(frame: Frame, found: RecoveredPoses) -> Frame:
    """A frame with the camera that was found for it, without distortion, and without depth (of
    another scale) and mask; without a camera when it was not registered."""
    pose = found.c2w_cv.get(frame.index)
    if pose is None:
        return replace(frame, camera=None, depth=None, mask=None)
    height, width = frame.image.shape[:2]
    lens = found.lenses[frame.index].fitted(width, height)
    image, camera = rectify(lens, frame.image), lens.camera(pose)
    return replace(frame, image=image, camera=camera, depth=None, mask=None)


def import_pycolmap(needed_by: str) -> Any:
    """pycolmap, silent; or EnvironmentUnfit with the one line that mends it."""
    try:
        import pycolmap
    except ImportError:
        raise EnvironmentUnfit(
            f"{needed_by} needs pycolmap, which is not installed; pip install 'everview[geometry]'"
        ) from None
    pycolmap.logging.minloglevel = _QUIET
    return pycolmap


def _write_images(
    frames: Iterable[Frame], folder: Path, name: str, progress: Progress
) -> tuple[list[int], set[tuple[int, int]]]:
    """Indices of the frames, and the sizes there are; the pictures lie in `folder`."""
    folder.mkdir(parents=True)
    indices: list[int] = []
    sizes: set[tuple[int, int]] = set()
    for frame in frames:
        if len(indices) == MAX_FRAMES:
            raise DataError(
                f"{name} has more than {MAX_FRAMES} frames, which is too many to find poses for; "
                "thin it with --every"
            )
        image = Image.fromarray(frame.image)
        sizes.add(image.size)
        image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
        image.save(folder / _file_of(frame.index), quality=97, subsampling=0)
        indices.append(frame.index)
        progress.step("frames", len(indices), None)
    return indices, sizes


def _file_of(index: int) -> str:
    return f"{index:06d}.jpg"


def _extract(
    pycolmap: Any,
    database: Path,
    images: Path,
    indices: list[int],
    sizes: set[tuple[int, int]],
    is_pinhole: bool,
    threads: int,
    progress: Progress,
) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = threads
    options.sift.max_num_features = _MAX_FEATURES
    options.sift.first_octave = 0
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "PINHOLE" if is_pinhole else "OPENCV"
    one_lens = len(sizes) == 1
    step = max(threads, 1)
    for first in range(0, len(indices), step):
        # a few at a time, so that progress can be shown
        names = [_file_of(index) for index in indices[first : first + step]]
        if one_lens and first:
            reader.existing_camera_id = 1
        pycolmap.extract_features(
            database, images, image_names=names, reader_options=reader, extraction_options=options,
            camera_mode=pycolmap.CameraMode.SINGLE if one_lens else pycolmap.CameraMode.PER_IMAGE,
            device=pycolmap.Device.cpu,
        )  # fmt: skip
        progress.step("features", min(first + step, len(indices)), len(indices))


def _match(pycolmap: Any, database: Path, count: int, is_ordered: bool, threads: int) -> None:
    options = pycolmap.FeatureMatchingOptions()
    options.use_gpu = False
    options.num_threads = threads
    common = {"matching_options": options, "device": pycolmap.Device.cpu}
    if count <= _MAX_EXHAUSTIVE and not is_ordered:
        pycolmap.match_exhaustive(database, **common)
        return
    pairs = pycolmap.SequentialPairingOptions()
    pairs.num_threads = threads
    pycolmap.match_sequential(database, pairing_options=pairs, **common)


def _map(
    pycolmap: Any,
    database: Path,
    folder: Path,
    count: int,
    threads: int,
    seed: int,
    progress: Progress,
) -> dict[int, Any]:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = threads
    options.random_seed = seed
    options.min_model_size = min(10, max(3, count // 2))
    registered = 2

    def note() -> None:
        nonlocal registered
        registered = min(registered + 1, count)
        progress.step("poses", registered, count)

    (folder / "models").mkdir()
    models: dict[int, Any] = pycolmap.incremental_mapping(
        database, folder / "images", folder / "models", options=options, next_image_callback=note
    )
    return models


def _refine_principal_point(pycolmap: Any, model: Any) -> None:
    """Once everything else stands, let the principal point move too: held at the middle of the
    picture, its error of some pixels goes into every rotation (0.7 deg on a phone's)."""
    if model.num_reg_images() < _MANY_IMAGES:
        return
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = True
    options.print_summary = False
    pycolmap.bundle_adjustment(model, options)


def read_poses(folder: Path, count: int, error_px: float) -> RecoveredPoses:
    """What `recover_poses` left in `folder`/sparse, as our own reader of COLMAP sees it; the
    pictures may be gone.

    count, error_px: as found then. Raises DataError when there is no such model.
    """
    model = folder / "sparse"
    if not is_model(model):
        raise DataError(f"{model} holds no COLMAP model")
    known, images = read_cameras(model), {int(Path(i.name).stem): i for i in read_images(model)}
    lenses = {index: image.lens(known) for index, image in images.items()}
    poses = {index: image.c2w_cv() for index, image in images.items()}
    return RecoveredPoses(lenses, poses, count, error_px, read_points(model))
