"""A session as a snapshot and back: everything that it needs to go on bit for bit."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from everview.datasets.captures import Frame
from everview.models.state import state_to_tensors
from everview.pipeline.streaming.floors import RunningColour
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    under_prefix,
    with_prefix,
)
from everview.pipeline.streaming.gate.verdicts import Verdict
from everview.pipeline.streaming.pending import Pending
from everview.pipeline.streaming.published import read_state
from everview.pipeline.streaming.retention import RetentionProbe
from everview.pipeline.streaming.sampled import Sampled
from everview.pipeline.streaming.snapshots import Snapshot
from everview.pipeline.streaming.tally import Tally

if TYPE_CHECKING:
    from everview.pipeline.streaming.session import Session


def snapshot_of(session: Session) -> Snapshot:
    """All of a session that has absorbed a chunk."""
    frames = {
        **with_prefix("pending", frames_to_tensors([p.frame for p in session.pending])),
        **with_prefix("probe", frames_to_tensors(session.retention.frames)),
        **with_prefix("previous", frames_to_tensors(_known(session.gate.previous))),
        **with_prefix("written", frames_to_tensors(_known(session.gate.written))),
        **with_prefix("window", session.intake.to_tensors()),
        **with_prefix("segments", session.segments.to_tensors()),
    }
    if session.geometry is not None:
        frames |= with_prefix("fused", session.geometry.to_tensors())
    state, state_facts = state_to_tensors(session.published.state)
    facts: dict[str, Any] = {
        "num_chunks": session.num_chunks,
        "num_frames": session.num_seen,
        "received": session.intake.counts["received"],
        "chunks": session.chunks.to_facts(),
        "flushes": session.files.flushes.done,
        "appended": session.files.marks(),
        "pending": [[p.sequence, asdict(p.verdict)] for p in session.pending],
        "cursor": session.cursor,
        "scale": session.world.scale,
        "weights": {"name": session.weights_name, "fingerprint": session.model.fingerprint},
        "state": state_facts,
        "intake": session.intake.to_facts(),
        "segments": session.segments.snapshot_facts(),
        "gate": session.gate.to_facts(),
        "foresight": session.foresight.to_facts(),
        "geometry": None if session.geometry is None else session.geometry.to_facts(),
        "retention": session.retention.to_facts(),
        "commit": asdict(session.policies.commit),
        "learning": session.learning.to_facts(),
        "colour": session.colour.to_facts(),
        "refused": dict(session.refused),
        "counts": dict(session.counts),
        "waiting_rows": session.files.waiting,
        "absorb_s": session.absorb_s,
        "latencies": session.latencies.to_facts(),
        "chunk_latencies": session.chunk_latencies.to_facts(),
    }
    return Snapshot(state, frames, facts)


def go_on_from(session: Session, snapshot: Snapshot) -> None:
    """Inverse of `snapshot_of`, into a new session. Raises InputRejected for other weights."""
    facts = snapshot.facts
    state = read_state(snapshot, session.model, session.weights_name)
    session.chunks.restore(facts["chunks"])
    session.gauge = state.gauge
    assert session.gauge is not None
    held = under_prefix("segments", snapshot.frames)
    session.segments.restore(facts.get("segments"), held, session.gauge)
    session.publish(state, session.num_chunks)
    session.files.go_on_after(facts["appended"], int(facts["flushes"]))
    session.files.waiting = list(facts["waiting_rows"])
    session.colour = RunningColour.from_facts(facts["colour"])
    session.cursor = facts["cursor"]
    pending = frames_from_tensors(under_prefix("pending", snapshot.frames))
    session.pending = [
        Pending(frame, time.monotonic(), int(number), Verdict(**verdict))
        for frame, (number, verdict) in zip(pending, facts["pending"], strict=True)
    ]
    probe = frames_from_tensors(under_prefix("probe", snapshot.frames))
    session.retention = RetentionProbe.from_facts(facts["retention"], probe)
    last = {
        name: next(iter(frames_from_tensors(under_prefix(name, snapshot.frames))), None)
        for name in ("previous", "written")
    }
    session.gate.restore(facts["gate"], **last)
    session.learning.restore(facts.get("learning"))
    session.intake.restore(facts["intake"], under_prefix("window", snapshot.frames))
    session.foresight.restore(facts["foresight"])
    if session.geometry is not None:
        fused = under_prefix("fused", snapshot.frames)
        session.geometry.restore(facts.get("geometry"), fused)
    session.refused, session.counts = Tally(facts["refused"]), Counter(facts["counts"])
    session.num_seen = int(facts["num_frames"])
    session.absorb_s = facts["absorb_s"]
    session.latencies = Sampled.from_facts(facts["latencies"])
    session.chunk_latencies = Sampled.from_facts(facts["chunk_latencies"])


def _known(frame: Frame | None) -> list[Frame]:
    return [] if frame is None else [frame]
