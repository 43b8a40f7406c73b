"""What a page looks into: a run that has been streamed, or a session that streams now.

Both answer the same questions, from the page's threads, in bounded time and memory however long the
stream is; nothing here waits for a session or makes it wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from everview.models.captured import answering
from everview.pipeline.errors import InputRejected
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.rendering.survey import Survey, survey
from everview.pipeline.runs import read_frames, read_metrics, read_run
from everview.pipeline.streaming.published import Published
from everview.pipeline.streaming.sampled import Sampled
from everview.pipeline.streaming.scenes import StreamedScene, open_scene
from everview.pipeline.streaming.session import Session
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.trajectory import SeenCamera, Trajectory
from everview.pipeline.viewing.history import History, JournalTail

MOST_CAMERAS = 128  # drawn as frusta; more would hide the scene
_MOST_ROWS = 1_000_000


@dataclass(frozen=True, eq=False)
class Covered:
    """Where and when a stream has been. cameras: evenly taken, the last among them. times_s: the
    first and the last moment, None where frames have no time."""

    cameras: tuple[SeenCamera, ...]
    times_s: tuple[float, float] | None
    num_frames: int

    @staticmethod
    def of(trajectory: Trajectory) -> Covered:
        return Covered(
            tuple(trajectory.evenly(MOST_CAMERAS)), trajectory.covered_s(), len(trajectory)
        )


class Viewable(Protocol):
    """A scene that can be looked into. `version` changes whenever its memory has."""

    run: Path
    is_live: bool
    short_side: int
    history: History

    @property
    def version(self) -> int: ...
    def renderer(self) -> Renderer | None: ...
    def covered(self) -> Covered: ...
    def layout(self) -> Survey | None: ...
    def patch(self) -> int: ...
    def counts(self) -> dict[str, int]: ...
    def retention(self) -> Sampled: ...
    def advance(self) -> None: ...


class RunScene:
    """A run of `everview stream`, finished or interrupted, as its last snapshot has it."""

    is_live = False
    version = 1

    def __init__(self, run: Path, weights: str | None = None, device: str = "auto"):
        """Raises InputRejected for a directory without a usable snapshot."""
        self.run = run
        self._scene: StreamedScene = open_scene(run, weights, device)
        self.short_side = self._scene.short_side
        self._renderer = self._scene.renderer()
        self._covered = Covered.of(self._scene.trajectory)
        self.history = History()
        self.history.add(read_frames(run, _MOST_ROWS))
        self._record: dict[str, Any] = read_run(run) or {}
        self._retention = _retention_of(run)  # asked for twice a second, and it changes no more

    def renderer(self) -> Renderer:
        """Of the snapshot's state."""
        return self._renderer

    def covered(self) -> Covered:
        """All that the run has seen."""
        return self._covered

    def layout(self) -> Survey:
        """The survey of its cameras."""
        return self._scene.layout()

    def patch(self) -> int:
        """Pixels of a patch's side."""
        return self._scene.model.config.patch

    def counts(self) -> dict[str, int]:
        """What became of all that arrived; of an interrupted run, of the frames it has rows of."""
        noted = self._record.get("stream")
        counts = noted.get("counts") if isinstance(noted, dict) else None
        if not isinstance(counts, dict):
            return dict(self.history.gate)
        return {str(key): int(value) for key, value in counts.items() if isinstance(value, int)}

    def retention(self) -> Sampled:
        """PSNR of the first chunk after each chunk, dB."""
        return self._retention

    def advance(self) -> None:
        """Nothing happens to it any more."""


class LiveScene:
    """A session that streams in another thread; whatever is published is looked into."""

    is_live = True

    def __init__(self, session: Session, short_side: int):
        """short_side: of the frames that are observed, pixels."""
        self.run, self.short_side = session.out, short_side
        self.history = History()
        self._session = session
        self._tail = JournalTail(session.out)
        # forms recorded for a visitor's window must not push out those the session uses
        self._answer = answering(session.model)
        self._made: tuple[Published, Renderer] | None = None

    @property
    def version(self) -> int:
        """Chunks absorbed."""
        return self._session.num_chunks

    def renderer(self) -> Renderer | None:
        """Of what is published now; None before the first chunk. Called by one thread."""
        try:
            published = self._session.published
        except InputRejected:
            return None
        if self._made is None or self._made[0] is not published:
            self._made = (published, published.renderer.answered_by(self._answer))
        return self._made[1]

    def covered(self) -> Covered:
        """All that the session has seen."""
        return Covered.of(self._session.trajectory)

    def layout(self) -> Survey | None:
        """The survey of evenly taken cameras so far; None before the first chunk."""
        gauge = self._session.gauge
        seen = self._session.trajectory.evenly(MOST_CAMERAS)
        if gauge is None or not seen:
            return None
        cameras = [each.camera for each in seen]
        return survey(cameras, [each.time_s for each in seen], float(1 / gauge.scale[0]))

    def patch(self) -> int:
        """Pixels of a patch's side."""
        return self._session.model.config.patch

    def counts(self) -> dict[str, int]:
        """What became of all that arrived."""
        return self._session.account()

    def retention(self) -> Sampled:
        """PSNR of the first chunk after each chunk so far, dB."""
        return self._session.retention.curve

    def advance(self) -> None:
        """Read the rows that were written since the last time."""
        rows, began_anew = self._tail.new_rows()
        if began_anew:
            self.history = History()
        self.history.add(rows)


def _retention_of(run: Path) -> Sampled:
    """From the run's metrics, or from its snapshot where it has none yet."""
    try:
        details = (read_metrics(run) or {}).get("details")
        if isinstance(details, dict) and isinstance(values := details.get("retention_psnr"), list):
            known = [float(value) for value in values if isinstance(value, int | float)]
            return Sampled(known, int(details.get("retention_stride") or 1), len(known))
        snapshot = load_snapshot(run)
        return (
            Sampled()
            if snapshot is None
            else Sampled.from_facts(snapshot.facts["retention"]["curve"])
        )
    except InputRejected:
        return Sampled()
