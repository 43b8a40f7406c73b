"""Everything a finished stream leaves for people and tools, made from the published state."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everview.datasets.captures import Capture
from everview.pipeline.evaluation.lpips_alex import TOO_SMALL, open_lpips
from everview.pipeline.fusion.scene_geometry import MESH_NAME, POINTS_NAME
from everview.pipeline.rendering.path_choice import choose_path
from everview.pipeline.rendering.path_export import export_path
from everview.pipeline.runs.metrics import DEPTH_KEYS, FLOORS, IMAGE_KEYS
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.floors import StreamFloors
from everview.pipeline.streaming.geometry_review import measure_mesh
from everview.pipeline.streaming.live_geometry import GeometryOptions, LiveGeometry
from everview.pipeline.streaming.preparing import prepared, read_again, readable_again
from everview.pipeline.streaming.progress import Progress
from everview.pipeline.streaming.review import HeldOutReview, evenly
from everview.pipeline.streaming.scenes import survey_stream
from everview.pipeline.streaming.session import Session


@dataclass(frozen=True)
class Exported:
    """values: for metrics.json. missing: key -> reason. rows: of held-out frames."""

    values: dict[str, Any]
    missing: dict[str, str]
    rows: list[dict[str, Any]]


def export_stream(
    session: Session, capture: Capture, config: StreamConfig, out: Path, progress: Progress
) -> Exported:
    """Write views, depth, video, points and mesh; measure the held-out frames."""
    for name in ("views", "depth"):  # an earlier, shorter attempt may have shown other frames
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "views").mkdir()
    compared = _compare(session, capture, config, out, progress)
    details = compared.values["details"] | _render_path(session, config, out, progress)
    return Exported(compared.values | {"details": details}, compared.missing, compared.rows)


def _compare(
    session: Session, capture: Capture, config: StreamConfig, out: Path, progress: Progress
) -> Exported:
    """The second pass over the capture."""
    renderer = session.published.renderer
    lpips, lpips_source = open_lpips(download=False)  # a stream asks nothing of the network
    trajectory = session.trajectory
    observed = readable_again(capture, trajectory.observed_indices())
    there = readable_again(capture, trajectory.held_out_indices())
    held_out = evenly(there, config.measured_views)
    nearest = trajectory.nearest_observed(held_out, observed)
    shown = evenly(held_out, config.review_views)
    review = HeldOutReview(
        renderer=renderer,
        out=out,
        scale=session.world.scale,
        shown=frozenset(shown),
        lpips=lpips,
        beside={index: nearest[index] for index in shown if index in nearest},
    )
    floors = StreamFloors(session.colour.mean(), nearest, review.scores)
    wanted = set(held_out) | set(nearest.values())
    judged = set(held_out)
    for done, frame in enumerate(read_again(capture, wanted), 1):
        ready = prepared(frame, config.size, session.model.config.patch)
        if frame.index in judged:
            review.add(ready)
            floors.add_held_out(ready)
        else:
            review.add_observed(ready)
            floors.add_observed(ready)
        progress.step("compare", done, len(wanted))
    values: dict[str, Any] = {k: v for k, v in review.means().items() if v is not None}
    values["memory_alone"] = review.memory_means()
    values["floors"] = floors.means()
    details: dict[str, Any] = {"held_out_frames": len(review.rows), "lpips_backbone": lpips_source}
    missing = _reasons(review, floors, lpips_source, config)
    if review.rows and "depth_abs_rel" in values:
        values["depth_alignment"] = review.alignment
    told, absent = _write_geometry(session, capture, config, out, progress)
    details |= told
    return Exported(values | {"details": details}, missing | absent, review.rows)


def _write_geometry(
    session: Session, capture: Capture, config: StreamConfig, out: Path, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """points.ply and mesh.ply: what is told of them, and why one is not there."""
    geometry = session.geometry
    report = None if geometry is None else geometry.write(out)
    if geometry is None or report is None:
        return {}, dict.fromkeys((POINTS_NAME, MESH_NAME), "not asked for")
    told = {k: v for k, v in asdict(report).items() if k != "missing"}
    told["moved_share"] = geometry.moved_share
    told["share_of_updates"] = geometry.spent_s / max(session.absorb_s, 1e-9)
    told["to_sensor"] = measure_mesh(
        capture,
        session.trajectory,
        out,
        session.world.scale,
        report.voxel_size,
        config.measured_depths,
        progress,
    )
    return {"geometry": told}, report.missing


def live_geometry(config: StreamConfig, has_depth: bool, patch: int) -> LiveGeometry | None:
    """What a stream fuses on the way; None if it was told not to. has_depth: measured. patch: of
    the model, pixels."""
    if config.fusion_views < 1:
        return None
    # measured depth costs no look into the state, so more of it can be had for the same time
    return LiveGeometry(
        GeometryOptions(
            views=config.fusion_views * (2 if has_depth else 1),
            patch=patch,
            per_chunk=config.fusion_per_chunk,
            has_mesh=config.mesh,
            is_measured=has_depth,
            masks_moving=config.fusion_masks_moving,
        )
    )


def _render_path(
    session: Session, config: StreamConfig, out: Path, progress: Progress
) -> dict[str, Any]:
    published = session.published
    layout = survey_stream(session.trajectory, published.state)
    patch = session.model.config.patch
    path = choose_path(config.path, layout, config.video_frames, config.size, patch)
    made = export_path(
        published.renderer,
        path,
        out,
        config.video_rate,
        on_frame=lambda done: progress.step("render", done, len(path.cameras)),
    )
    mean_ms = sum(made.render_ms) / max(len(made.render_ms), 1)
    return {"path": path.name, "path_frames": made.frames, "render_ms_mean": mean_ms}


def _reasons(
    review: HeldOutReview, floors: StreamFloors, lpips_source: str, config: StreamConfig
) -> dict[str, str]:
    if not review.rows:
        why = "nothing was held out" if config.hold_out else "hold_out is 0"
        drawn = (f"floors.{name}" for name in FLOORS)
        return dict.fromkeys((*IMAGE_KEYS, *DEPTH_KEYS, "memory_alone", *drawn), why)
    reasons = floors.missing()
    if review.lpips is None:
        reasons["lpips_alex"] = lpips_source
    elif review.means()["lpips_alex"] is None:
        reasons["lpips_alex"] = TOO_SMALL
    if review.means()["depth_abs_rel"] is None:
        reasons |= dict.fromkeys(("depth_abs_rel", "depth_alignment"), "the capture has no depth")
    return reasons
