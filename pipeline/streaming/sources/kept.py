"""Frames of a live stream kept on disk for the comparison after it; a bounded number of them.

What a camera has shown can't be read a second time, so the frames that the model was given, and
those held out from it, are written to the run directory as they are, at the model's size. When
there are more than `most`, every other block of frames goes, evenly over the whole stream: blocks
rather than frames, so that a held-out frame keeps the neighbours that it is compared with.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from everview.datasets.captures import Capture, CaptureInfo, Frame
from everview.datasets.errors import DataError
from everview.pipeline.runs import disk_errors
from everview.pipeline.streaming.frame_tensors import frames_from_tensors, frames_to_tensors
from everview.pipeline.streaming.sources.source import Source

FOLDER = "kept_frames"
_BLOCK = 16
_EVERY = "every.txt"


class KeptFrames(Capture):
    """One file a frame under RUN/kept_frames; goes with the run once it is complete."""

    def __init__(self, run: Path, info: CaptureInfo, most: int = 2048) -> None:
        """most: frames on disk, at least a block; each takes 3 bytes a pixel, 7 with depth."""
        self.folder, self.info, self.skipped = run / FOLDER, info, []
        self._most, self._every = max(most, _BLOCK), self._stored_every()
        found = sorted(self.folder.glob("*.safetensors"))
        self._files = {int(file.stem): file for file in found if file.stem.isdecimal()}
        self._let_go()  # an attempt may have been killed while it did

    def indices(self) -> list[int]:
        """Of the frames that are here."""
        return list(self._files)

    def add(self, frame: Frame) -> None:
        """Keep a frame that has a camera, unless its block is one of those left out."""
        if (frame.index // _BLOCK) % self._every:
            return
        file = self.folder / f"{frame.index:09d}.safetensors"
        partial = file.with_suffix(".tmp")
        with disk_errors(file):
            self.folder.mkdir(exist_ok=True)
            save_file(frames_to_tensors([frame]), partial)
            partial.replace(file)
        self._files[frame.index] = file
        while len(self._files) > self._most:
            self._thin()

    def _thin(self) -> None:
        self._every *= 2
        file = self.folder / _EVERY
        partial = file.with_suffix(".tmp")
        with disk_errors(file):
            partial.write_text(str(self._every), "ascii")
            partial.replace(file)  # before any frame goes
        self._let_go()

    def _stored_every(self) -> int:
        """One block in how many is kept; 1 before any was let go."""
        try:
            return max(1, int((self.folder / _EVERY).read_text("ascii")))
        except (OSError, ValueError):
            return 1

    def _let_go(self) -> None:
        for index in [i for i in self._files if (i // _BLOCK) % self._every]:
            self._files.pop(index).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Frame]:
        for index in sorted(self._files):
            try:
                yield frames_from_tensors(load_file(self._files[index]))[0]
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                raise DataError(f"{self._files[index]} can't be read again: {error}") from None

    def rewind(self) -> None:
        """Every iteration starts at the first frame."""

    def state(self) -> dict[str, Any]:
        return {"identity": self.identity()}

    def restore(self, state: dict[str, Any]) -> None:
        """There is no cursor: see `rewind`."""

    def identity(self) -> str:
        return f"kept frames of {self.info.source}"

    def remove(self) -> None:
        """Take the files away."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._files = {}


class PassingSource(Source):
    """A source whose frames pass once: what the review wants again is kept in the run meanwhile."""

    _kept: KeptFrames | None = None

    def keep_in(self, run: Path) -> None:
        """To be called by `begin`, as soon as `info` is known."""
        self._kept = KeptFrames(run, self.info)

    def keep(self, frame: Frame) -> None:
        self._kept_frames.add(frame)

    def seen_again(self) -> Capture:
        return self._kept_frames

    def close(self, is_complete: bool) -> None:
        if is_complete and self._kept is not None:
            self._kept.remove()

    @property
    def _kept_frames(self) -> KeptFrames:
        assert self._kept is not None
        return self._kept
