"""What the lines of a training curve (`metrics.jsonl`) are called in a tracker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from everview.pipeline.tracking.tracker import Tracker

# other than the parts of the loss, which keep their names below `train/`
_NAMES = {
    "rate": "train/learning_rate_factor",
    "progress": "train/progress",
    "tokens": "train/tokens",
    "ms_per_step": "perf/ms_per_step",
    "tokens_per_s": "perf/tokens_per_s",
    "share_of_peak": "perf/share_of_peak",
    "peak_gib": "mem/peak_gib",
}
_AXES = ("step", "elapsed_s")
# Of the held-out measurements by `schedule/picture`, the one that every run has.
_MAIN = "set/rgb"
_LEAST_ERROR = 1e-10


class TrackedCurve:
    """Passes the lines of a curve on to a tracker. Rates are taken between two lines."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._before: Mapping[str, Any] | None = None

    def line(self, line: Mapping[str, Any]) -> None:
        """Track one line of the curve."""
        self._tracker.scalars(int(line["step"]), curve_scalars(line, self._before))
        if "tokens" in line:
            self._before = dict(line)


def curve_scalars(
    line: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """The numbers of a line of the curve by their names in a tracker.

    before: the training line before it, for tokens a second of the run's time between the two,
    with all that it does besides steps. PSNR in training, dB, is that of the mean squared error
    `rgb`.
    """
    if "held_out" in line:
        return _held_out(line["held_out"])
    values = {
        _NAMES.get(name, f"train/{name}"): float(value)
        for name, value in line.items()
        if name not in _AXES and _is_number(value)
    }
    if _is_number(line.get("rgb")):
        values["train/psnr"] = -10 * math.log10(max(float(line["rgb"]), _LEAST_ERROR))
    if before is not None and "perf/tokens_per_s" not in values:
        seconds = float(line["elapsed_s"]) - float(before["elapsed_s"])
        if seconds > 0:
            values["perf/tokens_per_s"] = (line["tokens"] - before["tokens"]) / seconds
    return values


def _held_out(measured: Mapping[str, float]) -> dict[str, float]:
    """Every measured PSNR, dB, as `eval/psnr_WORLD_SCHEDULE_PICTURE`, and the one to look at first
    as `eval/psnr`. One level of names: where they become files, none may be another's folder."""
    values = {f"eval/psnr_{name.replace('/', '_')}": float(v) for name, v in measured.items()}
    return {"eval/psnr": float(measured[_MAIN])} | values if _MAIN in measured else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
