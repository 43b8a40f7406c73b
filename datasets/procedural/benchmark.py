"""How many views a second: `python -m everview.datasets.procedural.benchmark [--device cuda]`.

First checks float32 on the device against float64 on the CPU, then times every world at 1 and 4
samples a pixel, through the kernel (built on the way, timed apart) and eagerly.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

from everview.datasets.procedural.rendering import Backend, render_views
from everview.datasets.procedural.scenes import WORLDS, draw_scenes
from everview.datasets.procedural.trajectories import draw_cameras

_SIZE = 128


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_against_float64(world: str, device: torch.device, backend: Backend) -> dict[str, float]:
    """Share of pixels whose colour or depth differs between float32 here and float64 on the CPU."""
    scenes = draw_scenes(world, range(8), dynamic=True)
    cameras, time_s = draw_cameras(scenes, 1, 48, 48)
    reference = render_views(scenes, cameras, time_s, 1, dtype=torch.float64)
    views = render_views(scenes.to(device), cameras, time_s, 1, backend=backend)
    depth, colour = views.depth.cpu(), views.images.cpu().float()
    gap = (depth - reference.depth).abs() / reference.depth.clamp(min=0.1)
    off = (colour - reference.images.float()).abs().amax(-1)
    return {
        "depth_median_relative": float(gap.median()),
        "depth_share_off_1e-4": float((gap > 1e-4).float().mean()),
        "colour_share_off_by_3": float((off > 3).float().mean()),
    }


def time_views(
    world: str, device: torch.device, samples: int, backend: Backend, batch: int, views: int
) -> dict[str, float]:
    """Views a second of `render_views` alone, and with drawing scenes and cameras."""
    started = time.perf_counter()
    scenes = draw_scenes(world, range(batch), dynamic=True)
    cameras, time_s = draw_cameras(scenes, views, _SIZE, _SIZE)
    on_device = scenes.to(device)
    drawing = time.perf_counter() - started
    started = time.perf_counter()
    render_views(on_device, cameras, time_s, samples, backend=backend)
    _wait(device)
    first = time.perf_counter() - started
    best = float("inf")
    deadline = time.perf_counter() + 1.0
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        render_views(on_device, cameras, time_s, samples, backend=backend)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    best = min(best, first)
    return {
        "views_per_s": batch * views / best,
        "views_per_s_with_drawing": batch * views / (best + drawing),
        "drawing_ms": 1e3 * drawing,
        "first_call_s": first,
    }


def main() -> None:
    """Print one line per measurement on stderr and everything as JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=None, help="scenes a batch")
    parser.add_argument("--views", type=int, default=None, help="views a scene")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    is_gpu = device.type == "cuda"
    batch = arguments.scenes or (64 if is_gpu else 2)
    views = arguments.views or (24 if is_gpu else 1)
    name = torch.cuda.get_device_name(device) if is_gpu else "CPU"
    report: dict = {"device": name, "torch": torch.__version__, "rows": [], "checks": {}}
    backends: tuple[Backend, ...] = ("kernel", "eager") if is_gpu else ("eager",)
    for world in WORLDS:
        for backend in backends:
            check = check_against_float64(world, device, backend)
            report["checks"][f"{world}, {backend}"] = check
            _log(f"{world}, {backend}: float32 on {name} against float64 on the CPU: {check}")
    for backend in backends:
        # eager rays are a hundred times slower on a GPU: fewer do
        share = 8 if backend == "eager" and is_gpu else 1
        for samples in (1, 4):
            for world in WORLDS:
                row: dict = {"world": world, "samples_per_pixel": samples, "backend": backend}
                row |= time_views(world, device, samples, backend, batch // share, views)
                report["rows"].append(row)
                _log(json.dumps(row))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
