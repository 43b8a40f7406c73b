"""One pass over a capture: every image is decoded, and what remains is small however long it is.

Units: pixels, degrees, seconds, and the capture's own world unit (metres when it is metric).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Camera, Cameras
from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.models.gauge import GaugeError, fit_gauge
from everview.pipeline.posing.conventions import check_conventions

log = logging.getLogger(__name__)

FIRST_CHUNK = 8  # as many frames as `stream` fits the gauge to
_MAX_THUMBNAILS = 64
_THUMBNAIL_PX = 160


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a capture holds.

    cameras: of every frame that has one. thumbnails: name and uint8 [h, w, 3], evenly spaced.
    facts: plain data, the --json of `inspect`.
    """

    info: CaptureInfo
    skipped: tuple[Skip, ...]
    cameras: tuple[Camera, ...]
    thumbnails: tuple[tuple[str, np.ndarray], ...]
    facts: dict[str, Any]


def inspect_frames(capture: Capture) -> Inspection:
    """Decode every frame of `capture`. Raises DataError when not one can be read."""
    sizes: Counter[str] = Counter()
    cameras: list[Camera] = []
    times_s: list[float] = []
    depths: list[tuple[float, float, float, float]] = []
    first: list[Frame] = []
    thumbnails = _Thumbnails()
    count = 0
    for frame in capture:
        count += 1
        height, width = frame.image.shape[:2]
        sizes[f"{width}x{height}"] += 1
        thumbnails.add(frame)
        if frame.camera is not None:
            cameras.append(frame.camera)
            if len(first) < FIRST_CHUNK:
                first.append(frame)
        if frame.time_s is not None:
            times_s.append(frame.time_s)
        if frame.depth is not None:
            depths.append(_depth_row(frame.depth))
        if count % 200 == 0:
            log.info("inspect: %d frames decoded", count)
    skipped = tuple(capture.skipped)
    if count == 0:
        reason = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"{capture.info.source} has no frame that can be read{reason}")
    facts = {
        "capture": capture.info.source,
        "format": capture.info.format,
        "scale": capture.info.scale,
        "frames": count,
        "skipped": [{"name": skip.name, "reason": skip.reason} for skip in skipped],
        "sizes": dict(sizes.most_common()),
        "cameras": _camera_facts(cameras),
        "time": _time_facts(times_s),
        "depth": _depth_facts(depths, count),
        "gauge": _gauge_facts(first, capture.info),
        "conventions": _convention_facts(capture),
        "licence": capture.info.licence,
        "notes": list(capture.info.notes),
        "identity": capture.identity(),
    }
    return Inspection(capture.info, skipped, tuple(cameras), tuple(thumbnails.kept), facts)


class _Thumbnails:
    """Evenly spaced small pictures of a stream of unknown length: every k-th, k doubling."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, np.ndarray]] = []
        self._stride, self._seen = 1, 0

    def add(self, frame: Frame) -> None:
        if self._seen % self._stride == 0:
            if len(self.kept) == _MAX_THUMBNAILS:
                self.kept = self.kept[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self.kept.append((frame.name, _shrunk(frame.image)))
        self._seen += 1


def _shrunk(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return np.asarray(picture)


def _depth_row(depth: np.ndarray) -> tuple[float, float, float, float]:
    """Share of known pixels, and the nearest, median and farthest known depth (NaN without)."""
    known = depth[depth > 0]
    if known.size == 0:
        return 0.0, np.nan, np.nan, np.nan
    return known.size / depth.size, float(known.min()), float(np.median(known)), float(known.max())


def _camera_facts(cameras: Sequence[Camera]) -> dict[str, Any] | None:
    if not cameras:
        return None
    centres = np.stack([camera.centre for camera in cameras])
    axes = np.stack([camera.forward for camera in cameras])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    turns = np.degrees(np.arccos(np.clip((axes[1:] * axes[:-1]).sum(1), -1, 1)))
    fov = [np.degrees(2 * np.arctan(camera.width / (2 * camera.fx))) for camera in cameras]
    return {
        "count": len(cameras),
        "fov_x_deg": _spread(fov),
        "focal_x_px": _spread([camera.fx for camera in cameras]),
        "extent": [round(float(side), 4) for side in np.ptp(centres, axis=0)],
        "path_length": round(float(steps.sum()), 4),
        "step": _spread(steps),
        "turn_deg": _spread(turns),
    }


def _time_facts(times_s: Sequence[float]) -> dict[str, Any] | None:
    if not times_s:
        return None
    intervals = np.diff(times_s)
    return {
        "count": len(times_s),
        "first_s": float(times_s[0]),
        "span_s": round(float(times_s[-1] - times_s[0]), 6),
        "interval_s": _spread(intervals),
        "backwards": int((intervals < 0).sum()),
    }


def _depth_facts(rows: Sequence[tuple[float, ...]], frames: int) -> dict[str, Any] | None:
    if not rows:
        return None
    share, near, middle, far = np.array(rows, np.float64).T
    known = np.isfinite(middle)
    return {
        "frames": len(rows),
        "coverage": round(float(share.sum()) / frames, 4),
        "nearest": round(float(near[known].min()), 4) if known.any() else None,
        "median": round(float(np.median(middle[known])), 4) if known.any() else None,
        "farthest": round(float(far[known].max()), 4) if known.any() else None,
    }


def _gauge_facts(first: Sequence[Frame], info: CaptureInfo) -> dict[str, Any]:
    """The rule that gives the model's unit, found as `stream` finds it: from the first chunk."""
    seen = [frame for frame in first if frame.camera is not None]
    if not seen:
        return {"rule": None, "unit": None, "reason": "no frame of the first chunk has a camera"}
    # A chunk has one image size; readers of mixed folders resize before the gauge is fitted.
    size = seen[0].image.shape
    seen = [frame for frame in seen if frame.image.shape == size]
    cameras = Cameras.stack([frame.camera for frame in seen if frame.camera is not None])
    depth = None
    if all(frame.depth is not None for frame in seen):
        depth = torch.from_numpy(
            np.stack([frame.depth for frame in seen if frame.depth is not None])
        )
    points = None if info.points_world is None else torch.from_numpy(info.points_world)
    try:
        gauge = fit_gauge(cameras, info.scale, depth=depth, points_world=points)
    except GaugeError as error:
        return {"rule": None, "unit": None, "reason": str(error)}
    return {"rule": gauge.rule, "unit": round(1.0 / float(gauge.scale[0]), 4), "reason": None}


def _convention_facts(capture: Capture) -> dict[str, Any] | None:
    """What neighbouring frames say about the poses' convention; None where nothing tells."""
    checked = check_conventions(capture)
    return None if checked is None else asdict(checked)


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    """Least, median and largest."""
    if len(values) == 0:
        return None
    low, middle, high = np.percentile(np.asarray(values, np.float64), [0, 50, 100])
    return {
        "min": round(float(low), 4),
        "median": round(float(middle), 4),
        "max": round(float(high), 4),
    }
