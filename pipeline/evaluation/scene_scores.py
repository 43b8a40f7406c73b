"""One scene through a model: observe the inputs, render the targets, score, compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.models.gauge import Gauge, GaugeError, fit_gauge
from everview.models.scene_model import SceneModel
from everview.models.state import state_bytes
from everview.pipeline.evaluation.depth_metrics import alignment_of, depth_abs_rel
from everview.pipeline.evaluation.floor_scores import (
    Floors,
    picture_tensor,
    score_floors,
    target_masks,
)
from everview.pipeline.evaluation.image_metrics import ImageScores, score_images
from everview.pipeline.evaluation.lpips_alex import LpipsAlex
from everview.pipeline.evaluation.protocols import Split, in_equal_chunks
from everview.pipeline.evaluation.scene_frames import SceneFrames
from everview.pipeline.rendering.renderer import (
    RenderedView,
    SceneRenderer,
    image_tensor,
    time_tensor,
)
from everview.pipeline.streaming.retention import RetentionProbe
from everview.pipeline.training.precision import mixed_precision

_PROBED_FRAMES = 2


@dataclass(frozen=True, eq=False)
class Observation:
    """A state after all chunks. retention: of the first chunk's frames, by the memory alone."""

    state: Any
    gauge: Gauge
    observe_s: float
    retention: RetentionProbe


@dataclass(frozen=True)
class CausalGap:
    """The same inputs and weights, observed in `chunks` updates instead of one.

    gap_db: PSNR of `set` minus PSNR of chunk_causal, by the memory alone and with the frame bank.
    retention_half_life_chunks: None when there is none, `reason` says why.
    """

    chunks: int
    psnr: float
    gap_db: float
    memory_alone_psnr: float
    memory_alone_gap_db: float
    retention_half_life_chunks: float | None
    retention_half_life_s: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class SceneScores:
    """All that one scene gave. views: what was rendered, a `RenderedView` for each target."""

    scene: SceneFrames
    split: Split
    model: ImageScores
    memory_alone: ImageScores
    floors: Floors
    views: tuple[RenderedView, ...]
    depth_abs_rel: np.ndarray | None
    depth_alignment: str | None
    gauge: Gauge
    observe_s: float
    latencies_ms: tuple[float, ...]
    state_mib: float
    retention_half_life_chunks: float | None
    retention_half_life_s: float | None
    retention_reason: str
    retention_curve: tuple[float, ...]
    gaps: tuple[CausalGap, ...] = field(default=())


def scene_gauge(scene: SceneFrames, first_chunk: Sequence[int]) -> Gauge:
    """The gauge of the first chunk alone. Raises DataError where no rule gives one."""
    frames = [scene.frames[i] for i in first_chunk]
    depth = None
    if all(frame.depth is not None for frame in frames):
        depth = torch.from_numpy(np.stack([frame.depth for frame in frames]))
    points = scene.info.points_world
    try:
        return fit_gauge(
            Cameras.stack([frame.camera for frame in frames]),
            scene.info.scale,
            depth=depth,
            points_world=None if points is None else torch.from_numpy(points),
        )
    except GaugeError as error:
        raise DataError(f"{scene.info.source}: {error}") from None


def observe_chunks(
    model: SceneModel, scene: SceneFrames, chunks: Sequence[Sequence[int]], gauge: Gauge
) -> Observation:
    """Absorb chunks in turn, as a stream does; `set` is the case of one chunk."""
    device = model.device
    state = model.init_state(1)
    first = [scene.frames[i] for i in chunks[0]]
    probe = RetentionProbe.choose(first, _PROBED_FRAMES if len(chunks) > 1 else 0)
    observe_s = 0.0
    for number, chunk in enumerate(chunks):
        frames = [scene.frames[i] for i in chunk]
        begin = time.monotonic()
        state = _observe(model, frames, state, gauge if number == 0 else None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        observe_s += time.monotonic() - begin
        if probe.frames:
            probe.measure(SceneRenderer(model, state))
    return Observation(state, gauge, observe_s, probe)


@torch.inference_mode()
def _observe(model: SceneModel, frames: list[Frame], state: Any, gauge: Gauge | None) -> Any:
    device = model.device
    cameras = Cameras.stack([frame.camera for frame in frames])[None].to(device=device)
    images = image_tensor([frame.image for frame in frames], device)
    times = time_tensor([frame.time_s for frame in frames], device)
    with mixed_precision(device):  # as a session observes
        return model.observe(images, cameras, times, state, gauge=gauge and gauge.to(device))


def render_targets(
    model: SceneModel, scene: SceneFrames, split: Split, state: Any
) -> tuple[tuple[RenderedView, ...], tuple[float, ...]]:
    """Every target, one by one, and how long each took in ms."""
    renderer = SceneRenderer(model, state)
    views, latencies = [], []
    for target in split.targets:
        frame = scene.frames[target]
        begin = time.monotonic()
        view = next(iter(renderer.render([frame.camera], [frame.time_s])))
        latencies.append(1e3 * (time.monotonic() - begin))
        # drawn again for comparison, which is no part of what a user waits for
        (pure,) = renderer.memory_images([frame.camera], [frame.time_s])
        views.append(replace(view, memory_image=pure))
    return tuple(views), tuple(latencies)


def score_scene(
    model: SceneModel,
    scene: SceneFrames,
    split: Split,
    lpips: LpipsAlex | None,
    chunk_counts: Sequence[int] = (),
) -> SceneScores:
    """Observe, render, score; with `chunk_counts`, the gap between `set` and `chunk_causal` too."""
    gauge = scene_gauge(scene, split.chunks[0])
    seen = observe_chunks(model, scene, split.chunks, gauge)
    views, latencies = render_targets(model, scene, split, seen.state)
    truth = picture_tensor([scene.frames[t].image for t in split.targets])
    mask = target_masks(scene, split)
    half_life, reason = seen.retention.half_life()
    if len(split.chunks) == 1:
        reason = "one chunk: nothing follows it that could be forgotten for"
    depth, alignment = _depth_scores(scene, split, views)
    return SceneScores(
        scene=scene,
        split=split,
        model=score_images(picture_tensor([v.image for v in views]), truth, lpips, mask),
        memory_alone=score_images(
            picture_tensor([v.memory_image for v in views]), truth, lpips, mask
        ),
        floors=score_floors(scene, split, lpips),
        views=views,
        depth_abs_rel=depth,
        depth_alignment=alignment,
        gauge=gauge,
        observe_s=seen.observe_s,
        latencies_ms=latencies,
        state_mib=state_bytes(seen.state) / 2**20,
        retention_half_life_chunks=half_life,
        retention_half_life_s=_in_seconds(half_life, scene, split.chunks),
        retention_reason=reason,
        retention_curve=tuple(seen.retention.curve.values),
        gaps=causal_gaps(model, scene, split, chunk_counts),
    )


def causal_gaps(
    model: SceneModel, scene: SceneFrames, split: Split, chunk_counts: Sequence[int]
) -> tuple[CausalGap, ...]:
    """`set` against `chunk_causal` with the same weights, inputs, targets and gauge.

    The gauge is that of all inputs, so that the number holds what the schedule costs and not what
    a first chunk says less about the scene.
    """
    counts = [n for n in chunk_counts if n <= len(split.inputs)]
    if not counts:
        return ()
    gauge = scene_gauge(scene, split.inputs)
    truth = picture_tensor([scene.frames[t].image for t in split.targets])
    mask = target_masks(scene, split)

    def measure(count: int) -> tuple[float, float, RetentionProbe]:
        seen = observe_chunks(model, scene, in_equal_chunks(split.inputs, count), gauge)
        views, _ = render_targets(model, scene, split, seen.state)
        full = score_images(picture_tensor([v.image for v in views]), truth, None, mask)
        pure = score_images(picture_tensor([v.memory_image for v in views]), truth, None, mask)
        return full.psnr.mean().item(), pure.psnr.mean().item(), seen.retention

    full_set, pure_set, _ = measure(1)
    gaps = []
    for count in counts:
        full, pure, probe = (full_set, pure_set, RetentionProbe()) if count == 1 else measure(count)
        half_life, reason = probe.half_life()
        seconds = _in_seconds(half_life, scene, in_equal_chunks(split.inputs, count))
        gaps.append(
            CausalGap(count, full, full_set - full, pure, pure_set - pure, half_life, seconds,
                      "one chunk" if count == 1 else reason)
        )  # fmt: skip
    return tuple(gaps)


def _in_seconds(
    half_life: float | None, scene: SceneFrames, chunks: Sequence[Sequence[int]]
) -> float | None:
    """Chunks to seconds by the median time from one chunk's start to the next one's."""
    starts = [scene.frames[chunk[0]].time_s for chunk in chunks]
    if half_life is None or len(starts) < 2 or any(start is None for start in starts):
        return None
    return half_life * float(np.median(np.diff(np.asarray(starts, np.float64))))


def _depth_scores(
    scene: SceneFrames, split: Split, views: Sequence[RenderedView]
) -> tuple[np.ndarray | None, str | None]:
    truth = [scene.frames[t].depth for t in split.targets]
    if any(depth is None for depth in truth):
        return None, None
    alignment = alignment_of(scene.info.scale)
    errors = depth_abs_rel(
        torch.from_numpy(np.stack([view.depth for view in views])),
        torch.from_numpy(np.stack(truth)),
        alignment,
    )
    return errors.numpy(), alignment
