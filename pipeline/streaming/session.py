"""A session: one live stream, absorbed chunk by chunk, that can be looked into at any time.

    push    a frame joins the pending chunk; a full chunk goes through the model (large-chunk
            test-time training) and the new state is published by swapping one reference
    render  reads whatever is published: it may run in another thread, beside `push`
    snapshot / restore  everything needed to go on bit for bit, pending frames included
    finish  absorbs what is pending

Chunk boundaries follow from the count of accepted frames alone, never from arrival times, and are
recorded: the same frames give the same state, killed and resumed or not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Camera, Cameras
from everview.datasets.captures import Frame, Scale
from everview.datasets.errors import DataError
from everview.models.captured import Answer, answering, writing
from everview.models.gauge import Gauge, GaugeError, fit_gauge
from everview.models.scene_model import SceneModel
from everview.models.state import (
    SceneState,
    StateError,
    state_bytes,
    state_from_tensors,
    state_to_tensors,
    to_device,
)
from everview.pipeline.errors import InputRejected
from everview.pipeline.rendering.renderer import (
    RenderedView,
    SceneRenderer,
    image_tensor,
    time_tensor,
)
from everview.pipeline.runs import FrameLog
from everview.pipeline.streaming.floors import RunningColour
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    stacked_depth,
    under_prefix,
    with_prefix,
)
from everview.pipeline.streaming.memory_use import resident_mib
from everview.pipeline.streaming.policies import ACCEPTED, StreamPolicies
from everview.pipeline.streaming.retention import RetentionProbe, image_psnr
from everview.pipeline.streaming.snapshots import Snapshot, commit_snapshot
from everview.pipeline.streaming.trajectory import Trajectory
from everview.pipeline.training.precision import mixed_precision


@dataclass(frozen=True)
class World:
    """What is known of the capture's world before its first frame, for the gauge.

    scale: its unit. points_world: sparse points float32 [N, 3], if the source has any.
    """

    scale: Scale = "up_to_scale"
    points_world: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Published:
    """A state that readers may use while the next chunk is absorbed. Never changes."""

    model: SceneModel
    state: SceneState
    num_chunks: int
    answer: Answer

    @cached_property
    def renderer(self) -> SceneRenderer:
        """Frozen when first looked at; two threads that come together freeze twice, harmlessly."""
        return SceneRenderer(self.model, self.state, self.answer)


@dataclass(frozen=True, eq=False)
class _Pending:
    frame: Frame
    arrived: float


class Session:
    """One stream. `push` and `snapshot` belong to one thread; `render` may be called from any."""

    def __init__(
        self,
        model: SceneModel,
        policies: StreamPolicies,
        out: Path,
        world: World | None = None,
        weights_name: str = "unnamed",
    ):
        """model: in eval mode, on its device. out: the run directory; rows and snapshots go there.
        world: for the gauge. weights_name: recorded in snapshots beside the fingerprint."""
        self.model, self.policies, self.out = model, policies, Path(out)
        self.world = world or World()
        self.weights_name = weights_name
        self.trajectory = Trajectory()
        self.colour = RunningColour()
        self.retention = RetentionProbe()
        self.chunk_sizes: list[int] = []
        self.refused: Counter[str] = Counter()
        self.num_seen = 0
        self.cursor: dict[str, Any] | None = None
        self.gauge: Gauge | None = None
        self.absorb_s = 0.0
        self.latencies_ms: list[float] = []
        self._published: Published | None = None
        self._answer, self._write = answering(model), writing(model)
        self._pending: list[_Pending] = []
        self._waiting_rows: list[dict[str, Any]] = []
        self._previous: Frame | None = None
        self._last_row = -1
        self._log = FrameLog(self.out)
        self._snapshot_at = time.monotonic()

    # --- taking frames in ---

    def push(self, frame: Frame, cursor: dict[str, Any] | None = None) -> str:
        """Take one frame, already at the model's size; returns the gate's verdict on it.

        cursor: the capture's state just after this frame, kept for snapshots. Absorbs a chunk when
        this frame completes one. Raises DataError when the first chunk has no usable gauge.
        """
        size = None
        if self._previous is not None:
            size = (self._previous.image.shape[1], self._previous.image.shape[0])
        verdict = self.policies.gate.judge_frame(frame, size, self._previous)
        self.cursor = cursor
        self.num_seen += 1
        if verdict != ACCEPTED:
            self.refused[verdict] += 1
            self._waiting_rows.append(_row(frame, gate=verdict))
            return verdict
        self._previous = frame
        self.trajectory.append(frame, is_held_out=False)
        self.colour.add(frame)
        self._pending.append(_Pending(frame, time.monotonic()))
        if len(self._pending) == self.policies.chunk_frames:
            self._absorb()
        return verdict

    def hold_out(self, frame: Frame, cursor: dict[str, Any] | None = None) -> None:
        """Pass over a frame that is kept for comparison: its camera is noted, its image is not."""
        self.cursor = cursor
        self.num_seen += 1
        if frame.camera is not None:
            self.trajectory.append(frame, is_held_out=True)

    def finish(self) -> None:
        """Absorb what is pending, however few frames, and write their rows."""
        if self._pending:
            self._absorb()
        self._flush_rows([])
        self._log.close()

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
        return len(self.chunk_sizes)

    def render(self, camera: Camera, time_s: float | None = None) -> RenderedView:
        """The scene from `camera` (sides multiples of the patch) at `time_s`, as of now."""
        return next(iter(self.published.renderer.render([camera], [time_s])))

    def state_mib(self) -> float:
        """Size of everything the state holds."""
        return 0.0 if self._published is None else state_bytes(self._published.state) / 2**20

    # --- one chunk ---

    def _absorb(self) -> None:
        chunk = [pending.frame for pending in self._pending]
        probe_begin = time.monotonic()
        residual = self._prequential_psnr(chunk)
        begin = time.monotonic()
        verdict = self._observe(chunk)
        done = time.monotonic()
        self.absorb_s += done - begin
        number = len(self.chunk_sizes)
        self.chunk_sizes.append(len(chunk))
        facts = {"gate": verdict, "chunk": number, "state_mib": self.state_mib()}
        facts["rss_mib"] = resident_mib()
        rows = []
        for place, pending in enumerate(self._pending):
            # the probe before the update is a measurement, not part of what a user waits for
            latency = 1e3 * (done - pending.arrived - (begin - probe_begin))
            self.latencies_ms.append(latency)
            row = _row(pending.frame, latency_ms=latency, **facts)
            rows.append(row | {"residual": residual if place == 0 else None})
        self._pending = []
        self._flush_rows(rows)
        if number == 0 and self.policies.retention_views:
            self.retention = RetentionProbe.choose(chunk, self.policies.retention_views)
        self.retention.measure(self._draw_from_memory)

    def _observe(self, chunk: Sequence[Frame]) -> str:
        """The chunk through the model; publishes the new state unless the gate refuses it."""
        device = self.model.device
        cameras = Cameras.stack([frame.camera for frame in chunk])
        images = image_tensor([frame.image for frame in chunk], device)
        times = time_tensor([frame.time_s for frame in chunk], device)
        fitted: dict[str, Any] = {}
        if self._published is None:
            state = self.model.init_state(1)
            self.gauge = self._fit_gauge(cameras, chunk)
            fitted["gauge"] = self.gauge.to(device)
        else:
            state = self._published.state
        with torch.no_grad(), mixed_precision(device):
            placed = cameras[None].to(device=device)
            state = self.model.observe(images, placed, times, state, **fitted, write=self._write)
        verdict = self.policies.gate.judge_state(state_to_tensors(state)[0])
        if verdict == ACCEPTED:
            self._publish(state, len(self.chunk_sizes) + 1)
        else:
            self.refused[verdict] += len(chunk)
        return verdict

    def _publish(self, state: SceneState, num_chunks: int) -> None:
        self._published = Published(self.model, state, num_chunks, self._answer)

    def _fit_gauge(self, cameras: Cameras, chunk: Sequence[Frame]) -> Gauge:
        depth = stacked_depth(chunk)
        points = self.world.points_world
        try:
            return fit_gauge(
                cameras,
                self.world.scale,
                depth=None if depth is None else torch.from_numpy(depth),
                points_world=None if points is None else torch.from_numpy(np.asarray(points)),
            )
        except GaugeError as error:
            first, last = chunk[0].name, chunk[-1].name
            raise DataError(f"frames {first} to {last}: {error}") from error

    def _prequential_psnr(self, chunk: Sequence[Frame]) -> float | None:
        """PSNR of the chunk's first frame as predicted before the chunk is learned."""
        if self._published is None or not self.policies.has_residual:
            return None
        frame = chunk[0]
        return image_psnr(self.render(frame.camera, frame.time_s).image, frame.image)

    def _draw_from_memory(self, frame: Frame) -> np.ndarray:
        return self.published.renderer.memory_image(frame.camera, frame.time_s)

    def _flush_rows(self, rows: list[dict[str, Any]]) -> None:
        """Write rows in frame order, those of refused frames among them."""
        for row in sorted([*self._waiting_rows, *rows], key=lambda row: row["id"]):
            self._log.append(row)
            self._last_row = max(self._last_row, row["id"])
        self._waiting_rows = []

    # --- snapshots ---

    def snapshot_if_due(self) -> bool:
        """Snapshot when `snapshot_every_s` has passed and a chunk has been absorbed since."""
        if time.monotonic() - self._snapshot_at < self.policies.snapshot_every_s:
            return False
        return self.snapshot() is not None

    def snapshot(self) -> Path | None:
        """Commit everything; returns the commit's directory, None before the first chunk (there
        is nothing yet that reading the capture again would not give)."""
        if self._published is None:
            return None
        frames = {
            **with_prefix("pending", frames_to_tensors([p.frame for p in self._pending])),
            **with_prefix("probe", frames_to_tensors(self.retention.frames)),
            **with_prefix("previous", frames_to_tensors([self._previous])),
        }
        state, state_facts = state_to_tensors(self._published.state)
        facts = {
            "num_chunks": len(self.chunk_sizes),
            "num_frames": self.num_seen,
            "chunk_sizes": self.chunk_sizes,
            "cursor": self.cursor,
            "scale": self.world.scale,
            "weights": {"name": self.weights_name, "fingerprint": self.model.fingerprint},
            "state": state_facts,
            "retention": self.retention.curve,
            "colour": self.colour.to_facts(),
            "refused": dict(self.refused),
            "waiting_rows": self._waiting_rows,
            "last_row": self._last_row,
            "absorb_s": self.absorb_s,
            "latencies_ms": _thinned(self.latencies_ms),
        }
        made = commit_snapshot(
            self.out, Snapshot(state, frames, self.trajectory.to_tensors(), facts)
        )
        self._snapshot_at = time.monotonic()
        return made

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot. Raises InputRejected when other weights wrote it."""
        facts = snapshot.facts
        state = read_state(snapshot, self.model, self.weights_name)
        self.chunk_sizes = [int(size) for size in facts["chunk_sizes"]]
        self._publish(state, len(self.chunk_sizes))
        self.gauge = state.gauge
        self.trajectory = Trajectory.from_tensors(snapshot.trajectory)
        self.colour = RunningColour.from_facts(facts.get("colour"))
        self.cursor = facts["cursor"]
        now = time.monotonic()
        pending = frames_from_tensors(under_prefix("pending", snapshot.frames))
        self._pending = [_Pending(frame, now) for frame in pending]
        probe = frames_from_tensors(under_prefix("probe", snapshot.frames))
        self.retention = RetentionProbe(tuple(probe), [float(r) for r in facts["retention"]])
        self._previous = frames_from_tensors(under_prefix("previous", snapshot.frames))[0]
        self.refused = Counter(facts["refused"])
        self.num_seen = int(facts["num_frames"])
        self._waiting_rows = list(facts["waiting_rows"])
        self.absorb_s, self.latencies_ms = facts["absorb_s"], list(facts["latencies_ms"])
        self._last_row = int(facts["last_row"])
        self._log.keep_through(self._last_row)


def read_state(snapshot: Snapshot, model: SceneModel, weights_name: str) -> SceneState:
    """The state in a snapshot, on the model's device. Raises InputRejected for other weights."""
    written = snapshot.facts["weights"]
    if written["fingerprint"] != model.fingerprint:
        raise InputRejected(
            f"the snapshot was written by weights {written['name']} "
            f"({written['fingerprint'][:12]}), not by {weights_name} ({model.fingerprint[:12]}): "
            "name those with --weights, or replay the capture with --fresh"
        )
    try:
        state = state_from_tensors(snapshot.state, snapshot.facts["state"], model.init_state(1))
    except StateError as error:
        raise InputRejected(f"the snapshot can't be used: {error}") from error
    return to_device(state, model.device)


def _row(frame: Frame, **values: Any) -> dict[str, Any]:
    """A row of frames.parquet."""
    return {
        "id": frame.index, "name": frame.name, "role": "input", "time_s": frame.time_s, **values,
    }  # fmt: skip


def _thinned(values: list[float], most: int = 10_000) -> list[float]:
    """Evenly at most `most` values: enough for percentiles, bounded in a long stream's snapshot."""
    return values[:: -(-len(values) // most)] if values else []
