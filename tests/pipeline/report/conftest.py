"""Run directories of every verb, written through the same functions as the verbs do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everview.pipeline.runs import RunDirectory, write_frames, write_json

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def picture(seed: int, size: int = 64) -> np.ndarray:
    """A smooth coloured picture."""
    y, x = np.mgrid[0:size, 0:size] / size
    channels = [np.sin(6 * x + seed), np.cos(5 * y - seed), np.sin(4 * (x + y))]
    return (127 + 120 * np.stack(channels, -1)).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def streamed(tmp_path) -> Path:
    """A finished stream whose capture and frames have names that try to be markup."""
    path = tmp_path / "stream"
    config = {"capture": f"data/{HOSTILE.replace('/', '')}", "size": 64}
    rows, frames = [], []
    for index in range(32):
        held_out = index % 8 == 0
        name = f"{index:05d}.jpg" if index else HOSTILE
        row = {"id": index, "name": name, "role": "held_out" if held_out else "input"}
        cost = {"latency_ms": 40.0 + index, "rss_mib": 900.0, "state_mib": 12.0}
        row |= {"psnr": 20.0 + index / 9, "ssim": 0.6, "lpips_alex": 0.3} if held_out else cost
        rows.append(row | ({"residual": 18.0 + index / 8} if index % 9 == 1 else {}))
        angle = index / 8
        pose = np.eye(4)
        pose[:3, :3] = [
            [np.cos(angle), 0, np.sin(angle)],
            [0, 1, 0],
            [-np.sin(angle), 0, np.cos(angle)],
        ]
        pose[:3, 3] = [-2 * np.sin(angle), 0.02 * index, -2 * np.cos(angle)]
        frames.append({"name": name, "role": row["role"], "width": 64, "height": 64, "fx": 60,
                       "fy": 60, "cx": 32, "cy": 32, "c2w_cv": pose.tolist()})  # fmt: skip
    with RunDirectory.open(path, "stream", config, ["everview", "stream", HOSTILE]) as run:
        for index in range(0, 32, 8):
            save(path / "views" / f"{index:05d}_truth.png", picture(index))
            save(path / "views" / f"{index:05d}_rendered.png", picture(index)[::-1])
            save(path / "views" / f"{index:05d}_memory.png", picture(index) // 2)
            save(path / "depth" / f"{index:05d}_colour.png", picture(index + 3))
        write_frames(path, rows)
        write_json(path / "cameras.json", {"frames": frames})
        scores = {"psnr": 21.5, "ssim": 0.61, "lpips_alex": 0.3, "laplacian_ratio": 0.4}
        run.note(input={"source": HOSTILE, "scale": "metric"}, weights={"name": HOSTILE})
        run.write_metrics(
            {**scores, "memory_alone": scores | {"psnr": 19.0}, "frames_per_s": 12.5,
             "latency_ms_p50": 55.0, "latency_ms_p95": 71.0, "state_mib": 12.0,
             "floors": {"mean_colour": scores | {"psnr": 11.0},
                        "nearest_view": scores | {"psnr": 12.0}},
             "details": {"retention_psnr": [24.0, 23.0, 21.0, 20.5], "chunks": 4, "failed": {}}},
            {"lpips_alex": "", "floors.depth_warp": HOSTILE},
        )  # fmt: skip
    return path


@pytest.fixture
def trained(tmp_path) -> Path:
    """A training run with a curve, one of its lines cut by a kill."""
    path = tmp_path / "train"
    with RunDirectory.open(path, "train", {"recipe": "tiny"}) as run:
        lines = []
        for step in range(0, 2000, 2):
            loss = 0.3 / (1 + step / 90)
            parts = {"loss": loss, "rgb": loss / 2, "depth": loss / 3, "gradient_norm": 1.2}
            lines.append({"step": step, **parts, "rate": 1 - step / 2000, "ms_per_step": 31.0})
            if step % 400 == 0:
                lines.append({"step": step, "held_out": {"set/room": 14 + step / 300}})
        text = "\n".join(map(json.dumps, lines)) + '\n{"step": 2000, "lo'
        (path / "metrics.jsonl").write_text(text)
        save(path / "samples.png", np.concatenate([picture(i) for i in range(7)], 1))
        run.write_metrics({"loss": 0.01, "step": 2000, "tokens": 3_000_000}, train=True)
    return path
