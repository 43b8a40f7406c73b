"""Whether geometry is cleaner without what moved.

    python -m everview.pipeline.benchmarks.moving_geometry

Procedural scenes with moving bodies are streamed with the mask and without. What really moved is
known: a pixel of a keyframe whose camera sees farther there at another moment of the stream, by
more than 2 %, so that the surface is not there for good. Two numbers a scene: of the pixels that
were fused, the share that moved; of the pixels that stood still, the share that was fused.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.captures import Frame
from everview.datasets.procedural.capture import ProceduralCapture, parse_procedural
from everview.datasets.procedural.rendering import render_views
from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.benchmarks.command import command
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.outputs import live_geometry
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.preparing import prepared
from everview.pipeline.streaming.published import World
from everview.pipeline.streaming.scenes import open_model
from everview.pipeline.streaming.session import Session

_MOMENTS = 9
_CHANGED = 0.02


@dataclass(frozen=True)
class Cleanness:
    """Shares, 0 to 1. moved_fused: of what was fused, what moved. still_fused: of what stood still,
    what was fused. cost: time of the geometry over that of the updates."""

    moved_fused: float
    still_fused: float
    num_keyframes: int
    cost: float


def measure(capture: str, size: int, masks: bool, weights: str, device: str) -> Cleanness:
    """One stream of a procedural capture."""
    model = open_model(weights, device)
    config = StreamConfig(capture=capture, size=size, mesh=False, fusion_masks_moving=masks)
    frames = ProceduralCapture(parse_procedural(capture))
    geometry = live_geometry(config, True, model.config.patch)
    assert geometry is not None
    with tempfile.TemporaryDirectory() as out:
        policies = StreamPolicies(retention_views=0)
        session = Session(model, policies, Path(out), World("metric"), geometry=geometry)
        for frame in frames:
            session.push(prepared(frame, size, model.config.patch))
        session.finish()
    times = np.linspace(0, (len(frames) - 1) / 10, _MOMENTS)
    fused = moved = still = still_fused = 0
    keyframes = geometry.keyframes()
    for keyframe in keyframes:
        is_fused = keyframe.frame.depth > 0
        has_moved = _moved(frames, keyframe.frame, times)
        fused += int(is_fused.sum())
        moved += int((is_fused & has_moved).sum())
        still += int((~has_moved).sum())
        still_fused += int((is_fused & ~has_moved).sum())
    cost = geometry.spent_s / max(session.absorb_s, 1e-9)
    return Cleanness(moved / max(fused, 1), still_fused / max(still, 1), len(keyframes), cost)


def _moved(capture: ProceduralCapture, frame: Frame, times: np.ndarray) -> np.ndarray:
    """Where a frame shows a surface that isn't there at every moment of the stream, bool [H, W]."""
    camera = frame.camera
    assert camera is not None
    moments = torch.as_tensor([frame.time_s, *times], dtype=torch.float64)[None]
    cameras = Cameras.stack([camera] * (len(times) + 1))[None]
    with torch.inference_mode():
        depth = render_views(capture.scene, cameras, moments, 1).depth[0].numpy()
    now = depth[0]
    return (depth[1:] > (1 + _CHANGED) * now).any(axis=0)


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """A table, line by line."""
    yield "scene                 mask   fused that moved   still that is fused   keyframes   cost"
    for world in arguments.worlds:
        for seed in arguments.seeds:
            url = (
                f"procedural://{world}?seed={seed}&frames={arguments.frames}"
                f"&size={arguments.size}&dynamic=true"
            )
            for masks in (False, True):
                got = measure(url, arguments.size, masks, arguments.weights, arguments.device)
                yield (
                    f"{world + ' ' + str(seed):20s}  {'on' if masks else 'off':4s}"
                    f"  {got.moved_fused:>15.2%}    {got.still_fused:>17.1%}"
                    f"  {got.num_keyframes:>10d}  {got.cost:>6.1%}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--worlds", nargs="+", default=["tabletop", "room"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 4, 5])
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="auto")
    for line in rows(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    command("moving_geometry", main)
