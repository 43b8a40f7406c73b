"""`everview stream CAPTURE --out DIR`: a capture goes in, a run directory comes out.

The same command again continues an unfinished run from its last snapshot, bit for bit. Ctrl-C once
ends the stream early and exports what there is; the run stays unfinished and can be continued.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everview.datasets.errors import DataError
from everview.kernels.backend import backends_in_use
from everview.models.config import config_to_dict
from everview.models.scene_model import SceneModel
from everview.models.weight_files import weights_hash
from everview.pipeline.evaluation.table import as_text, score_table
from everview.pipeline.posing.figures import as_sentence
from everview.pipeline.report import write_report
from everview.pipeline.runs import RunDirectory, describe_device, peak_rss_mib, write_frames
from everview.pipeline.runs.frames import FILE_NAME as FRAMES_NAME
from everview.pipeline.runs.frames import JOURNAL_NAME, frame_rows
from everview.pipeline.runs.metrics import IMAGE_KEYS
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.camera_files import write_cameras
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.feeder import Feeder, QueueCounts
from everview.pipeline.streaming.geometry_review import as_sentence as mesh_sentence
from everview.pipeline.streaming.interrupts import TERMINATED, Interrupts
from everview.pipeline.streaming.outputs import Exported, export_stream, live_geometry
from everview.pipeline.streaming.posing import (
    check_poses,
    conventions_of,
    open_finder,
    seen_again,
    streamed_info,
    with_trajectory,
)
from everview.pipeline.streaming.preparing import is_held_out, prepared
from everview.pipeline.streaming.progress import Progress, Silent
from everview.pipeline.streaming.scenes import open_model
from everview.pipeline.streaming.segments.atlas import gauge_facts
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.sources.captured import CapturedSource
from everview.pipeline.streaming.sources.opening import open_source
from everview.pipeline.streaming.sources.source import Source


@dataclass(frozen=True)
class StreamResult:
    """run: the directory. metrics: what metrics.json holds. exit_status: 0, or 130 after Ctrl-C.

    table: the held-out frames beside the floors, for people; empty when nothing was held out.
    """

    run: Path
    metrics: Mapping[str, Any]
    exit_status: int
    table: str


Beside = Callable[[Session], AbstractContextManager[object]]


def nobody(session: Session) -> AbstractContextManager[object]:
    """Nothing goes on beside the session."""
    return nullcontext()


def stream_capture(
    config: StreamConfig,
    out: Path,
    *,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
    beside: Beside = nobody,
) -> StreamResult:
    """Do the whole job. Raises DataError for a capture that can't be streamed, InputRejected for
    weights or snapshots, UsageError for an `out` that holds something else, SystemExit(143) after
    SIGTERM (a snapshot was taken). beside: what lasts as long as the session, a live view say."""
    return stream_source(
        open_source(config),
        config,
        out,
        fresh=fresh,
        command=command,
        progress=progress,
        beside=beside,
    )


def stream_source(
    source: Source,
    config: StreamConfig,
    out: Path,
    *,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
    beside: Beside = nobody,
) -> StreamResult:
    """`stream_capture` of a source that a program made, an `IteratedSource` for instance.

    `config.capture` is not opened; `source.info` names it in the results.
    """
    progress = progress or Silent()
    if isinstance(source, CapturedSource):
        check_poses(source, config)
    model = open_model(config.weights, config.device)
    with RunDirectory.open(out, "stream", config, command, fresh) as run:
        is_complete = False
        try:
            with run.timed("wait"):
                source.begin(run.path, progress.say)
            check_poses(source, config)
            if (checked := conventions_of(source, config)) is not None:
                run.note(conventions=asdict(checked))
                if checked.warning is not None:
                    progress.say(f"warning: {checked.warning}")
            session = _open_session(run, model, source, config, progress)
            with (
                beside(session),
                Interrupts(
                    lambda: progress.say("finishing with what was seen; Ctrl-C again stops at once")
                ) as interrupts,
            ):
                with run.timed("stream"):
                    was_cut, counts = _read(session, source, config, interrupts, progress)
                interrupts.all_is_kept()
                _note_stream(run, session, source, counts)
                with run.timed("export"):
                    again = seen_again(source, session)
                    exported = export_stream(session, again, config, run.path, progress)
                exported = with_trajectory(exported, source, session)
                metrics = _write_results(run, session, exported, source.info.source, counts)
                with run.timed("report"):
                    write_report(run.path)
            status = 130 if was_cut else 0
            if status == 0:
                is_complete = True
                (run.path / JOURNAL_NAME).unlink(missing_ok=True)
        finally:
            source.close(is_complete)
        run.finish(status)
    return StreamResult(run.path, metrics, status, _table(config, metrics))


def _open_session(
    run: RunDirectory, model: SceneModel, source: Source, config: StreamConfig, progress: Progress
) -> Session:
    """A new session, or the one that the run's last snapshot holds."""
    info = streamed_info(source, config)
    world = World(info.scale, info.points_world)
    odometer = open_finder(info, config, model.device)
    geometry = live_geometry(config, info.has_depth, model.config.patch)
    session = Session(model, config.policies, run.path, world, config.weights, odometer, geometry)
    run.note(
        device=describe_device(model.device),
        backends=backends_in_use(model.device),
        input={
            "source": info.source,
            "format": info.format,
            "scale": info.scale,
            "identity": source.identity(),
            "notes": info.notes,
        },
        weights={
            "name": config.weights,
            "hash": weights_hash(config.weights),
            "fingerprint": session.model.fingerprint,
        },
    )
    snapshot, journal = load_snapshot(run.path), run.path / JOURNAL_NAME
    if snapshot is None:
        session.start_over()
        return session
    if journal.exists():
        # the journal is removed last, so a table beside it is of an interrupted attempt
        (run.path / FRAMES_NAME).unlink(missing_ok=True)
    for complaint in snapshot.set_aside:
        progress.say(f"set aside: {complaint}")
    session.restore(snapshot)
    source.resume(snapshot.facts["cursor"])
    progress.say(f"continuing after {session.num_seen} frames, chunk {session.num_chunks}")
    return session


def _read(
    session: Session,
    source: Source,
    config: StreamConfig,
    interrupts: Interrupts,
    progress: Progress,
) -> tuple[bool, QueueCounts]:
    """Take everything that arrives; snapshot now and then, and at the end.

    Returns whether Ctrl-C ended the stream early, and what went through the queue.
    """
    patch = session.model.config.patch
    total = source.info.num_frames
    limit = config.max_frames
    if limit is not None:
        total = limit if total is None else min(total, limit)

    def is_over() -> bool:
        # a run stopped during its exports comes back here with nothing left to read
        return interrupts.should_stop or (limit is not None and session.num_seen >= limit)

    with Feeder(
        source, lambda frame: prepared(frame, config.size, patch), config.queue_frames
    ) as feeder:
        for arrival in feeder.arrivals(is_over, session.flush_if_silent):
            source.took(arrival, _take(session, source, arrival, config))
            progress.step("stream", session.num_seen, total)
            if session.snapshot_if_due():
                source.saved(session.cursor)
        counts = feeder.counts()
    was_cut = interrupts.is_requested
    if interrupts.should_stop:
        # with the frames still pending, so that the same command goes on as if never stopped
        session.snapshot()
    if interrupts.is_terminated:
        raise SystemExit(TERMINATED)
    session.finish()
    if not session.num_chunks or session.gauge is None:
        reasons = ", ".join(f"{count} {why}" for why, count in session.refused.items())
        raise DataError(
            f"{source.info.source}: no frame could be observed ({reasons or 'none was left'}); "
            "give more frames or a smaller --hold-out"
        )
    if not was_cut and session.snapshot() is not None and session.cursor is not None:
        source.saved(session.cursor)
    return was_cut, counts


def _take(session: Session, source: Source, arrival: Arrival, config: StreamConfig) -> str:
    """An arrival into the session; returns what became of it."""
    frame = arrival.frame
    is_compared = frame is not None and is_held_out(frame, config.hold_out)
    effect = str(session.receive(arrival, is_compared))
    is_posed = session.intake.odometer is not None
    is_first = effect not in ("duplicate", "late")  # only a number's first frame had an effect
    if frame is not None and is_first and (is_posed or frame.camera is not None):
        source.keep(frame)
    return effect


def _note_stream(run: RunDirectory, session: Session, source: Source, counts: QueueCounts) -> None:
    atlas = session.published.atlas
    run.note(
        gauge=gauge_facts(atlas.segments[0].gauge),
        segments=session.segments.to_facts(),
        stream={
            "frames": len(session.trajectory),
            "chunks": session.chunks.to_facts(),
            "refused": dict(session.refused),
            "counts": session.account(),
            "skipped": [{"name": skip.name, "reason": skip.reason} for skip in source.skipped],
            "queue": asdict(counts),
            "commit": {
                "step": config_to_dict(session.model.config.step),
                "elastic": config_to_dict(session.model.config.elastic),
            },
            "learning": session.learning.told(),
        },
    )
    write_cameras(run.path, session.trajectory, session.world.scale)


def _write_results(
    run: RunDirectory, session: Session, exported: Exported, source: str, counts: QueueCounts
) -> dict[str, Any]:
    """metrics.json and frames.parquet."""
    absorbed = session.chunks.frames
    half_life, why = session.retention.half_life()
    missing = dict(exported.missing)
    if half_life is None:
        missing["retention_half_life_chunks"] = why
    details = exported.values["details"] | {
        "retention_psnr": session.retention.curve.values,
        "retention_stride": session.retention.curve.stride,
        "chunks": session.num_chunks,
        "frames_observed": absorbed,
        "frames_refused": dict(session.refused),
        "counts": session.account(),
        "prequential": session.foresight.to_facts(),
        "segments": session.segments.to_facts(),
        "chunk_ms_p50": session.chunk_latencies.percentile(50),
        "chunk_ms_p95": session.chunk_latencies.percentile(95),
        "queue": asdict(counts),
        "learning": session.learning.told(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    values = exported.values | {
        "frames_per_s": absorbed / max(session.absorb_s, 1e-9),
        "latency_ms_p50": session.latencies.percentile(50),
        "latency_ms_p95": session.latencies.percentile(95),
        "peak_rss_mib": peak_rss_mib(),
        "state_mib": session.state_mib(),
        "retention_half_life_chunks": half_life,
        "details": details,
        "scenes": [
            {"scene": source} | {k: exported.values.get(k) for k in (*IMAGE_KEYS, "floors")}
        ],
    }
    # an earlier attempt may have got as far as writing the comparison's rows
    observed = (row for row in frame_rows(run.path) if row["role"] == "input")
    compared = sorted(exported.rows, key=lambda row: row["id"])
    write_frames(run.path, heapq.merge(observed, compared, key=lambda row: row["id"]))
    return run.write_metrics(values, missing)


def _table(config: StreamConfig, metrics: Mapping[str, Any]) -> str:
    told = metrics.get("trajectory")
    found = [] if told is None else [as_sentence(told)]
    geometry = metrics["details"].get("geometry") or {}
    if (distance := geometry.get("to_sensor")) is not None:
        found.append(mesh_sentence(distance))
    count = metrics["details"]["held_out_frames"]
    if not count:
        return "\n".join(found)
    name = Path(str(metrics["scenes"][0]["scene"]).partition("?")[0]).name
    title = f"{name}: {count} held-out frames, short side {config.size}, weights {config.weights}"
    return "\n".join([as_text([score_table(metrics, title)]), *found])
