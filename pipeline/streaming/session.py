"""A session: one live stream, absorbed chunk by chunk, that can be looked into at any time.

    push    a frame joins the pending chunk, if the write gate lets it; a full chunk is predicted,
            scored, and then goes through the model (large-chunk test-time training); the new state
            is published by swapping one reference
    receive the same for whatever arrives: numbered, in any order, twice, or not decodable
    render  reads whatever is published: it may run in another thread, beside `push`
    snapshot / restore  everything needed to go on bit for bit, frames that wait included
    finish  absorbs what waits and what is pending

Chunk boundaries follow from the order of the numbers, the frames' own time stamps and the gate's
verdicts, and are recorded; of what the clock decides (`flushes.py`) the record comes first, and is
followed. The same frames give the same state, killed and resumed or not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.models.captured import answering, writing
from everview.models.gauge import Gauge
from everview.models.scene_model import SceneModel
from everview.models.state import SceneState, state_bytes
from everview.pipeline.errors import InputRejected
from everview.pipeline.posing.posed import PoseFinder
from everview.pipeline.rendering.asked import RenderedView
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.boundaries import Closed
from everview.pipeline.streaming.committing import check_commit, committing
from everview.pipeline.streaming.files import StreamFiles
from everview.pipeline.streaming.floors import RunningColour
from everview.pipeline.streaming.foresight import Foresight, Prediction
from everview.pipeline.streaming.form import at_size_of, changes_of_form
from everview.pipeline.streaming.gate.verdicts import Verdict
from everview.pipeline.streaming.gate.write_gate import WriteGate
from everview.pipeline.streaming.intake import Intake, Turn
from everview.pipeline.streaming.learning import ChunkWrite, Learning
from everview.pipeline.streaming.live_geometry import LiveGeometry
from everview.pipeline.streaming.memory_use import resident_mib
from everview.pipeline.streaming.pending import Pending
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.published import Published, World
from everview.pipeline.streaming.remembered import go_on_from, snapshot_of
from everview.pipeline.streaming.retention import RetentionProbe
from everview.pipeline.streaming.sampled import Sampled
from everview.pipeline.streaming.segments.renderer import SegmentShelf
from everview.pipeline.streaming.segments.walk import SegmentedWalk
from everview.pipeline.streaming.snapshots import Snapshot, commit_snapshot
from everview.pipeline.streaming.tally import Tally
from everview.pipeline.streaming.writing import fitted_gauge, written


class Session:
    """One stream. `push` and `snapshot` belong to one thread; `render` may be called from any."""

    def __init__(
        self,
        model: SceneModel,
        policies: StreamPolicies,
        out: Path,
        world: World | None = None,
        weights_name: str = "unnamed",
        odometer: PoseFinder | None = None,
        geometry: LiveGeometry | None = None,
    ):
        """model: in eval mode, on its device. out: the run directory; rows and snapshots go there.
        world: for the gauge. weights_name: recorded in snapshots. odometer: finds the cameras.
        geometry: what is fused on the way, if anything."""
        self._trained, model = model, committing(model, policies.commit)
        self.model, self.policies, self.out = model, policies, Path(out)
        self.world = world or World()
        self.weights_name = weights_name
        self.intake = Intake(policies.order, self.out, odometer)
        self.gate = WriteGate(policies.gate)
        self.foresight = Foresight(policies.prequential.views)
        self.files = StreamFiles(self.out, self.intake.events)
        self.trajectory, self.chunks = self.files.trajectory, self.files.chunks
        self.colour = RunningColour()
        self.retention = RetentionProbe()
        self.geometry = geometry
        self.learning = Learning(policies, model.config.stack)
        self.refused = Tally()
        self.counts: Counter[str] = Counter()
        self.num_seen = 0
        self.cursor: dict[str, Any] | None = None
        self.gauge: Gauge | None = None
        self.absorb_s = 0.0
        self.latencies, self.chunk_latencies = Sampled(), Sampled()
        self._published: Published | None = None
        self._answer, self._write = answering(model), writing(model)
        self.segments = SegmentedWalk(policies.segments, self.out)
        room = policies.segments.on_device - 1
        self._shelf = SegmentShelf(self.out, model, room, self._answer)
        self.pending: list[Pending] = []
        self._snapshot_at = time.monotonic()
        self._received_at: float | None = None

    # --- taking frames in ---

    def push(
        self, frame: Frame, cursor: dict[str, Any] | None = None, sequence: int | None = None
    ) -> Verdict:
        """Take one frame, already at the model's size; returns what became of it.

        cursor: the capture's state just after this frame, kept for snapshots. sequence: as the
        sender numbered it; else the next number. Absorbs a chunk when a frame completes one. Raises
        DataError when the first chunk has no usable gauge.
        """
        number = self.intake.next_number if sequence is None else sequence
        return self.receive(Arrival(number, frame, time.monotonic(), cursor=cursor or {}))

    def hold_out(
        self, frame: Frame, cursor: dict[str, Any] | None = None, sequence: int | None = None
    ) -> Verdict:
        """Pass over a frame that is kept for comparison: its camera is noted, its image is not."""
        number = self.intake.next_number if sequence is None else sequence
        arrival = Arrival(number, frame, time.monotonic(), cursor=cursor or {})
        return self.receive(arrival, is_held_out=True)

    def receive(self, arrival: Arrival, is_held_out: bool = False) -> Verdict:
        """Take whatever arrived, in any order, as often as it comes; returns what became of it.

        A frame whose turn has not come waits; when it comes, its verdict is in its row. Whatever
        arrives here has its effect once, also across snapshots. Raises DataError as `push` does.
        """
        self.cursor = arrival.cursor or None
        self._received_at = time.monotonic()
        verdict, turns = self.intake.receive(arrival, is_held_out)
        for turn in turns:
            taken = self._take(turn)
            if turn.arrival.sequence == arrival.sequence:
                verdict = taken
        assert verdict is not None
        return verdict

    def finish(self) -> None:
        """Absorb what waits and what is pending, however few frames, and write their rows."""
        for turn in self.intake.drain():
            self._take(turn)
        if self.pending:
            self._absorb("end")
        self.files.write([])
        self.files.close()

    def flush_if_silent(self) -> bool:
        """Absorb what is pending when nothing has come for `boundaries.silence_s`; to be asked now
        and then while nothing comes. Not before all frames have come again that were here before a
        kill: there, the flushes that happened are repeated."""
        limit = self.policies.boundaries.silence_s
        if not limit or self._received_at is None or not self.pending:
            return False
        is_first = self._published is None
        files = self.files
        if not is_first and files.flushes.due_before(self.intake.last_number + 1):
            self._absorb("silence")  # as before the kill, whatever comes next
            return True
        is_behind = files.flushes.is_repeating or len(files.trajectory) < files.seen_before
        if is_first or is_behind or time.monotonic() - self._received_at < limit:
            return False
        files.flushes.record(self.intake.last_number)
        self._absorb("silence")
        return True

    def _take(self, turn: Turn) -> Verdict:
        """An arrival whose turn it is."""
        arrival = turn.arrival
        while self.files.flushes.due_before(arrival.sequence):
            if self.pending:
                self._absorb("silence")
        verdict = self._taken(turn)
        closed = self.policies.boundaries.reached(
            [pending.frame for pending in self.pending],
            self.policies.chunk_frames,
            self.model.config.token_grid,
            None if arrival.frame is None else arrival.frame.time_s,
            is_first=self._published is None,
        )
        if closed is not None:
            self._absorb(closed)
        return verdict

    def _taken(self, turn: Turn) -> Verdict:
        arrival = turn.arrival
        self.num_seen += 1
        if arrival.frame is None:
            self._count(Verdict("rejected", arrival.loss))
            return Verdict("rejected", arrival.problem or arrival.loss)
        if turn.is_held_out and self.gate.unusable(arrival.frame) is None:
            self.counts["held out"] += 1
            self.gate.pass_by(arrival.frame)
            self.trajectory.append(arrival.frame, is_held_out=True)
            return Verdict("held out")
        changes = changes_of_form(self.gate.written, arrival.frame)
        judged = self.gate.judge(arrival.frame, self._predict, arrival.look)
        verdict, frame = judged.verdict, judged.frame
        pending = Pending(frame, arrival.arrived_s, arrival.sequence, verdict)
        self._count(verdict)
        if judged.gave_way:
            self.intake.note("gave way", sequence=arrival.sequence, reason=verdict.reason)
        if not verdict.is_written:
            self.files.add_rejected(pending.row(), is_alone=not self.pending)
            return verdict
        for event, facts in changes:
            self.intake.count(event, sequence=arrival.sequence, **facts)
        frame, closes = at_size_of(
            [p.frame for p in self.pending], frame, self._published is not None
        )
        if closes:
            self._absorb("size")
        pending = replace(pending, frame=frame)
        self.trajectory.append(frame, is_held_out=False)
        self.colour.add(frame)
        self.pending.append(pending)
        return verdict

    def _count(self, verdict: Verdict) -> None:
        self.counts[verdict.kind] += 1
        if not verdict.is_written:
            self.refused.count(verdict.reason)

    def _predict(self, frame: Frame) -> np.ndarray | None:
        """What the memory expects a frame's camera to see; the gate asks when it doubts."""
        if self._published is None:
            return None
        return self.render(frame.camera, frame.time_s).image

    # --- looking in ---

    @property
    def published(self) -> Published:
        """What can be looked into now. Raises InputRejected before the first chunk is absorbed."""
        published = self._published
        if published is None:
            raise InputRejected("nothing can be rendered yet: no chunk of frames was absorbed")
        return published

    @property
    def num_chunks(self) -> int:
        """Chunks absorbed."""
        return self.chunks.count

    def render(self, camera: Camera, time_s: float | None = None) -> RenderedView:
        """The scene from `camera` (sides multiples of the patch) at `time_s`, as of now."""
        return next(iter(self.published.renderer.render([camera], [time_s])))

    def account(self) -> dict[str, int]:
        """What became of everything that arrived: received; duplicate, late, gaps, missing,
        unreadable, dropped; held out, accepted, rectified, rejected."""
        return {**self.intake.counts, **self.counts}

    @property
    def latencies_ms(self) -> list[float]:
        """From arrival to absorbed, of frames evenly taken from the whole stream."""
        return self.latencies.values

    def state_mib(self) -> float:
        """Size of everything the state holds."""
        return 0.0 if self._published is None else state_bytes(self._published.state) / 2**20

    # --- one chunk ---

    def _absorb(self, closed: Closed) -> None:
        chunk = [pending.frame for pending in self.pending]
        probe_begin = time.monotonic()
        prediction = Prediction()
        if self._published is not None:
            prediction = self.foresight.ask(chunk, self._published.renderer)
        begin = time.monotonic()
        state_verdict = self._observe(chunk, prediction)
        done = time.monotonic()
        foreseen = prediction.scores
        self.foresight.learn(foreseen.values())
        self.absorb_s += done - begin
        number = self.num_chunks
        facts = {"chunk": number, "state_mib": self.state_mib(), "rss_mib": resident_mib()}
        facts |= {"absorb_ms": 1e3 * (done - begin), **self.learning.last.row()}
        self.chunk_latencies.add(facts["absorb_ms"])
        rows = []
        for place, pending in enumerate(self.pending):
            # the probe before the update is a measurement, not part of what a user waits for
            latency = 1e3 * (done - pending.arrived - (begin - probe_begin))
            self.latencies.add(latency)
            if not state_verdict.is_written:
                pending = replace(pending, verdict=state_verdict)
            row = pending.row(latency_ms=latency, **facts)
            if place in foreseen:
                row["residual"] = foreseen[place].picture_db
                row["memory_residual"] = foreseen[place].memory_db
            rows.append(row)
        self.pending = []
        self.files.write(rows)
        kept = None
        if self._published is not None:
            if self._published.atlas.current.chunks[0] == number and self.policies.retention_views:
                views = self.policies.retention_views
                self.retention = self.retention.next_segment(chunk, views)
            kept = self.retention.measure(self._published.current)
        self.chunks.add(len(chunk), closed, retention_psnr=kept)
        if self.geometry is not None and state_verdict.is_written:
            self.geometry.learn(
                chunk,
                {place: seen.view for place, seen in foreseen.items()},
                self.published.renderer,
                float(1 / self.gauge.scale[0]),
            )

    def _observe(self, chunk: Sequence[Frame], foreseen: Prediction) -> Verdict:
        """The chunk through the model; publishes the new state unless the gate refuses it."""
        number, before = self.num_chunks, self._published
        ending = self.segments.ends(chunk)
        gauge, seam = None, []
        if before is None or ending is not None:
            state = self.model.init_state(1)
            gauge, seam = self._fit_gauge(chunk), self.segments.seam()
        else:
            state = before.state
        for frames in seam:
            first = gauge if state.gauge is None else None
            state = written(self.model, self._write, frames, state, first)
        # a memory that begins here has nothing to be surprised by, and no frames to replay
        continued = None if gauge is not None else state
        plan = self.learning.plan(chunk, foreseen, continued, self.retention.drift_db)
        first = gauge if state.gauge is None else None
        state = written(self.model, self._write, chunk, state, first, plan)
        verdict = self.gate.judge_state(state)
        if verdict.is_written:
            if gauge is not None:
                self.segments.begin(gauge, number, None if before is None else before.state)
                self.gauge = gauge
            if ending is not None:
                replayed = sum(map(len, seam))
                self.intake.count("segment", chunk=number, replayed=replayed, **ending)
            self.segments.wrote(chunk, number)
            self.publish(state, number + 1)
            self._note_replay(plan, len(chunk))
        else:
            for pending in self.pending:
                self.counts[pending.verdict.kind] -= 1
                self._count(verdict)
        return verdict

    def _note_replay(self, plan: ChunkWrite, frames: int) -> None:
        self.learning.wrote(plan, frames)
        if plan.replayed:
            replayed = {"frames": len(plan.replayed), "times_s": plan.times_s}
            self.intake.note("replayed", chunk=self.num_chunks, **replayed)

    def publish(self, state: SceneState, num_chunks: int) -> None:
        """From now on this is what is looked into, after so many chunks."""
        atlas = self.segments.atlas
        assert atlas is not None
        self._published = Published(self.model, state, num_chunks, self._answer, atlas, self._shelf)

    def _fit_gauge(self, chunk: Sequence[Frame]) -> Gauge:
        finder, world = self.intake.odometer, self.world
        if finder is not None:
            world = replace(world, points_world=finder.points_world())
        return fitted_gauge(chunk, world, self.gauge)

    # --- snapshots ---

    def snapshot_if_due(self) -> bool:
        """Snapshot when `snapshot_every_s` has passed and a chunk has been absorbed."""
        if time.monotonic() - self._snapshot_at < self.policies.snapshot_every_s:
            return False
        return self.snapshot() is not None

    def snapshot(self) -> Path | None:
        """Commit everything; returns the commit's directory, None before the first chunk (there
        is nothing yet that reading the capture again would not give)."""
        if self._published is None:
            return None
        made = commit_snapshot(self.out, snapshot_of(self))
        if self.geometry is not None:
            self.geometry.show(self.out)
        self._snapshot_at = time.monotonic()
        return made

    def start_over(self) -> None:
        """Remove what an attempt without a snapshot left: its frames come again."""
        self.files.start_over()
        self.segments.start_over()

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot. Raises InputRejected when other weights wrote it."""
        check_commit(snapshot.facts, self.policies.commit, self._trained)
        go_on_from(self, snapshot)
        self._received_at = time.monotonic()
