"""Where a stream's cameras come from: what each way needs, and what is made of it afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch

from everview.datasets.captures import Capture, CaptureInfo, Frame
from everview.datasets.errors import DataError
from everview.models.pairs.files import load_matcher
from everview.models.weight_files import WeightsError
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.posing.conventions import ConventionCheck, check_conventions
from everview.pipeline.posing.figures import trajectory_figures
from everview.pipeline.posing.learned.odometer import LearnedOdometer
from everview.pipeline.posing.odometer import Odometer
from everview.pipeline.posing.posed import PoseFinder
from everview.pipeline.posing.posed_capture import PosedCapture
from everview.pipeline.posing.sfm_source import SfmSource
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.outputs import Exported
from everview.pipeline.streaming.session import Session
from everview.pipeline.streaming.sources.captured import CapturedSource
from everview.pipeline.streaming.sources.source import Source


def check_poses(source: Source, config: StreamConfig) -> None:
    """Raises DataError for a source that hasn't what `config.poses` needs, UsageError for `sfm`
    with a source that was not opened for it."""
    info = source.info
    named = f"{info.source} ({info.format})"
    if config.poses == "sfm" and not isinstance(source, SfmSource):
        raise UsageError("--poses sfm needs all frames at once: a capture that is complete")
    if config.poses in ("odometry", "learned"):
        if config.poses == "odometry" and not info.has_depth:
            raise DataError(
                f"{named} has no depth, and odometry needs it with the frames; find the poses of a "
                "complete capture with --poses sfm, or of any with --poses learned"
            )
        if not info.has_cameras and info.lens is None:
            raise DataError(f"{named} states no intrinsics, and --poses {config.poses} needs them")
    elif not info.has_cameras:
        raise DataError(
            f"{named} has no camera poses, and streaming needs them: give a capture with poses, or "
            "find them with --poses sfm, with --poses odometry where there is depth, or with "
            "--poses learned where intrinsics are stated"
        )


def conventions_of(source: Source, config: StreamConfig) -> ConventionCheck | None:
    """Whether the given poses are in their file's convention; None where nothing tells."""
    if config.poses != "given" or not isinstance(source, CapturedSource):
        return None
    return check_conventions(source.capture)


def streamed_info(source: Source, config: StreamConfig) -> CaptureInfo:
    """What the session is told of its source: learned poses have a unit of their own, in which
    nothing that the source knows of depth holds."""
    if config.poses != "learned":
        return source.info
    return replace(source.info, scale="up_to_scale", has_depth=False, points_world=None)


def open_finder(info: CaptureInfo, config: StreamConfig, device: torch.device) -> PoseFinder | None:
    """What finds the frames' cameras as they come; None where they have them. Raises
    EnvironmentUnfit without the packages, InputRejected without the weights."""
    if config.poses == "odometry":
        return Odometer(info.lens)
    if config.poses == "learned":
        try:
            return LearnedOdometer(info.lens, matcher=load_matcher().to(device))
        except WeightsError as error:
            raise InputRejected(str(error)) from error
    return None


def seen_again(source: Source, session: Session) -> Capture:
    """The source's frames for the review, with the cameras that were found, where they were."""
    capture, finder = source.seen_again(), session.intake.odometer
    if finder is None:
        return capture
    keeps_depth = finder.alignment == "SE3"  # else it has another unit than the poses

    def posed(frame: Frame) -> Frame:
        camera = session.trajectory.camera_of(frame.index)
        height, width = frame.image.shape[:2]
        return replace(
            frame,
            camera=None if camera is None else camera.resized(width, height),
            depth=frame.depth if keeps_depth else None,
        )

    info = replace(capture.info, has_cameras=True)
    if not keeps_depth:
        info = replace(info, scale=session.world.scale, has_depth=False, points_world=None)
    return PosedCapture(capture, posed, info, f"by {finder.name}")


def with_trajectory(exported: Exported, source: Source, session: Session) -> Exported:
    """With the errors of the poses that were found, for metrics.json."""
    found = session.intake.odometer or (source if isinstance(source, SfmSource) else None)
    if found is None:
        return exported
    told, absent = trajectory_figures(found, source.info.scale)
    return replace(
        exported,
        values=exported.values | {"trajectory": told},
        missing=exported.missing | absent,
    )
