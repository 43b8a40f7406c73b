"""Where a stream's cameras come from: what each way needs, and what is made of it afterwards."""

from __future__ import annotations

from dataclasses import replace

from everview.datasets.captures import Capture, Frame
from everview.datasets.errors import DataError
from everview.pipeline.errors import UsageError
from everview.pipeline.posing.conventions import ConventionCheck, check_conventions
from everview.pipeline.posing.figures import trajectory_figures
from everview.pipeline.posing.odometer import Odometer
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
    if config.poses == "odometry":
        if not info.has_depth:
            raise DataError(
                f"{named} has no depth, and odometry needs it with the frames; find the poses of a "
                "complete capture with --poses sfm"
            )
        if not info.has_cameras and info.lens is None:
            raise DataError(f"{named} states no intrinsics, and odometry needs them")
    elif not info.has_cameras:
        raise DataError(
            f"{named} has no camera poses, and streaming needs them: give a capture with poses, or "
            "find them with --poses sfm, or with --poses odometry where there is depth"
        )


def conventions_of(source: Source, config: StreamConfig) -> ConventionCheck | None:
    """Whether the given poses are in their file's convention; None where nothing tells."""
    if config.poses != "given" or not isinstance(source, CapturedSource):
        return None
    return check_conventions(source.capture)


def seen_again(source: Source, session: Session) -> Capture:
    """The source's frames for the review, with the cameras that odometry found, where it did."""
    capture = source.seen_again()
    if session.intake.odometer is None:
        return capture

    def posed(frame: Frame) -> Frame:
        camera = session.trajectory.camera_of(frame.index)
        height, width = frame.image.shape[:2]
        return replace(frame, camera=None if camera is None else camera.resized(width, height))

    return PosedCapture(capture, posed, replace(capture.info, has_cameras=True), "by odometry")


def with_trajectory(exported: Exported, found: Odometer | Source, session: Session) -> Exported:
    """With the errors of the poses that odometry or sfm found, for metrics.json."""
    if not isinstance(found, Odometer | SfmSource):
        return exported
    told, absent = trajectory_figures(found, session.world.scale)
    return replace(
        exported,
        values=exported.values | {"trajectory": told},
        missing=exported.missing | absent,
    )
