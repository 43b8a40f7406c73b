"""A small real capture on disk, and a small untrained model: enough to run everything for real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everview.models.config import tiny
from everview.models.scene_model import SceneModel


@dataclass(frozen=True)
class FolderScene:
    """A scene of a protocol that is a folder on disk."""

    url: str
    name: str


@dataclass(frozen=True)
class FolderProtocol:
    """A protocol of folders, in place of the procedural scenes."""

    scenes: tuple[FolderScene, ...]
    chunk_counts: tuple[int, ...] = ()


@pytest.fixture(scope="session")
def model() -> SceneModel:
    """Untrained: what it draws is wrong, and everything about it can be measured."""
    torch.manual_seed(0)
    return SceneModel(tiny()).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No LPIPS backbone unless a test brings one, and no network."""
    monkeypatch.setenv("EVERVIEW_DATA", str(tmp_path / "no-data"))
    monkeypatch.delenv("EVERVIEW_LPIPS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no-hub"))

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


@pytest.fixture
def room(tmp_path) -> Path:
    """A posed RGB-D folder: 17 frames of a striped wall, sliding past it."""
    return write_wall(tmp_path / "room", 17)


def write_wall(folder: Path, count: int, size: int = 40) -> Path:
    """Cameras 2 m in front of a wall, 5 cm apart; K.txt, poses_c2w.txt, JPEG and depth."""
    folder.mkdir()
    rows = []
    columns = (np.arange(size) + 0.5 - size / 2) / size * 2
    for index in range(count):
        x = 0.05 * index
        stripes = 128 + 100 * np.sin(4 * (columns + x))
        image = np.broadcast_to(stripes[None, :, None], (size, size, 3)).copy()
        image[..., 2] = 90
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{index:05d}.png")
        depth = Image.fromarray(np.full((size, size), 2000, np.uint16))
        depth.save(folder / f"{index:05d}_depth.png")
        pose = np.eye(4)
        pose[0, 3] = x
        rows.append(pose.ravel())
    np.savetxt(folder / "poses_c2w.txt", rows)
    np.savetxt(folder / "K.txt", [[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]])
    return folder
