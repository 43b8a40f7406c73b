"""What a tracker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Tracker(Protocol):
    """Receives what a run measures. Names have a group: `train/loss`, `eval/psnr`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3]; rarely."""

    def close(self) -> None:
        """Hand on what is left; nothing comes after it."""


class NoTracker:
    """Keeps nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass
