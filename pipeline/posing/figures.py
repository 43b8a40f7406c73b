"""What a stream's found poses are worth, for metrics.json and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from everview.datasets.captures import Scale
from everview.pipeline.posing.posed import PoseFinder
from everview.pipeline.posing.sfm_source import SfmSource
from everview.pipeline.posing.trajectory_errors import Alignment, TrajectoryErrors

_NOTHING_KNOWN = "the capture states no poses that move, so there is nothing to compare with"


def trajectory_figures(
    origin: PoseFinder | SfmSource, scale: Scale
) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of `trajectory` in metrics.json, and what is missing in it, with the reason.

    scale: of the capture. poses: odometry, learned or sfm. alignment: SE3 for odometry, whose depth
    has the capture's unit; Sim3 for the others, which have their own. unit: of lengths, those of
    the known poses. counts: of a pose finder.
    """
    if isinstance(origin, SfmSource):
        return _figures("sfm", origin.errors, "Sim3", origin.capture_scale, None)
    return _figures(origin.name, origin.errors, origin.alignment, scale, dict(origin.counts))


def _figures(
    poses: str,
    errors: TrajectoryErrors,
    alignment: Alignment,
    scale: Scale,
    counts: dict[str, int] | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    unit = "m" if scale == "metric" else "the capture's"
    told: dict[str, Any] = {"poses": poses, "alignment": alignment, "unit": unit}
    told |= {} if counts is None else {"counts": counts}
    measured = errors.measure(alignment)
    if measured is None:
        return told | {"ate_rmse": None}, {"trajectory.ate_rmse": _NOTHING_KNOWN}
    return told | asdict(measured), {}


def as_sentence(told: Mapping[str, Any]) -> str:
    """One line for people."""
    lost = told.get("counts", {}).get("lost", 0)
    gone = f"; {lost} frames were lost and left out" if lost else ""
    if told["ate_rmse"] is None:
        return f"poses by {told['poses']}; {_NOTHING_KNOWN}{gone}"
    unit = " m" if told["unit"] == "m" else ""
    return (
        f"poses by {told['poses']}, {told['frames']} frames against those given, after "
        f"{told['alignment']} alignment: ATE {told['ate_rmse']:.3g}{unit} "
        f"({told['ate_share_of_path']:.2%} of a path of {told['path_length']:.3g}), RPE "
        f"{told['rpe_translation_rmse']:.3g}{unit} and {told['rpe_rotation_deg_rmse']:.2g} degrees "
        f"a frame{gone}"
    )
