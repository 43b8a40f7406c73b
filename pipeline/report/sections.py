"""From what a run holds to what the page shows: each function is one section, empty if unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from everview.pipeline.evaluation.error_map import error_picture
from everview.pipeline.evaluation.table import FLOOR_LABELS
from everview.pipeline.report.charts import number
from everview.pipeline.report.contents import PictureSet, RunContents, is_own_file
from everview.pipeline.report.embedding import (
    LONGEST_SIDE_PX,
    SHEET_SIDE_PX,
    Budget,
    Embedded,
    embed_picture,
    load_picture,
)

_MAX_COMPARISONS = 24
_MAX_STILLS = 24
_SCORES = (("psnr", "PSNR, dB", 2), ("ssim", "SSIM", 3), ("lpips_alex", "LPIPS-alex", 3),
           ("laplacian_ratio", "Laplacian ratio", 2))  # fmt: skip
_HEADLINES = (
    ("lpips_alex", "LPIPS-alex", ""),
    ("loss", "loss", ""),
    ("step", "steps", ""),
    ("frames_per_s", "", "/s"),
    ("latency_ms_p50", "latency, median", " ms"),
    ("state_mib", "state", " MiB"),
    ("peak_rss_mib", "peak memory", " MiB"),
)
_SMALL = (("nearest", "nearest input"), ("error", "error"), ("memory", "memory alone"),
          ("depth", "depth"))  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One line of the score table; `share` is its PSNR over the best one's, 0 to 100."""

    label: str
    cells: tuple[str, ...]
    share: float
    is_floor: bool


@dataclass(frozen=True)
class Comparison:
    """A held-out view: rendered against truth, and what belongs to it."""

    name: str
    caption: str
    rendered: Embedded
    truth: Embedded | None
    small: tuple[tuple[str, Embedded], ...]


def headline(run: RunContents) -> list[Figure]:
    """The few numbers that matter most."""
    metrics = run.metrics
    figures = []
    value = metrics.get("psnr")
    if value is not None:
        best = _better_floor(metrics)
        above = "" if best is None else f"{value - best:+.2f} dB against colour and copy"
        figures.append(Figure("PSNR", f"{value:.2f} dB", above))
    rate = "frames rendered" if run.record.get("verb") == "render" else "frames absorbed"
    for key, label, unit in _HEADLINES:
        label = rate if key == "frames_per_s" else label
        value = metrics.get(key)
        if value is not None:
            note = ""
            if key == "latency_ms_p50" and metrics.get("latency_ms_p95") is not None:
                note = f"p95 {number(metrics['latency_ms_p95'])} ms"
            figures.append(Figure(label, number(value) + unit, note))
    return figures[:6]


def score_rows(run: RunContents) -> list[ScoreRow]:
    """The model, its memory alone, and the floors; empty when nothing was judged."""
    metrics = run.metrics
    if metrics.get("psnr") is None:
        return []
    rows = [("model", metrics, False)]
    if isinstance(metrics.get("memory_alone"), dict):
        rows.append(("model, memory alone (no frame bank)", metrics["memory_alone"], False))
    rows += [(FLOOR_LABELS[name], floor, True) for name, floor in _floors(metrics).items()]
    best = max((scores.get("psnr") or 0.0) for _, scores, _ in rows) or 1.0
    return [
        ScoreRow(
            label,
            tuple(_fixed(scores.get(key), digits) for key, _, digits in _SCORES),
            round(100 * (scores.get("psnr") or 0.0) / best, 1),
            is_floor,
        )
        for label, scores, is_floor in rows
    ]


def score_headings() -> tuple[str, ...]:
    """Column headings of `score_rows`."""
    return tuple(heading for _, heading, _ in _SCORES)


def comparisons(run: RunContents, budget: Budget) -> list[Comparison]:
    """Held-out views, evenly taken, as far as the page's budget goes."""
    made = []
    is_one_scene = len({row.get("scene") for row in run.frames}) <= 1
    for view in _evenly(run.views, _MAX_COMPARISONS):
        one = _comparison(view, budget, is_one_scene)
        if one is not None:
            made.append(one)
    return made


def _comparison(view: PictureSet, budget: Budget, is_one_scene: bool) -> Comparison | None:
    loaded = {kind: load_picture(file, budget) for kind, file in view.files.items()}
    rendered, truth = loaded.get("rendered"), loaded.get("truth")
    if rendered is None:
        return None
    if loaded.get("error") is None and truth is not None and truth.shape == rendered.shape:
        loaded["error"] = error_picture(rendered, truth)
    shown = embed_picture(rendered, budget)
    if shown is None:
        return None
    small = []
    for kind, label in _SMALL:
        picture = loaded.get(kind)
        embedded = None if picture is None else embed_picture(picture, budget)
        if embedded is not None:
            small.append((label, embedded))
    row = view.row or {}
    caption = ", ".join(
        f"{heading.split(',')[0]} {_fixed(row.get(key), digits)}"
        for key, heading, digits in _SCORES[:3]
        if row.get(key) is not None
    )
    return Comparison(
        name=str(row["name"]) if is_one_scene and row.get("name") else view.name,
        caption=caption,
        rendered=shown,
        truth=None if truth is None else embed_picture(truth, budget),
        small=tuple(small),
    )


def stills(run: RunContents, budget: Budget) -> list[tuple[str, Embedded]]:
    """Pictures that compare with nothing: of `render`, with depth, or sheets of a training run."""
    shown = []
    files = [*run.sheets]
    for file in _evenly(run.stills, _MAX_STILLS):
        folder = run.path / "depth"
        beside = [folder / f"{file.stem}_{kind}.png" for kind in ("colour", "confidence")]
        files += [file, *(other for other in beside if is_own_file(other))]
    for file in files:
        longest = SHEET_SIDE_PX if file in run.sheets else LONGEST_SIDE_PX
        picture = load_picture(file, budget, longest)
        embedded = None if picture is None else embed_picture(picture, budget)
        if embedded is not None:
            caption = file.stem.replace("_colour", ", depth").replace("_conf", ", conf")
            shown.append((caption, embedded))
    return shown


def gap_rows(run: RunContents) -> list[tuple[str, ...]]:
    """`set` against `chunk_causal`: chunks, PSNR, gap, memory alone, gap, half-life."""
    gaps = (run.metrics.get("details") or {}).get("gaps") or []
    keys = ("psnr", "gap_db", "memory_alone_psnr", "memory_alone_gap_db",
            "retention_half_life_chunks", "retention_half_life_s")  # fmt: skip
    return [(str(gap.get("chunks")), *(_fixed(gap.get(k), 2) for k in keys)) for gap in gaps]


def scene_rows(run: RunContents) -> list[tuple[str, ...]]:
    """One line a scene when there are several: name, PSNR, memory alone, best floor, LPIPS."""
    scenes = run.metrics.get("scenes") or []
    if len(scenes) < 2:
        return []
    rows: list[tuple[str, ...]] = []
    for scene in scenes:
        if scene.get("error"):
            rows.append((str(scene.get("name")), f"failed: {scene['error']}", "", "", "", ""))
            continue
        pure = (scene.get("memory_alone") or {}).get("psnr")
        rows.append(
            (str(scene.get("name")), _fixed(scene.get("psnr"), 2), _fixed(pure, 2),
             _fixed(_better_floor(scene), 2), _fixed(scene.get("ssim"), 3),
             _fixed(scene.get("lpips_alex"), 3))
        )  # fmt: skip
    return rows


def facts(run: RunContents) -> list[tuple[str, str]]:
    """What repeats the run: command, code, weights, input, device, durations."""
    record = run.record
    code, weights = record.get("code") or {}, record.get("weights") or {}
    device, host = record.get("device") or {}, record.get("host") or {}
    revision = code.get("revision") or "not a checkout"
    modified = ", with local changes" if code.get("modified") else ""
    attempts = record.get("attempts") or [{}]
    durations = record.get("durations_s") or {}
    listed = [
        ("command", " ".join(map(str, record.get("command") or []))),
        ("started", str(attempts[0].get("started") or "")),
        ("attempts", str(len(attempts)) if len(attempts) > 1 else ""),
        ("code", f"everview {code.get('version') or ''}, {revision[:12]}{modified}"),
        (
            "weights",
            " ".join(str(weights[k])[:24] for k in ("name", "fingerprint") if weights.get(k)),
        ),
        ("device", " ".join(str(device[k]) for k in ("type", "name") if device.get(k))),
        (
            "machine",
            f"{host.get('cores')} cores, {host.get('memory_gib')} GiB, {host.get('system')}",
        ),
        (
            "time taken",
            ", ".join(f"{k} {number(v)} s" for k, v in durations.items() if _is_number(v)),
        ),
    ]
    return [(name, value) for name, value in listed if value.strip()]


def as_yaml(value: Any) -> str:
    """A mapping as text to read."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=90).strip()


def _floors(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    floors = metrics.get("floors")
    known = floors if isinstance(floors, dict) else {}
    return {name: known[name] for name in FLOOR_LABELS if isinstance(known.get(name), dict)}


def _better_floor(metrics: dict[str, Any]) -> float | None:
    """PSNR of the better of mean colour and copied view: what must be beaten."""
    floors = _floors(metrics)
    known = [floors[name].get("psnr") for name in ("mean_colour", "nearest_view") if name in floors]
    return max((value for value in known if value is not None), default=None)


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fixed(value: Any, digits: int) -> str:
    # adding 0.0 turns a rounded -0.0 into 0.0
    return f"{round(value, digits) + 0.0:.{digits}f}" if _is_number(value) else "–"
