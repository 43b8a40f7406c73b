"""The cameras and times of a stream so far: a few hundred bytes a frame, and nothing else kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.pipeline.evaluation.floors import view_distances

_NUMBERS = 2 + 4 + 16 + 1 + 1 + 1  # size, intrinsics, pose, time, index, role
_OBSERVED, _HELD_OUT = 0.0, 1.0
_AT_A_TIME = 16


@dataclass(frozen=True, eq=False)
class SeenCamera:
    """A camera of the stream: when it was there, in seconds, and whether it was held out."""

    camera: Camera
    time_s: float | None
    is_held_out: bool


class Trajectory:
    """An append-only table of float64 rows that doubles when it is full."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rows = np.empty((64, _NUMBERS))
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, frame: Frame, is_held_out: bool) -> None:
        """Add a frame with a camera (as resized) in the order of the stream."""
        if self._length == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        camera = frame.camera
        row = self._rows[self._length]
        row[:6] = camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        row[6:22] = camera.c2w_cv.ravel()
        row[22] = np.nan if frame.time_s is None else frame.time_s
        row[23], row[24] = frame.index, _HELD_OUT if is_held_out else _OBSERVED
        self._length += 1
        self.names.append(frame.name.replace("\n", " "))

    def camera_of(self, index: int) -> Camera | None:
        """That of the frame at this position in the capture, at the size the model saw."""
        found = np.nonzero(self._rows[: self._length, 23] == index)[0]
        if not len(found):
            return None
        row = self._rows[found[0]]
        return Camera.of_row(int(row[0]), int(row[1]), row[2:6], row[6:22].reshape(4, 4))

    def cameras(self) -> list[Camera]:
        """Cameras of all frames, held out or not."""
        return [camera for camera, _, _ in self._select(None)]

    def times(self) -> list[float | None]:
        """Times of all frames in seconds."""
        return [time for _, time, _ in self._select(None)]

    def indices(self) -> list[int]:
        """Positions in the capture of all frames, beside `names`."""
        return [index for _, _, index in self._select(None)]

    def observed(self) -> list[Camera]:
        """Cameras of the frames that were given to the model."""
        return [camera for camera, _, _ in self._select(_OBSERVED)]

    def observed_times(self) -> list[float | None]:
        """Their times in seconds."""
        return [time for _, time, _ in self._select(_OBSERVED)]

    def observed_indices(self) -> list[int]:
        """Their positions in the capture."""
        return [index for _, _, index in self._select(_OBSERVED)]

    def held_out_indices(self) -> list[int]:
        """Positions in the capture of the frames kept from the model."""
        return [index for _, _, index in self._select(_HELD_OUT)]

    def evenly(self, most: int) -> list[SeenCamera]:
        """At most `most` cameras, evenly taken, the last among them; beside `append`, too."""
        rows = self._rows[: self._length]
        places = np.unique(np.linspace(len(rows) - 1, 0, min(most, len(rows))).round().astype(int))
        return [
            SeenCamera(
                Camera.of_row(int(row[0]), int(row[1]), row[2:6], row[6:22].reshape(4, 4)),
                None if np.isnan(row[22]) else float(row[22]),
                bool(row[24] == _HELD_OUT),
            )
            for row in rows[places]
        ]

    def covered_s(self) -> tuple[float, float] | None:
        """The first and the last moment of all frames that have a time, in seconds."""
        times = self._rows[: self._length, 22]
        known = times[~np.isnan(times)]
        return (float(known.min()), float(known.max())) if len(known) else None

    def nearest_observed(self, indices: Sequence[int], among: Sequence[int]) -> dict[int, int]:
        """For each position of a frame in the capture, that of the nearest observed frame among
        those at the positions `among`."""
        rows = self._rows[: self._length]
        observed = rows[(rows[:, 24] == _OBSERVED) & np.isin(rows[:, 23], list(among))]
        asked = rows[np.isin(rows[:, 23], list(indices))]
        if not len(observed) or not len(asked):
            return {}
        poses, known = (part[:, 6:22].reshape(-1, 4, 4) for part in (asked, observed))
        # a few at a time: the distances take 100 bytes for each pair
        parts = np.split(poses, range(_AT_A_TIME, len(poses), _AT_A_TIME))
        nearest = np.concatenate([view_distances(part, known).argmin(axis=1) for part in parts])
        return dict(
            zip(asked[:, 23].astype(int).tolist(), observed[nearest, 23].astype(int).tolist(),
                strict=True)
        )  # fmt: skip

    def _select(self, role: float | None) -> Iterator[tuple[Camera, float | None, int]]:
        for row in self._rows[: self._length]:
            if role is not None and row[24] != role:
                continue
            pose = row[6:22].reshape(4, 4)
            camera = Camera.of_row(int(row[0]), int(row[1]), row[2:6], pose)
            yield camera, None if np.isnan(row[22]) else float(row[22]), int(row[23])

    def to_tensors(self) -> dict[str, Tensor]:
        """For a snapshot."""
        text = np.frombuffer("\n".join(self.names).encode() or b" ", np.uint8)
        return {
            "rows": torch.from_numpy(self._rows[: self._length].copy()),
            "names": torch.from_numpy(text.copy()),
        }

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Trajectory:
        """From a snapshot."""
        made = Trajectory()
        rows = tensors["rows"].double().numpy()
        if rows.ndim != 2 or rows.shape[1] != _NUMBERS:
            raise ValueError(f"trajectory of shape {rows.shape}, expected [frames, {_NUMBERS}]")
        made._length = len(rows)
        made.names = bytes(tensors["names"].numpy()).decode().split("\n")[: len(rows)]
        made._rows = rows.copy() if len(rows) else made._rows
        return made
