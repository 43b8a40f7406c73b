"""Captures into scenes: frames at the set's size, cut into scenes of a bounded number of views."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.captures import Capture, Frame
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.resampling import centre_crop, resize
from everview.datasets.shards import Origin, PosedScene
from everview.models.gauge import GaugeError, fit_gauge
from everview.pipeline.preparing.account import Account
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.items import Item
from everview.pipeline.preparing.pose_errors import pose_errors
from everview.pipeline.preparing.poses_by_sfm import (
    RecoveredPoses,
    posed_frame,
    recover_poses,
)
from everview.pipeline.streaming.progress import Progress


def capture_scenes(
    item: Item,
    config: PrepareConfig,
    size: tuple[int, int],
    threads: int,
    account: Account,
    progress: Progress,
) -> Iterator[PosedScene]:
    """The scenes of a capture, its frames decoded as they are needed; `size` is (W, H).

    Raises DataError when the capture has no cameras, or too few of its frames get one by SfM, or
    nothing tells how far away what they see is.
    """
    capture = open_capture(item.source)
    if config.poses == "sfm":
        found = _find_poses(item, capture, config, threads, account, progress)
        frames = _posed(_thinned(capture, config.every), found, item.name, account)
        scale, points = None, found.points_world
    else:
        points = capture.info.points_world
        if not capture.info.has_cameras:
            raise DataError(
                f"{item.source} states no cameras; find them from its pictures with --poses sfm"
            )
        frames, scale = _with_given_poses(capture, config.every, account), capture.info.scale
    origin = Origin(
        world=item.name,
        scale=scale or "up_to_scale",
        licence=config.licence or capture.info.licence or "unknown",
        source=f"{capture.info.format}" + ("" if scale else ", poses by COLMAP"),
    )
    fitted = (cover(frame, *size) for frame in frames)
    for scene in _scenes(item.name, fitted, origin, config.scene_views):
        yield replace(scene, distance=_distance(scene, points))
    account.skipped += [f"{skip.name}: {skip.reason}" for skip in capture.skipped]


def cover(frame: Frame, width: int, height: int) -> Frame:
    """The frame resized until it covers width x height, then the middle of it."""
    rows, columns = frame.image.shape[:2]
    factor = max(width / columns, height / rows)
    resized = resize(frame, max(width, round(columns * factor)), max(height, round(rows * factor)))
    return centre_crop(resized, width, height)


def cut_evenly(frames: Iterable[Frame], most: int) -> Iterator[list[Frame]]:
    """Runs of `most` frames; the last two share evenly what is left. Holds 2 * most at a time."""
    waiting: list[Frame] = []
    for frame in frames:
        if len(waiting) == 2 * most:
            yield waiting[:most]
            waiting = waiting[most:]
        waiting.append(frame)
    if len(waiting) > most:
        middle = (len(waiting) + 1) // 2
        yield waiting[:middle]
        waiting = waiting[middle:]
    if waiting:
        yield waiting


def _scenes(name: str, frames: Iterable[Frame], origin: Origin, most: int) -> Iterator[PosedScene]:
    earlier: PosedScene | None = None
    count = 0
    for part in cut_evenly(frames, most):
        if earlier is not None:
            yield earlier
        # the only scene of a capture carries its name, several are numbered
        earlier = _scene(f"{name}.{count:04d}", part, origin)
        count += 1
    if earlier is None:
        raise DataError(f"{name} has no frame with a camera")
    yield replace(earlier, name=name) if count == 1 else earlier


def _scene(name: str, frames: list[Frame], origin: Origin) -> PosedScene:
    cameras = [frame.camera for frame in frames if frame.camera is not None]
    times = [frame.time_s for frame in frames if frame.time_s is not None]
    return PosedScene(
        name=name,
        images=np.stack([frame.image for frame in frames]),
        cameras=Cameras.stack(cameras),
        origin=origin,
        depth=_depth(frames),
        time_s=np.array(times) if len(times) == len(frames) else None,
        view_names=tuple(frame.name for frame in frames),
    )


def _depth(frames: list[Frame]) -> np.ndarray | None:
    """Depth of the views, unknown where there is none and where a mask says to ignore."""
    if all(frame.depth is None for frame in frames):
        return None
    depth = np.zeros((len(frames), *frames[0].image.shape[:2]), np.float32)
    for layer, frame in zip(depth, frames, strict=True):
        if frame.depth is not None:
            layer[:] = np.where(np.isfinite(frame.depth), frame.depth, 0.0)
        if frame.mask is not None:
            layer[~frame.mask] = 0.0
    return depth


def _thinned(capture: Capture, every: int) -> Iterator[Frame]:
    return (frame for frame in capture if frame.index % every == 0)


def _with_given_poses(capture: Capture, every: int, account: Account) -> Iterator[Frame]:
    for frame in _thinned(capture, every):
        if frame.camera is None:
            account.skipped.append(f"{frame.name}: has no camera")
        else:
            yield frame


def _distance(scene: PosedScene, points: np.ndarray | None) -> float:
    """See PosedScene; 0 where depth or metres tell it. Raises DataError where nothing does."""
    if scene.depth is not None or scene.origin.scale == "metric":
        return 0.0
    sparse = None if points is None or not len(points) else torch.from_numpy(points)
    try:
        gauge = fit_gauge(scene.cameras, scene.origin.scale, points_world=sparse)
    except GaugeError as error:
        raise DataError(f"scene {scene.title!r} can't be trained on: {error}") from None
    return 1.0 / float(gauge.scale)


def _find_poses(
    item: Item,
    capture: Capture,
    config: PrepareConfig,
    threads: int,
    account: Account,
    progress: Progress,
) -> RecoveredPoses:
    with tempfile.TemporaryDirectory(prefix="everview-sfm-") as folder:
        found = recover_poses(
            _thinned(capture, config.every),
            item.name,
            Path(folder),
            is_ordered=capture.info.has_time,
            is_pinhole=capture.info.has_cameras,
            threads=threads,
            seed=config.seed,
            progress=progress,
        )
    told = (
        f"{item.name}: {len(found.c2w_cv)} of {found.num_frames} frames registered "
        f"({100 * found.registered:.0f} %), reprojection error {found.error_px:.2f} px"
    )
    if found.registered < config.min_registered:
        raise DataError(
            f"{told}; that is less than --min-registered {config.min_registered:g}, so its poses "
            "are not to be trusted: take pictures with more overlap, or lower it"
        )
    account.notes.append(told)
    progress.say(told)
    capture.rewind()
    return found


def _posed(
    frames: Iterable[Frame], found: RecoveredPoses, name: str, account: Account
) -> Iterator[Frame]:
    """Registered frames with their cameras, without distortion, and without a depth of another
    scale. Where the source had poses, the account gets the difference."""
    pairs = []
    for frame in frames:
        posed = posed_frame(frame, found)
        if posed.camera is None:
            account.skipped.append(f"{frame.name}: not registered")
            continue
        if frame.camera is not None:
            pairs.append((posed.camera.c2w_cv, frame.camera.c2w_cv))
        yield posed
    if len(pairs) >= 3:
        errors = pose_errors(*(np.stack(part) for part in zip(*pairs, strict=True)))
        account.notes.append(f"{name}: against the poses given, {errors.as_text()}")
