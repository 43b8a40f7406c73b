"""`metrics.json`: the names every verb uses for what it measured.

The names bind, scripts read them. A value that could not be computed is null and `missing` says
why; nothing is left out and nothing unknown is let in. Flat scalars are means over images, then
over scenes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.runs.plain import as_plain

# What one picture is judged by; also the keys of every floor and every scene.
IMAGE_KEYS = ("psnr", "ssim", "lpips_alex", "laplacian_ratio")
DEPTH_KEYS = ("depth_abs_rel", "depth_alignment")
COST_KEYS = ("frames_per_s", "latency_ms_p50", "latency_ms_p95", "peak_rss_mib", "state_mib")
FLOORS = ("mean_colour", "nearest_view", "depth_warp")
METRIC_KEYS = (
    *IMAGE_KEYS,
    *DEPTH_KEYS,
    *COST_KEYS,
    "retention_half_life_chunks",
    "floors",
    "scenes",
)
TRAIN_KEYS = ("loss", "step", "tokens")
# Room for what only one verb has: the pure memory's row, the protocol and its counts, the errors of
# poses that a stream found, and the shape nerfstudio's scripts parse.
EXTRA_KEYS = ("memory_alone", "protocol", "details", "trajectory", "experiment_name",
              "method_name", "checkpoint", "results")  # fmt: skip

FILE_NAME = "metrics.json"


def complete_metrics(
    values: Mapping[str, Any], missing: Mapping[str, str] | None = None, train: bool = False
) -> dict[str, Any]:
    """`values` with every key of the contract, null where there is none, and the reasons.

    missing: key -> why it could not be computed (defaults to "not measured by this verb").
    train: add the keys of a training run. Raises ValueError on a key that is not in the contract.
    """
    keys = (*METRIC_KEYS, *(TRAIN_KEYS if train else ()))
    unknown = set(values) - set(keys) - set(TRAIN_KEYS) - set(EXTRA_KEYS)
    if unknown:
        raise ValueError(f"not metric names: {sorted(unknown)}")
    reasons = dict(missing or {})
    empty: dict[str, Any] = {"floors": {name: None for name in FLOORS}, "scenes": []}
    complete: dict[str, Any] = {}
    for key in keys:
        value = values.get(key, empty.get(key))
        if isinstance(value, float) and not math.isfinite(value):
            reasons.setdefault(key, f"came out as {value}")
            value = None
        complete[key] = value
        if value is None:
            reasons.setdefault(key, "not measured by this verb")
    for key in (*TRAIN_KEYS, *EXTRA_KEYS):
        if key in values and key not in complete:
            complete[key] = values[key]
    complete["floors"] = {name: None for name in FLOORS} | dict(complete["floors"] or {})
    for name, floor in complete["floors"].items():
        if floor is None:
            reasons.setdefault(f"floors.{name}", "not measured by this verb")
    complete["missing"] = {
        key: reason for key, reason in reasons.items() if "." in key or complete.get(key) is None
    }
    return as_plain(complete)


def write_metrics(
    folder: Path | str,
    values: Mapping[str, Any],
    missing: Mapping[str, str] | None = None,
    train: bool = False,
) -> dict[str, Any]:
    """Complete the metrics, write `metrics.json` into a run directory, return them."""
    metrics = complete_metrics(values, missing, train)
    write_json(Path(folder) / FILE_NAME, metrics)
    return metrics


def read_metrics(folder: Path | str) -> dict[str, Any] | None:
    """A run's metrics; None when it has none yet. Raises InputRejected on a damaged file."""
    return read_json_object(Path(folder) / FILE_NAME)


def read_json_object(path: Path, limit_mib: int = 64) -> dict[str, Any] | None:
    """A JSON object from a run directory; None if the file is absent, InputRejected if damaged."""
    try:
        if path.stat().st_size > limit_mib * 2**20:
            raise InputRejected(f"{path} is larger than {limit_mib} MiB, so it isn't ours")
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputRejected(f"{path} can't be read as JSON ({error}); is it damaged?") from None
    if not isinstance(value, dict):
        raise InputRejected(f"{path} holds a {type(value).__name__}, expected an object")
    return value
