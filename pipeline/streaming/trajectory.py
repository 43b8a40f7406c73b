"""The cameras and times of a stream so far: 200 bytes a frame in files, nothing of them in memory.

    trajectory.f64          a row of 25 float64 (native order) for every frame, in order
    trajectory_names.txt    the frames' names, a line each

Both only grow; a snapshot holds their marks (see `everview.pipeline.runs.appended`). What asks for
all rows gets them one by one, or in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.pipeline.evaluation.floors import view_distances
from everview.pipeline.runs.appended import AppendedFile, Mark, check_mark

ROWS_NAME, NAMES_NAME = "trajectory.f64", "trajectory_names.txt"

_NUMBERS = 2 + 4 + 16 + 1 + 1 + 1  # size, intrinsics, pose, time, index, role
_TIME, _INDEX, _ROLE = 22, 23, 24
_OBSERVED, _HELD_OUT = 0.0, 1.0
_AT_A_TIME = 16
_PIECE = 4096
_MOST_COMPARED = 8192
_NEIGHBOURS = 16


@dataclass(frozen=True, eq=False)
class SeenCamera:
    """A camera of the stream: when it was there, in seconds, and whether it was held out. index:
    the frame's position in the capture."""

    camera: Camera
    time_s: float | None
    is_held_out: bool
    index: int


class Trajectory:
    """One stream's. Read beside `append` from any thread: what was appended by then is seen."""

    def __init__(self, run: Path) -> None:
        """run: the directory of the files; they begin anew unless this goes on from marks."""
        self._rows, self._names = AppendedFile(run / ROWS_NAME), AppendedFile(run / NAMES_NAME)
        self._length = 0
        self._covered: tuple[float, float] | None = None

    @staticmethod
    def of_run(run: Path, facts: Mapping[str, Any]) -> Trajectory:
        """As a snapshot has it, to be read only. Raises InputRejected when it doesn't verify."""
        made = Trajectory(run)
        for file in (made._rows, made._names):
            check_mark(file.path, Mark.of(facts[file.path.name]))
        made._read_again(int(facts[ROWS_NAME]["bytes"]))
        return made

    def __len__(self) -> int:
        return self._length

    def append(self, frame: Frame, is_held_out: bool) -> None:
        """Add a frame with a camera (as resized) in the order of the stream."""
        camera = frame.camera
        assert camera is not None
        row = np.empty(_NUMBERS)
        row[:6] = camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        row[6:_TIME] = camera.c2w_cv.ravel()
        row[_TIME] = np.nan if frame.time_s is None else frame.time_s
        row[_INDEX], row[_ROLE] = frame.index, _HELD_OUT if is_held_out else _OBSERVED
        name = frame.name.replace("\n", " ") + "\n"
        self._names.append(name.encode("utf-8", "surrogateescape"))
        self._rows.append(row.tobytes())
        self._cover(row[None])
        self._length += 1

    # --- all of it, one by one ---

    def seen(self, is_held_out: bool | None = None) -> Iterator[SeenCamera]:
        """All frames in order, or the held-out ones, or those given to the model."""
        for rows in self._pieces():
            yield from map(
                _seen, rows if is_held_out is None else rows[_has_role(rows, is_held_out)]
            )

    def times(self) -> Iterator[float | None]:
        """Of all frames, in order, in seconds."""
        for rows in self._pieces():
            yield from (None if np.isnan(time_s) else float(time_s) for time_s in rows[:, _TIME])

    def names(self) -> Iterator[str]:
        """Of all frames, in order."""
        if not self._length:
            return
        with self._names.path.open(
            encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as file:
            for _, line in zip(range(self._length), file, strict=False):
                yield line[:-1]

    def observed_indices(self) -> np.ndarray:
        """Positions in the capture, int64, of the frames that were given to the model."""
        return self._indices(False)

    def held_out_indices(self) -> np.ndarray:
        """Positions in the capture, int64, of the frames kept from the model."""
        return self._indices(True)

    def _indices(self, is_held_out: bool) -> np.ndarray:
        parts = [
            rows[_has_role(rows, is_held_out), _INDEX].astype(np.int64) for rows in self._pieces()
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    # --- some of it ---

    def camera_of(self, index: int) -> Camera | None:
        """That of the frame at this position in the capture, at the size the model saw."""
        table = self._table()
        place = int(np.searchsorted(table[:, _INDEX], index))  # a stream's positions rise
        if place == len(table) or table[place, _INDEX] != index:
            return None
        return _camera(table[place])

    def first(self) -> SeenCamera | None:
        """The first frame that was given to the model."""
        return next(self.seen(is_held_out=False), None)

    def evenly(self, most: int, is_held_out: bool | None = None) -> list[SeenCamera]:
        """At most `most` cameras, evenly taken, the last among them; beside `append`, too."""
        table = self._table()
        among = np.arange(len(table))
        if is_held_out is not None:
            parts = [_has_role(rows, is_held_out) for rows in self._pieces()]
            among = np.nonzero(np.concatenate(parts)[: len(table)])[0] if parts else among
        places = np.linspace(len(among) - 1, 0, min(most, len(among))).round().astype(int)
        return [_seen(table[place]) for place in among[np.unique(places)]]

    def covered_s(self) -> tuple[float, float] | None:
        """The first and the last moment of all frames that have a time, in seconds."""
        return self._covered

    def nearest_observed(
        self, indices: Sequence[int], among: Sequence[int] | np.ndarray
    ) -> dict[int, int]:
        """For each position of a frame in the capture, that of the nearest observed frame among
        those at the positions `among`. Of more than 8192 of those, some evenly taken are compared,
        and those next in order to the frames that are asked for."""
        table = self._table()
        if not len(table):
            return {}
        column = np.asarray(table[:, _INDEX])
        known = np.nonzero((table[:, _ROLE] == _OBSERVED) & np.isin(column, among))[0]
        asked = np.nonzero(np.isin(column, indices))[0]
        if not len(known) or not len(asked):
            return {}
        if len(known) > _MOST_COMPARED:
            even = np.linspace(0, len(known) - 1, _MOST_COMPARED).round().astype(int)
            beside = np.searchsorted(known, asked)[:, None] + np.arange(-_NEIGHBOURS, _NEIGHBOURS)
            known = known[np.unique(np.concatenate([even, beside.clip(0, len(known) - 1).ravel()]))]
        targets, inputs = (np.asarray(table[p, 6:_TIME]).reshape(-1, 4, 4) for p in (asked, known))
        # a few at a time: the distances take 100 bytes for each pair
        parts = np.split(targets, range(_AT_A_TIME, len(targets), _AT_A_TIME))
        nearest = np.concatenate([view_distances(part, inputs).argmin(axis=1) for part in parts])
        found = column[asked].astype(int).tolist(), column[known[nearest]].astype(int).tolist()
        return dict(zip(*found, strict=True))

    # --- files ---

    def length_on_disk(self) -> int:
        """Frames in the file as it lies there: those of an attempt that was killed, too."""
        path = self._rows.path
        return path.stat().st_size // (8 * _NUMBERS) if path.exists() else 0

    def marks(self) -> dict[str, Any]:
        """For a snapshot, by file."""
        return {file.path.name: asdict(file.mark()) for file in (self._names, self._rows)}

    def go_on_after(self, facts: Mapping[str, Any]) -> None:
        """Inverse of `marks`: cut off what came later. Raises InputRejected."""
        for file in (self._names, self._rows):
            file.go_on_after(Mark.of(facts[file.path.name]))
        self._read_again(self._rows.length)

    def start_over(self) -> None:
        """Remove the files of an attempt that nothing goes on from."""
        self._names.start_over()
        self._rows.start_over()

    def close(self) -> None:
        """Close the files; `append` opens them again."""
        self._names.close()
        self._rows.close()

    def _read_again(self, size: int) -> None:
        self._length, self._covered = size // (8 * _NUMBERS), None
        for rows in self._pieces():
            self._cover(rows)

    def _cover(self, rows: np.ndarray) -> None:
        times = rows[:, _TIME][~np.isnan(rows[:, _TIME])]
        if len(times):
            low, high = self._covered or (np.inf, -np.inf)
            self._covered = (min(low, float(times.min())), max(high, float(times.max())))

    def _table(self) -> np.ndarray:
        """Everything so far, as it lies in the file."""
        if not self._length:
            return np.empty((0, _NUMBERS))
        return np.memmap(self._rows.path, np.float64, "r", shape=(self._length, _NUMBERS))

    def _pieces(self) -> Iterator[np.ndarray]:
        table = self._table()
        for start in range(0, len(table), _PIECE):
            yield np.array(table[start : start + _PIECE])


def _has_role(rows: np.ndarray, is_held_out: bool) -> np.ndarray:
    return rows[:, _ROLE] == (_HELD_OUT if is_held_out else _OBSERVED)


def _seen(row: np.ndarray) -> SeenCamera:
    time_s = None if np.isnan(row[_TIME]) else float(row[_TIME])
    return SeenCamera(_camera(row), time_s, bool(row[_ROLE] == _HELD_OUT), int(row[_INDEX]))


def _camera(row: np.ndarray) -> Camera:
    pose = np.array(row[6:_TIME]).reshape(4, 4)
    return Camera.of_row(int(row[0]), int(row[1]), row[2:6].tolist(), pose)
