"""TensorBoard: event files that `tensorboard --logdir RUN` shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_SECONDS_BETWEEN_WRITES = 10


class TensorBoardTracker:
    """Appends events below `folder`. step: where the run continues; what an earlier attempt wrote
    beyond it is hidden (`purge_step`), because the run does those steps again."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self._writer = SummaryWriter(
            str(folder), purge_step=purge, flush_secs=_SECONDS_BETWEEN_WRITES
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
