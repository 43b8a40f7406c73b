"""`chunks.jsonl`: where chunks end, and why; written down as they are absorbed.

    {"chunk": 0, "frames": 8, "closed": "full", "retention_psnr": 24.1}

Boundaries are data: with the frames in order they repeat the run. Only counts are kept in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everview.pipeline.runs.appended import AppendedFile

FILE_NAME = "chunks.jsonl"


class ChunkLog(AppendedFile):
    """One stream's. count: chunks absorbed; frames: in them; closed: how many, by the reason."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE_NAME)
        self.count = self.frames = 0
        self.closed: Counter[str] = Counter()

    def add(self, frames: int, closed: str, **values: Any) -> None:
        """A chunk of so many frames was absorbed. closed: why it ended, in a word."""
        row = {"chunk": self.count, "frames": frames, "closed": closed, **values}
        self.append((json.dumps(row, allow_nan=False) + "\n").encode())
        self.count, self.frames = self.count + 1, self.frames + frames
        self.closed[closed] += 1

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot and for run.json."""
        return {"count": self.count, "frames": self.frames, "closed": dict(self.closed)}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Inverse of `to_facts`; the file goes on after its own mark."""
        self.count, self.frames = int(facts["count"]), int(facts["frames"])
        self.closed = Counter(facts["closed"])


def read_chunks(folder: Path) -> list[dict[str, Any]]:
    """The chunks of a run, in order; none where there is no such file."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
