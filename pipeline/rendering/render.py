"""`everview render RUN --path NAME`: pictures of a streamed scene, from cameras nobody gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.kernels.backend import backends_in_use
from everview.models.state import state_bytes
from everview.pipeline.rendering.config import RenderConfig
from everview.pipeline.rendering.path_choice import choose_path
from everview.pipeline.rendering.path_export import PathExport, export_path
from everview.pipeline.rendering.paths import CameraPath
from everview.pipeline.report import write_report
from everview.pipeline.runs import RunDirectory, describe_device, peak_rss_mib
from everview.pipeline.streaming.progress import Progress, Silent
from everview.pipeline.streaming.scenes import StreamedScene, open_scene


@dataclass(frozen=True)
class RenderResult:
    """run: the directory that was written. metrics: what its metrics.json holds."""

    run: Path
    metrics: Mapping[str, Any]


def render_run(
    config: RenderConfig,
    out: Path,
    *,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
) -> RenderResult:
    """Render a path through the scene of a run into a run directory of its own.

    Leaves novel_views.mp4, views/, depth/, transforms.json (the path's cameras), metrics.json and
    report.html. Raises InputRejected for a run without a usable snapshot, DataError for a camera
    file, UsageError for an unknown path.
    """
    progress = progress or Silent()
    scene = open_scene(Path(config.run), config.weights, config.device)
    patch = scene.model.config.patch
    size = config.size or scene.short_side
    path = choose_path(config.path, scene.layout(), config.frames, size, patch, config.time)
    with RunDirectory.open(out, "render", config, command, fresh) as run:
        run.note(
            device=describe_device(scene.model.device),
            backends=backends_in_use(scene.model.device),
            input={"source": config.run, "scale": scene.scale},
            weights={"name": scene.weights_name, "fingerprint": scene.model.fingerprint},
            path={"name": path.name, "frames": len(path.cameras), "times_s": path.time_s},
        )
        with run.timed("render"):
            made = export_path(
                scene.renderer(),
                path,
                run.path,
                config.rate,
                stills=config.stills,
                depth_scale=scene.scale,
                on_frame=lambda done: progress.step("render", done, len(path.cameras)),
            )
        _write_path(run.path, path, scene)
        metrics = run.write_metrics(_values(made, scene), _MISSING)
        with run.timed("report"):
            write_report(run.path)
    return RenderResult(run.path, metrics)


_MISSING = dict.fromkeys(
    ("psnr", "ssim", "lpips_alex", "laplacian_ratio", "depth_abs_rel", "depth_alignment"),
    "a novel view has no truth to compare with",
)


def _values(made: PathExport, scene: StreamedScene) -> dict[str, Any]:
    """Costs: latency is the time until a picture is there, in a batch or not."""
    spent = np.asarray(made.render_ms)
    return {
        "frames_per_s": 1e3 * len(spent) / max(float(spent.sum()), 1e-9),
        "latency_ms_p50": float(np.percentile(spent, 50)),
        "latency_ms_p95": float(np.percentile(spent, 95)),
        "peak_rss_mib": peak_rss_mib(),
        "state_mib": state_bytes(scene.state) / 2**20,
        "details": {"frames": made.frames, "stills": list(made.stills)},
    }


def _write_path(out: Path, path: CameraPath, scene: StreamedScene) -> None:
    images = [
        PosedImage(f"views/{path.name}_{index:05d}.png", camera, time)
        for index, (camera, time) in enumerate(zip(path.cameras, path.time_s, strict=True))
    ]
    write_transforms_json(out / "transforms.json", images, scene.scale)
