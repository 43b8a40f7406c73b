"""`everview demo`: the whole way, offline, on a scene that is made up on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.pipeline.streaming.config import StreamConfig
from everview.workflows.cli.arguments import CommonFlags
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Stream a procedural capture through the published weights and render views nobody gave it.

    A camera moves around a table on which things move; every 8th frame is kept from the model and
    compared with what it renders there. Needs no network, no GPU and no data. What is left is an
    ordinary run of `everview stream`: render more of it with `everview render`.
    """

    seed: int = 7
    """which scene"""
    frames: int = 48
    """length of the capture"""
    size: int = 128
    """side of the frames, pixels"""


def demo_config(arguments: Arguments) -> StreamConfig:
    """The stream that the demo is; the same command by hand is `everview stream CAPTURE`."""
    capture = (
        f"procedural://tabletop?seed={arguments.seed}&frames={arguments.frames}"
        f"&size={arguments.size}&dynamic=true"
    )
    return StreamConfig(
        capture=capture, size=arguments.size, video_frames=48, review_views=6, fusion_views=16
    )


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.streaming.stream import stream_capture

    out = arguments.out or Path("runs/demo")
    with showing_progress(arguments.quiet) as progress:
        done = stream_capture(
            demo_config(arguments), out, fresh=arguments.fresh, progress=progress
        )  # fmt: skip
    report = done.run / "report.html"
    text = f"{_score(done.metrics)}\nopen {report} in a browser"
    return Outcome(
        {"metrics": done.metrics, "report": str(report)}, text, done.run, done.exit_status
    )


def _score(metrics: Mapping[str, Any]) -> str:
    """One line: how good the held-out views are, beside the better of the simple ways."""
    floors = metrics.get("floors") or {}
    psnr = {name: row["psnr"] for name, row in floors.items() if row and row.get("psnr")}
    beside = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in psnr.items())
    ours = metrics.get("psnr")
    if not isinstance(ours, float):
        return "the held-out views were not measured"
    return f"held-out views: {ours:.1f} dB PSNR" + (f" (floors: {beside})" if beside else "")
