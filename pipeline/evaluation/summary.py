"""From the scores of scenes to `metrics.json`: means over images, then over scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from everview.pipeline.evaluation.image_metrics import ImageScores
from everview.pipeline.evaluation.scene_scores import SceneScores
from everview.pipeline.runs.metrics import FLOORS, IMAGE_KEYS
from everview.pipeline.runs.plain import as_plain

# Scalars of a scene that are averaged over scenes.
_AVERAGED = (*IMAGE_KEYS, "depth_abs_rel", "frames_per_s", "latency_ms_p50", "latency_ms_p95",
             "state_mib", "retention_half_life_chunks")  # fmt: skip


def summarise_scene(scores: SceneScores) -> dict[str, Any]:
    """One entry of `scenes` in `metrics.json`, as plain data."""
    depth = scores.depth_abs_rel
    known = None if depth is None else depth[np.isfinite(depth)]
    floors: dict[str, Any] = {name: None for name in FLOORS}
    floors |= {name: _means(floor) for name, floor in scores.floors.scores.items()}
    missing = {f"floors.{name}": reason for name, reason in scores.floors.missing.items()}
    if scores.retention_half_life_chunks is None:
        missing["retention_half_life_chunks"] = scores.retention_reason
    if known is None or not len(known):
        missing["depth_abs_rel"] = missing["depth_alignment"] = "the held-out frames have no depth"
    latencies = np.asarray(scores.latencies_ms)
    summary = {
        "name": scores.scene.name,
        **_means(scores.model),
        "depth_abs_rel": float(known.mean()) if known is not None and len(known) else None,
        "depth_alignment": scores.depth_alignment if known is not None and len(known) else None,
        "frames_per_s": len(scores.split.inputs) / max(scores.observe_s, 1e-9),
        "latency_ms_p50": float(np.percentile(latencies, 50)),
        "latency_ms_p95": float(np.percentile(latencies, 95)),
        "state_mib": scores.state_mib,
        "retention_half_life_chunks": scores.retention_half_life_chunks,
        "retention_half_life_s": scores.retention_half_life_s,
        "retention_curve_db": scores.retention_curve,
        "memory_alone": _means(scores.memory_alone),
        "floors": floors,
        "gaps": [asdict(gap) for gap in scores.gaps],
        "schedule": scores.split.schedule,
        "chunk_sizes": [len(chunk) for chunk in scores.split.chunks],
        "num_inputs": len(scores.split.inputs),
        "num_targets": len(scores.split.targets),
        "identical_images": scores.model.capped,
        "gauge": {"rule": scores.gauge.rule, "scale": float(scores.gauge.scale[0]),
                  "origin": scores.gauge.origin[0], "rotation": scores.gauge.rotation[0]},
        "input": {"source": scores.scene.info.source, "format": scores.scene.info.format,
                  "scale": scores.scene.info.scale, "identity": scores.scene.identity,
                  "skipped": [asdict(skip) for skip in scores.scene.skipped]},
        "missing": missing,
    }  # fmt: skip
    return as_plain(summary)


def frame_rows(scores: SceneScores) -> list[dict[str, Any]]:
    """Rows of `frames.parquet`: the observed frames with their chunk, the held-out with scores."""
    frames, name = scores.scene.frames, scores.scene.name
    rows = []
    for chunk, indices in enumerate(scores.split.chunks):
        for index in indices:
            rows.append(_row(frames[index], name, "input") | {"chunk": chunk})
    judged = zip(scores.split.targets, scores.model.rows(), scores.latencies_ms, strict=True)
    for place, (target, values, latency) in enumerate(judged):
        depth = None if scores.depth_abs_rel is None else float(scores.depth_abs_rel[place])
        row = _row(frames[target], name, "held_out") | values
        rows.append(row | {"latency_ms": latency, "depth_abs_rel": depth})
    rows = sorted(rows, key=lambda row: row["id"])
    return as_plain(rows)


def _row(frame: Any, scene: str, role: str) -> dict[str, Any]:
    return {"id": frame.index, "name": frame.name, "scene": scene, "role": role,
            "time_s": frame.time_s}  # fmt: skip


def combine(
    summaries: Sequence[Mapping[str, Any]], lpips_note: str, peak_rss_mib: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and reasons for `metrics.json` from the scenes that could be judged."""
    values: dict[str, Any] = {key: _mean(summaries, key) for key in _AVERAGED}
    alignments = sorted({s["depth_alignment"] for s in summaries if s["depth_alignment"]})
    values["depth_alignment"] = "+".join(alignments) or None
    values["peak_rss_mib"] = peak_rss_mib
    values["memory_alone"] = {
        key: _mean([s["memory_alone"] for s in summaries], key) for key in IMAGE_KEYS
    }
    values["floors"] = {}
    for name in FLOORS:
        present = [s["floors"][name] for s in summaries if s["floors"][name]]
        values["floors"][name] = (
            {key: _mean(present, key) for key in IMAGE_KEYS} if present else None
        )
    values["scenes"] = list(summaries)
    # nerfstudio's scripts read these
    values["results"] = {key: values[key] for key in IMAGE_KEYS}
    missing: dict[str, str] = {}
    for summary in summaries:
        for key, reason in summary["missing"].items():
            missing.setdefault(key, reason)
    if values["lpips_alex"] is None:
        missing["lpips_alex"] = lpips_note
    return values, missing


def combine_gaps(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gap between `set` and `chunk_causal` for each number of chunks, means over scenes."""
    counts = sorted({gap["chunks"] for s in summaries for gap in s["gaps"]})
    rows = []
    for count in counts:
        gaps = [gap for s in summaries for gap in s["gaps"] if gap["chunks"] == count]
        keys = [key for key in gaps[0] if key not in ("chunks", "reason")]
        rows.append({"chunks": count, "scenes": len(gaps)} | {k: _mean(gaps, k) for k in keys})
    return rows


def _means(scores: ImageScores) -> dict[str, float | None]:
    return scores.means()


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(known)) if known else None
