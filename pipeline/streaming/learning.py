"""How a session writes its next chunk: the policies that decide it, together.

They are asked once a chunk, after it was predicted and before it is written, and answer with what
`SceneModel.observe` is given beside the frames. All they remember goes into snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from everview.datasets.captures import Frame
from everview.models.state import SceneState
from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.foresight import Prediction
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.replay import Replayed
from everview.pipeline.streaming.surprise import Surprised


@dataclass(frozen=True)
class ChunkWrite:
    """How a chunk is written. factor: on its step. replayed: places in the bank of frames that are
    written again with it; times_s: their time stamps, None where unknown."""

    factor: float = 1.0
    surprise_db: float | None = None
    replayed: tuple[int, ...] = ()
    times_s: tuple[float | None, ...] = ()

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """For `observe`; nothing where the chunk is written as ever."""
        given: dict[str, Any] = {}
        if self.factor != 1.0:
            given["gate_B"] = torch.tensor([self.factor], device=device)
        if self.replayed:
            given["replayed_BR"] = torch.tensor([self.replayed], device=device)
        return given

    def row(self) -> dict[str, Any]:
        """Columns of frames.parquet, of the chunk's frames."""
        return {
            "surprise": self.surprise_db,
            "step_factor": self.factor,
            "replayed": len(self.replayed),
        }


PLAIN = ChunkWrite()


@dataclass
class Learning:
    """One stream's: see the module. stack: of the model that is written. last: how the last chunk
    was written. Raises UsageError for policies that the stack can't follow."""

    policies: StreamPolicies
    stack: str
    last: ChunkWrite = PLAIN
    surprised: Surprised = field(init=False)
    replayed: Replayed = field(init=False)

    def __post_init__(self) -> None:
        if self.policies.replay.frames and "S" in self.stack:
            raise UsageError(
                f"replay of {self.policies.replay.frames} frames with a stack {self.stack}: its "
                "window over time (S) would take what is replayed for the last frames"
            )
        self.surprised = Surprised(self.policies.surprise)
        self.replayed = Replayed(self.policies.replay)

    def plan(
        self,
        chunk: Sequence[Frame],
        foreseen: Prediction,
        state: SceneState | None,
        drift_db: float | None,
    ) -> ChunkWrite:
        """The next chunk's. foreseen: what was predicted of it; state: as it is before it, None
        where a memory begins; drift_db: what retention has lost so far, if known."""
        self.last = PLAIN
        if state is not None:
            factor, surprise = 1.0, None
            if self.policies.surprise.is_on:
                factor = self.surprised.learn(foreseen.scores.values())
                surprise = self.surprised.surprise_db
            height, width = chunk[0].image.shape[:2]
            places = self.replayed.choose(state.bank, (width, height), drift_db)
            self.last = ChunkWrite(factor, surprise, tuple(places), _times(state, places))
        return self.last

    def wrote(self, plan: ChunkWrite, frames: int) -> None:
        """A chunk of so many frames is in the published state."""
        self.replayed.wrote(len(plan.replayed), frames)

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot."""
        return {"surprise": self.surprised.to_facts(), "replay": self.replayed.to_facts()}

    def restore(self, facts: Mapping[str, Any] | None) -> None:
        """Inverse of `to_facts`; None from a snapshot that is older than these policies."""
        if facts is not None:
            self.surprised.restore(facts["surprise"])
            self.replayed.restore(facts["replay"])

    def told(self) -> dict[str, Any]:
        """What the policies that are on have done, for run.json and metrics.json."""
        done = {}
        if self.policies.surprise.is_on:
            done["surprise"] = self.surprised.to_facts()
        if self.policies.replay.frames:
            done["replay"] = self.replayed.to_facts()
        return done


def _times(state: SceneState, places: Sequence[int]) -> tuple[float | None, ...]:
    """Time stamps of frames of the bank."""
    if not places or state.bank is None:
        return ()
    origin = float(state.clock.origin_s[0])
    times = [origin + float(state.bank.time_s[0, place]) for place in places]
    return tuple(None if time != time else round(time, 3) for time in times)
