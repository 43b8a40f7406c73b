"""A rendered path on disk: the video, stills taken from it, and their depth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from everview.datasets.captures import Scale
from everview.pipeline.rendering.paths import CameraPath
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.rendering.stills import DepthFolder, write_image
from everview.pipeline.rendering.video import write_video

VIDEO_NAME = "novel_views.mp4"


@dataclass(frozen=True)
class PathExport:
    """What was written. stills: names under `views/`. render_ms: per picture, batches shared."""

    frames: int
    stills: tuple[str, ...]
    render_ms: tuple[float, ...]


def export_path(
    renderer: Renderer,
    path: CameraPath,
    out: Path,
    frames_per_s: float,
    stills: int = 0,
    depth_scale: Scale | None = None,
    on_frame: Callable[[int], None] = lambda done: None,
) -> PathExport:
    """Render `path` into `out`/novel_views.mp4, one picture in memory at a time.

    stills: evenly taken frames also written as views/NAME.png. depth_scale: the capture's scale;
    when given, the stills' depth goes to depth/. on_frame: called with the number done.
    """
    count = len(path.cameras)
    chosen = set(np.linspace(0, count - 1, min(stills, count)).round().astype(int).tolist())
    names: list[str] = []
    spent: list[float] = []
    depth_folder: list[DepthFolder] = []
    (out / "views").mkdir(parents=True, exist_ok=True)

    def pictures() -> Iterator[np.ndarray]:
        views = renderer.render(path.cameras, path.time_s)
        for index in range(count):
            begin = time.monotonic()
            view = next(views)
            spent.append(1e3 * (time.monotonic() - begin))
            if index in chosen:
                name = f"{path.name}_{index:05d}"
                write_image(out / "views" / f"{name}.png", view.image)
                names.append(name)
                if depth_scale is not None:
                    if not depth_folder:
                        deepest = float(view.depth.max()) * 4
                        depth_folder.append(DepthFolder(out / "depth", depth_scale, deepest))
                    depth_folder[0].write(name, view.depth, view.confidence)
            yield view.image
            on_frame(index + 1)

    written = write_video(out / VIDEO_NAME, pictures(), frames_per_s)
    return PathExport(written, tuple(names), tuple(spent))
