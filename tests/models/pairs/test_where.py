"""A query without a camera: where a picture was taken in the scene that a memory holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from everview.datasets.cameras import Cameras, invert_rigid
from everview.datasets.opening import open_capture
from everview.models.gauge import fit_gauge
from everview.models.pairs.where import SceneLocator
from everview.models.weight_files import load_model
from everview.pipeline.posing.trajectory_errors import rotation_angle
from tests.pipeline.posing.exact_matcher import ExactMatcher


@pytest.fixture(scope="module")
def frames():
    return list(open_capture("procedural://room?seed=5&frames=6&size=64"))


@pytest.fixture(scope="module")
def seen(frames):
    """The published model's memory of all frames but the third, and what they look like."""
    model = load_model()
    cameras = Cameras.stack([frame.camera for frame in frames])
    images = torch.from_numpy(np.stack([frame.image for frame in frames]))
    images = images.permute(0, 3, 1, 2).float() / 255
    kept = [0, 1, 3, 4]
    gauge = fit_gauge(cameras[kept], "metric")
    with torch.inference_mode():
        state = model.observe(
            images[None, kept],
            cameras[torch.tensor([kept])],
            None,
            model.init_state(1),
            gauge=gauge,
        )
        return model, model.freeze(state), images, cameras


def test_a_picture_is_placed_by_the_depth_that_the_memory_says(frames, seen):
    model, view, images, cameras = seen
    locator = SceneLocator(model, ExactMatcher(frames), view)
    (found,) = locator.locate(images[2:3], cameras.intrinsics[2:3])
    off = invert_rigid(frames[2].camera.c2w_cv) @ found.c2w_cv.numpy()
    assert found.frames >= 2
    assert np.degrees(rotation_angle(off[:3, :3])) < 2.0
    assert np.linalg.norm(off[:3, 3]) < 0.1  # metres


def test_what_the_bank_never_saw_is_nowhere(frames, seen):
    model, view, images, cameras = seen
    matcher = ExactMatcher(frames)
    exact = matcher.compare
    matcher.compare = lambda a, b: replace(
        exact(a, b), position=64 * torch.rand(exact(a, b).position.shape)
    )
    torch.manual_seed(0)
    assert SceneLocator(model, matcher, view).locate(images[2:3], cameras.intrinsics[2:3]) == [None]


def test_a_memory_without_frames_is_refused(frames, seen):
    model, view, _, _ = seen
    with pytest.raises(ValueError, match="without a frame bank"):
        SceneLocator(model, ExactMatcher(frames), replace(view, bank=None))
