"""RealEstate10K clips: a text file of cameras, and the frames as a folder or as the video.

First line: the video's URL. Then 19 numbers a row: time stamp (microseconds), fx fy cx cy as
fractions of the image's size, two zeros, and a row-major 3x4 world-to-camera in OpenCV axes.
Frames are named by their time stamp, or are as many as the rows and in their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import invert_rigid
from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.folders import image_names, naturally
from everview.datasets.formats.video import VIDEO_SUFFIXES, VideoCapture
from everview.datasets.guards import file_exists, path_inside, read_table
from everview.datasets.lenses import Lens, lens_of
from everview.datasets.listed import (
    FrameRecord,
    ListedCapture,
    ReadOptions,
    check_state,
    no_usable_frame,
)
from everview.datasets.poses import rigid_pose

FORMAT = "RealEstate10K clip"
_COLUMNS = 19
_LOOKED_AT = 64


def find(path: Path) -> Path | None:
    """The camera file: `path` itself, or the first in the folder that has the rows."""
    if path.is_file():
        return path if path.suffix == ".txt" and _has_rows(path) else None
    if not path.is_dir():
        return None
    names = naturally(entry.name for entry in islice(path.glob("*.txt"), _LOOKED_AT))
    return next((path / name for name in names if _has_rows(path / name)), None)


def _has_rows(path: Path) -> bool:
    if not file_exists(path):
        return False
    with path.open("rb") as file:
        head = file.read(4096).split(b"\n")
    if b"://" not in head[0] or len(head) < 2:
        return False
    cells = head[1].split()
    return len(cells) == _COLUMNS and cells[0].isdigit()


def read(source: str, index: Path, options: ReadOptions) -> Capture:
    """The clip's frames; rows without a frame, or with a broken camera, are skipped."""
    rows = read_table(index, columns=_COLUMNS, skip_lines=1)
    notes = (f"{index.name}: OpenCV world-to-camera, inverted; intrinsics relative to the size",)
    info = CaptureInfo(source, FORMAT, "up_to_scale", None, True, has_time=True, notes=notes)
    folder, video = _frame_folder(index.with_suffix("")), _video(index)
    if folder is None and video is not None:
        return PosedVideo(info, rows, VideoCapture(source, video, options), index)
    near = index.parent
    folder = folder or _frame_folder(near / "frames", near / "images", near)
    if folder is None:
        raise DataError(
            f"{index} has no frames; put them into {index.with_suffix('')} or the video beside it "
            f"as {index.stem}.mp4"
        )
    records, skipped = [], []
    for row, name in zip(rows, _frame_names(index, folder, rows), strict=True):
        try:
            if name is None:
                raise DataError(f"no frame {row[0]:.0f} in {folder}")
            image = path_inside(folder, name, allow_external=options.allow_external_paths)
            lens, pose = _view(index, row)
            records.append(FrameRecord(name, image, lens, pose, row[0] * 1e-6))
        except DataError as error:
            skipped.append(Skip(f"{row[0]:.0f}", str(error)))
    return ListedCapture(info, records, skipped, options)


def _view(index: Path, row: np.ndarray) -> tuple[Lens, np.ndarray]:
    try:
        pose = invert_rigid(rigid_pose(row[7:].reshape(3, 4)))
    except ValueError as error:
        raise DataError(f"{index}: {error}") from None
    fx, fy, cx, cy = map(float, row[1:5])
    return lens_of(index, width=1, height=1, fx=fx, fy=fy, cx=cx, cy=cy), pose


def _frame_folder(*candidates: Path) -> Path | None:
    return next((f for f in candidates if f.is_dir() and image_names(f)), None)


def _video(index: Path) -> Path | None:
    for suffix in sorted(VIDEO_SUFFIXES):
        if file_exists(index.with_suffix(suffix)):
            return index.with_suffix(suffix)
    return None


def _frame_names(index: Path, folder: Path, rows: np.ndarray) -> list[str | None]:
    """The frame of each row: by time stamp if a name has one of them, else by order."""
    names = image_names(folder)
    by_stem = {Path(name).stem: name for name in names}
    found = [by_stem.get(f"{stamp:.0f}") if np.isfinite(stamp) else None for stamp in rows[:, 0]]
    if any(found):
        return found
    if len(names) != len(rows):
        raise DataError(
            f"{index} has {len(rows)} rows for {len(names)} frames in {folder}, and no frame is "
            "named by a time stamp; they must be as many"
        )
    return list(names)


class PosedVideo(Capture):
    """A clip's cameras laid over its video: of each row the frame nearest in time."""

    def __init__(
        self, info: CaptureInfo, rows: np.ndarray, video: VideoCapture, index: Path
    ) -> None:
        order = np.argsort(rows[:, 0], kind="stable")
        self.info, self.index, self.video = info, index, video
        self.rows = rows[order][np.isfinite(rows[order, 0])]
        if not len(self.rows):
            raise DataError(f"{index} has no row with a time stamp")
        rows_hash = hashlib.blake2b(self.rows.tobytes(), digest_size=8).hexdigest()
        self._identity = f"{video.identity()}-{rows_hash}"
        self.rewind()

    def rewind(self) -> None:
        self.video.rewind()
        self._row = 0
        self._next = 0
        self._own: list[Skip] = []

    @property
    def skipped(self) -> list[Skip]:  # type: ignore[override]
        """Rows left out, then packets that couldn't be decoded."""
        return self._own + self.video.skipped

    def identity(self) -> str:
        return self._identity

    def state(self) -> dict[str, Any]:
        return {
            "identity": self.identity(),
            "row": self._row,
            "next": self._next,
            "video": self.video.state(),
            "skipped": [[skip.name, skip.reason] for skip in self._own],
        }

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, self)
        self.video.restore(state["video"])
        self._row, self._next = int(state["row"]), int(state["next"])
        self._own = [Skip(name, reason) for name, reason in state["skipped"]]

    def __iter__(self) -> Iterator[Frame]:
        half = 0.505 * self.video.frame_interval_s  # a frame midway between rows counts once
        for frame in self.video:
            time_s = frame.time_s or 0.0
            while self._row < len(self.rows) and time_s > self._time(self._row) + half:
                self._leave_out("no frame of the video is nearest to it")
            if self._row == len(self.rows):
                break
            if time_s < self._time(self._row) - half:
                continue
            try:
                posed = self._posed(frame)
            except DataError as error:
                self._leave_out(str(error))
                continue
            self._row, self._next = self._row + 1, self._next + 1
            yield posed
        while self._row < len(self.rows):
            self._leave_out("the video ends before it")
        if not self._next:
            raise DataError(no_usable_frame(self.info.source, self.skipped))

    def _time(self, row: int) -> float:
        return self.rows[row, 0] * 1e-6

    def _leave_out(self, reason: str) -> None:
        self._own.append(Skip(f"{self.rows[self._row, 0]:.0f}", reason))
        self._row += 1

    def _posed(self, frame: Frame) -> Frame:
        lens, pose = _view(self.index, self.rows[self._row])
        height, width = frame.image.shape[:2]
        try:
            camera = lens.fitted(width, height).camera(pose)
        except ValueError as error:
            raise DataError(f"{self.index}: {error}") from None
        return replace(frame, index=self._next, camera=camera)
