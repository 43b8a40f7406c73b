"""LPIPS as a loss: where it can be computed, and what is said where it can't."""

from __future__ import annotations

import pytest
import torch

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.evaluation.lpips_alex import LEAST_SIDE, TOO_SMALL
from everview.pipeline.training.config import LossConfig
from everview.pipeline.training.learning_rate import Ramp, constant
from everview.pipeline.training.perceptual import open_perceptual, search_perceptual

CPU = torch.device("cpu")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No backbone anywhere."""
    monkeypatch.delenv("EVERVIEW_LPIPS", raising=False)
    monkeypatch.setenv("EVERVIEW_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_a_loss_that_never_weighs_it_needs_nothing(nowhere) -> None:
    assert open_perceptual(LossConfig(perceptual=constant(0.0)), CPU, 8) is None


@pytest.mark.parametrize(
    ("side", "why"), [(LEAST_SIDE - 1, TOO_SMALL), (LEAST_SIDE, "no AlexNet backbone")]
)
def test_what_cannot_be_computed_is_refused_with_the_reason(nowhere, side: int, why: str) -> None:
    distance, reason = search_perceptual(CPU, side)
    assert distance is None
    assert why in reason
    with pytest.raises(EnvironmentUnfit, match=why):
        open_perceptual(LossConfig(perceptual=Ramp(0.0, 0.1)), CPU, side)
