"""A frame on its way into a chunk, and what is written down of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from everview.datasets.captures import Frame
from everview.pipeline.streaming.gate.verdicts import Verdict


@dataclass(frozen=True, eq=False)
class Pending:
    """frame: as it is written. arrived: seconds of `time.monotonic()`. sequence: the sender's."""

    frame: Frame
    arrived: float
    sequence: int
    verdict: Verdict

    def row(self, **values: Any) -> dict[str, Any]:
        """A row of frames.parquet, with what else is known."""
        frame, verdict = self.frame, self.verdict
        return {
            "id": frame.index, "name": frame.name, "role": "input", "time_s": frame.time_s,
            "sequence": self.sequence, "gate": verdict.kind,
            "gate_reason": verdict.reason or None, "gate_measured": verdict.measured, **values,
        }  # fmt: skip
