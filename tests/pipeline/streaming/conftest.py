"""A scene small enough to stream in a second: real model code with random weights, real files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.models.config import BankConfig, ModelConfig
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.pipeline.rendering.survey import look_at
from everview.pipeline.streaming import outputs
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.policies import StreamPolicies


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights of a one-block model."""
    torch.manual_seed(7)
    bank = BankConfig(capacity=6, hypotheses=4, features=8, groups=2, refine_channels=8)
    config = ModelConfig(stack="WTF", dim=32, attention_head_dim=32, bank=bank)
    model = SceneModel(config).eval().requires_grad_(False)
    return save_weights(model, tmp_path_factory.mktemp("weights") / "random", "random", bits=32)


def make_frames(count: int, size: int = 32) -> list[Frame]:
    """A walk round a coloured point, `size` pixels, 10 frames a second."""
    random = np.random.default_rng(3)
    lens = Camera(size, size, size, size, size / 2, size / 2, np.eye(4))
    frames = []
    for index in range(count):
        angle = 2 * np.pi * index / 40
        position = np.array([2 * np.sin(angle), -0.3, -2 * np.cos(angle)])
        camera = lens.moved(look_at(position, np.zeros(3), np.array([0.0, -1.0, 0.0])))
        image = random.integers(20, 236, (size // 4, size // 4, 3), np.uint8)
        picture = np.asarray(Image.fromarray(image).resize((size, size)))
        frames.append(Frame(index, f"{index:03d}.png", picture, camera, 0.1 * index))
    return frames


@pytest.fixture
def frames() -> Callable[[int], list[Frame]]:
    return make_frames


@pytest.fixture(scope="session")
def capture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 such frames on disk, as a nerfstudio capture."""
    folder = tmp_path_factory.mktemp("walk")
    images = []
    for frame in make_frames(21):
        Image.fromarray(frame.image).save(folder / frame.name)
        images.append(PosedImage(frame.name, frame.camera, frame.time_s))
    write_transforms_json(folder / "transforms.json", images, "up_to_scale")
    return folder


@pytest.fixture
def config(capture_folder: Path, weights: Path) -> StreamConfig:
    """The whole job with the slow exports made small."""
    return StreamConfig(
        capture=str(capture_folder),
        weights=str(weights),
        size=32,
        hold_out=5,
        policies=StreamPolicies(chunk_frames=4, snapshot_every_s=0.0),
        video_frames=2,
        review_views=2,
        fusion_views=0,
        device="cpu",
    )


@pytest.fixture
def without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS looks for its backbone on the network as a last resort; these tests use none."""
    monkeypatch.setattr(outputs, "open_lpips", lambda **_: (None, "left out of this test"))


@pytest.fixture
def black() -> Callable[[Frame], Frame]:
    return lambda frame: replace(frame, image=np.zeros_like(frame.image))
