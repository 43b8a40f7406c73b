"""A scene small enough to look into while it streams: real model code with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.models.config import BankConfig, ModelConfig
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.pipeline.rendering.survey import look_at


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights of a one-block model."""
    torch.manual_seed(7)
    bank = BankConfig(capacity=6, hypotheses=4, features=8, groups=2, refine_channels=8)
    config = ModelConfig(stack="WTF", dim=32, attention_head_dim=32, bank=bank)
    model = SceneModel(config).eval().requires_grad_(False)
    return save_weights(model, tmp_path_factory.mktemp("weights") / "random", "random", bits=32)


@pytest.fixture
def make_frames() -> Callable[[int], list[Frame]]:
    """A walk round a point in a bright room, 64 pixels, 10 frames a second."""

    def make(count: int) -> list[Frame]:
        lens = Camera(64, 64, 64, 64, 32, 32, np.eye(4))
        y, x = np.mgrid[0:64, 0:64] / 64
        frames = []
        for index in range(count):
            angle = 2 * np.pi * index / 40
            position = np.array([2 * np.sin(angle), -0.3, -2 * np.cos(angle)])
            camera = lens.moved(look_at(position, np.zeros(3), np.array([0.0, -1.0, 0.0])))
            waves = [np.sin(6 * x + angle), np.cos(5 * y - angle), np.sin(4 * (x + y) + index)]
            image = (150 + 90 * np.stack(waves, -1)).astype(np.uint8)
            frames.append(Frame(index, f"{index:03d}.png", image, camera, 0.1 * index))
        return frames

    return make
