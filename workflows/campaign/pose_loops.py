"""Follow procedural loops with `--poses learned`'s matcher; a table, and rows as JSON.

    python -m everview.workflows.campaign.pose_loops --weights NAME|DIR --out FILE.json

Held-out rooms, still and with things that move, 1,000 frames each at 96 pixels. The frames are
drawn, and the network runs, on a GPU where there is one. It needs no more than torch, numpy,
pillow, safetensors and pyarrow. --captures: real captures with poses, to see where it fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from everview.models.pairs.files import DEFAULT_PAIRS
from everview.pipeline.posing.learned.loops import followed
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.training.scene_pool import HELD_OUT_SEEDS

_ROOMS = (11, 12)


def main(arguments: list[str] | None = None) -> int:
    """Follow all; 0 when every stream went through."""
    parser = argparse.ArgumentParser(prog="pose_loops", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=DEFAULT_PAIRS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rooms", type=int, nargs="*", default=_ROOMS, help="held-out seeds")
    parser.add_argument(
        "--moving", choices=("false", "true"), nargs="*", default=("false", "true"),
        help="rooms that are still, in which things move, or both",
    )  # fmt: skip
    parser.add_argument("--captures", nargs="*", default=(), help="real captures, instead of loops")
    given = parser.parse_args(arguments)
    urls = list(given.captures) or [
        f"procedural://room?seed={HELD_OUT_SEEDS + room}&frames={given.frames}&size={given.size}"
        f"&dynamic={moving}"
        for moving in given.moving
        for room in given.rooms
    ]
    rows: list[dict[str, Any]] = []
    threads = max(1, (os.cpu_count() or 1) // given.workers)
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for row in pool.imap(followed, [(url, given.weights, threads) for url in urls]):
            rows.append(row)
            write_json(given.out, {"machine": _machine(), "weights": given.weights, "rows": rows})
            print(_line(row), flush=True)
    return 0


def _line(row: dict[str, Any]) -> str:
    errors = row["errors"]
    if errors is None:
        return f"{row['capture']}: nothing to compare; {json.dumps(row['counts'])}"
    drift = " ".join("lost" if lap["rmse"] is None else f"{lap['rmse']:.3f}" for lap in row["laps"])
    return (
        f"{row['capture']}: ATE {errors['ate_rmse']:.3f} = {errors['ate_share_of_path']:.2%} of "
        f"{errors['path_length']:.1f} (a still camera: {row['still_rmse']:.3f}), RPE "
        f"{errors['rpe_translation_rmse']:.4f} and {errors['rpe_rotation_deg_rmse']:.2f} degrees; "
        f"{row['ms_at_100']} ms at 100, {row['ms_at_last']} at {row['frames']}; "
        f"{json.dumps(row['counts'])}"
        + (f"; laps, after a fit to the first: {drift}" * bool(drift))
    )


def _machine() -> str:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores {platform.machine()}, {card}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
