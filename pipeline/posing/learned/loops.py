"""Learned odometry over procedural streams that walk in circles: how far off, at what cost.

The video of a procedural room goes round a closed curve for ever, 70 to 100 frames a lap, looking
elsewhere each time. A share of the path is a kind measure there: who never moves is a few
centimetres of path away from the truth, since the path is long and the room small. So `still`, the
error of a camera that stays in the middle, stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.captures import Frame
from everview.datasets.procedural.capture import parse_procedural
from everview.datasets.procedural.rendering import render_views
from everview.datasets.procedural.scenes import draw_scenes
from everview.datasets.procedural.trajectories import draw_cameras
from everview.models.pairs.files import load_matcher
from everview.pipeline.posing.learned.laps import laps
from everview.pipeline.posing.learned.odometer import LearnedOdometer
from everview.pipeline.posing.posed import PoseFinder

_AT_A_TIME = 50
_TIMED = 40


def drawn_frames(url: str, device: torch.device) -> Iterator[Frame]:
    """The frames of a procedural capture without their depth, drawn some at a time on `device`."""
    wanted = parse_procedural(url)
    scene = draw_scenes(wanted.world, [wanted.seed], wanted.dynamic)
    for first in range(0, wanted.frames, _AT_A_TIME):
        count = min(_AT_A_TIME, wanted.frames - first)
        cameras, time_s = draw_cameras(
            scene, count, wanted.size, wanted.size, trajectory="video", first_frame=first
        )
        with torch.inference_mode():
            views = render_views(scene.to(device), cameras, time_s)
        images = views.images[0].cpu().numpy()
        for place, (camera, image) in enumerate(zip(cameras.unbind(), images, strict=True)):
            yield Frame(
                index=first + place, name=f"{first + place:06d}", image=image, camera=camera,
                time_s=float(time_s[0, place]),
            )  # fmt: skip


def follow(finder: PoseFinder, frames: Iterator[Frame], progress_every: int = 0) -> dict[str, Any]:
    """What `finder` makes of frames with known cameras: errors after its alignment, counts, and
    milliseconds a frame, medians over the 40 frames to frame 100 and to the last one.

    still_rmse: the error of a camera that stays in the middle of the path; laps: drift from lap to
    lap. Errors are null where nothing could be compared.
    """
    centres, found, took = [], [], []
    for frame in frames:
        assert frame.camera is not None
        started = time.perf_counter()
        camera = finder.pose(frame).frame.camera
        took.append(1000.0 * (time.perf_counter() - started))
        centres.append(frame.camera.centre)
        found.append(np.full(3, np.nan) if camera is None else camera.centre)
        if progress_every and len(took) % progress_every == 0:
            told = finder.errors.measure(finder.alignment)
            print(len(took), f"{np.median(took[-_TIMED:]):.0f} ms", dict(finder.counts),
                  None if told is None else f"ATE {told.ate_rmse:.3f}", flush=True)  # fmt: skip
    path = np.array(centres)
    still = float(np.sqrt(((path - path.mean(0)) ** 2).sum(1).mean()))
    walked = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    measured = finder.errors.measure(finder.alignment)
    return {
        "frames": len(took),
        "walked": round(walked, 3),
        "still_rmse": round(still, 4),
        "still_share_of_path": round(still / walked, 5) if walked else None,
        "errors": None if measured is None else asdict(measured),
        "counts": dict(finder.counts),
        "laps": [asdict(lap) for lap in laps(np.array(found), path)],
        "ms_at_100": round(float(np.median(took[100 - _TIMED : 100])), 1) if took[100:] else None,
        "ms_at_last": round(float(np.median(took[-_TIMED:])), 1),
    }


def followed(asked: tuple[str, str, int]) -> dict[str, Any]:
    """`follow` of (capture, weights, threads), on a GPU where there is one: what a worker does."""
    url, weights, threads = asked
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    finder = LearnedOdometer(matcher=load_matcher(weights).to(device))
    if url.startswith("procedural://"):
        return {"capture": url, **follow(finder, drawn_frames(url, device), 250)}
    from everview.datasets.opening import open_capture  # decoders, which a rented machine lacks

    frames = (frame for frame in open_capture(url) if frame.camera is not None)
    return {"capture": Path(url).name, **follow(finder, frames)}
