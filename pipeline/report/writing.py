"""One self-contained page from a run directory.

Nothing in a run is trusted: every text goes through the template's escaping, pictures are decoded
and encoded anew, and the page's own policy forbids all scripts and styles but the two it brings,
and every request.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from everview.pipeline.errors import InputRejected
from everview.pipeline.report import sections
from everview.pipeline.report.camera_plot import CameraPanel, camera_panels
from everview.pipeline.report.charts import number
from everview.pipeline.report.contents import RunContents, read_contents
from everview.pipeline.report.embedding import Budget, embed_video
from everview.pipeline.report.run_charts import (
    adaptation_charts,
    stream_charts,
    training_charts,
)
from everview.pipeline.runs import write_text
from everview.pipeline.runs.provenance import library_versions

FILE_NAME = "report.html"


def write_report(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run to `out` (default `RUN/report.html`) and return its path.

    Raises InputRejected when `run` holds no run or a damaged one.
    """
    run = Path(run)
    target = run / FILE_NAME if out is None else Path(out)
    contents = read_contents(run)
    try:
        page = render_page(contents)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # our own files never hold such values; somebody else's may
        raise InputRejected(f"{run} holds values that a run never does ({error})") from error
    write_text(target, page)
    return target


def report_run(run: Path | str, out: Path | str | None = None) -> Path:
    """`everview report RUN`: as `write_report`; a directory as `out` gets the page inside it."""
    if out is not None and Path(out).is_dir():
        out = Path(out) / FILE_NAME
    return write_report(run, out)


def render_page(run: RunContents) -> str:
    """The page as text."""
    style, script = _page_file("page.css"), _page_file("page.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_page_file("page.html.j2"))
    shown = _shown(run)
    return template.render(
        **shown,
        sections=_anchors(shown),
        version=library_versions()["everview"] or "",
        policy=_policy(style, script),
        css=Markup(style),  # our own files, not the run's
        js=Markup(script),
    )


def _shown(run: RunContents) -> dict[str, Any]:
    """Every value the template names."""
    budget = Budget()
    details = run.metrics.get("details") or {}
    video = embed_video(run.video, budget) if run.video else None
    views = sections.comparisons(run, budget)
    return {
        "title": _title(run),
        "verb": str(run.record.get("verb")),
        "lead": _lead(run),
        "alert": _alert(run),
        "figures": sections.headline(run),
        "scores": sections.score_rows(run),
        "score_headings": sections.score_headings(),
        "views": views,
        "left_out": budget.left_out,
        "video": video,
        "path_name": str(details.get("path") or ""),
        "stills": sections.stills(run, budget),
        "panels": _panels(run),
        "camera_note": _camera_note(run),
        "stream_charts": stream_charts(run),
        "training_charts": [*adaptation_charts(run), *training_charts(run)],
        "training_note": _training_note(run),
        "gaps": sections.gap_rows(run),
        "scenes": sections.scene_rows(run),
        "facts": sections.facts(run),
        "blocks": _blocks(run, budget),
    }


def _anchors(shown: dict[str, Any]) -> list[tuple[str, str]]:
    names = (
        ("scores", "scores", "Scores"),
        ("views", "views", "Held-out views"),
        ("video", "video", "Novel views"),
        ("stills", "stills", "Pictures"),
        ("panels", "cameras", "Camera path"),
        ("stream_charts", "stream", "Over the stream"),
        ("training_charts", "training", "Training"),
        ("gaps", "gaps", "Set against causal"),
        ("scenes", "scenes", "Scenes"),
    )
    return [(anchor, name) for key, anchor, name in names if shown[key]] + [("run", "The run")]


def _title(run: RunContents) -> str:
    config = run.record.get("config") or {}
    for key in ("capture", "protocol", "recipe", "run"):
        if config.get(key):
            text = str(config[key])
            name = text if "://" in text else Path(text).name
            return name or text
    return run.path.resolve().name


def _lead(run: RunContents) -> str:
    details = run.metrics.get("details") or {}
    weights = run.record.get("weights") or {}
    size = (run.record.get("config") or {}).get("size")
    parts = []
    if weights.get("name"):
        parts.append(f"weights {weights['name']}")
    if size:
        parts.append(f"{size} px")
    for key, text in (("frames_observed", "frames observed"), ("chunks", "chunks"),
                      ("held_out_frames", "held out"), ("num_scenes", "scenes"),
                      ("num_images", "held-out views")):  # fmt: skip
        if isinstance(details.get(key), int):
            count = details[key]
            parts.append(f"{count} {text.rstrip('s') if count == 1 else text}")
    device = run.record.get("device") or {}
    if device.get("name"):
        parts.append(str(device["name"]))
    return " · ".join(parts)


def _alert(run: RunContents) -> str:
    """What a reader must know before believing the page; empty when all went well."""
    status, error = run.record.get("status"), run.record.get("error")
    failed = (run.metrics.get("details") or {}).get("failed") or {}
    if failed:
        return "Some scenes failed: " + "; ".join(map(str, failed.values()))
    if status == "interrupted":
        return "This run was interrupted; the same command continues it."
    if status == "failed":
        return f"This run failed: {error or 'see the log'}"
    return ""


def _panels(run: RunContents) -> tuple[CameraPanel, ...]:
    source = run.record.get("input")
    first = source[0] if isinstance(source, list) and source else source
    is_metric = isinstance(first, dict) and first.get("scale") == "metric"
    return camera_panels(run.cameras, "m" if is_metric else "units")


def _camera_note(run: RunContents) -> str:
    held_out = sum(placed.role == "held_out" for placed in run.cameras)
    observed = len(run.cameras) - held_out
    if run.record.get("verb") == "render":
        return f"{observed} rendered cameras, faint first and full last."
    note = f"{observed} observed cameras, faint first and full last"
    return f"{note}; {held_out} held out, in the accent colour." if held_out else f"{note}."


def _training_note(run: RunContents) -> str:
    metrics = run.metrics
    parts = [
        f"{number(metrics[key])} {text}"
        for key, text in (("step", "steps"), ("tokens", "tokens"))
        if isinstance(metrics.get(key), int | float)
    ]
    return ", ".join(parts)


def _blocks(run: RunContents, budget: Budget) -> list[tuple[str, str]]:
    """Texts that open on demand."""
    record = run.record
    versions = {k: v for k, v in (record.get("versions") or {}).items() if v}
    blocks: list[tuple[str, Any]] = [
        ("Configuration", record.get("config")),
        ("Gauge", record.get("gauge")),
        ("Segments", record.get("segments")),
        ("Input", record.get("input")),
        ("Kernels in use", record.get("backends")),
        ("Versions", versions),
        ("What could not be computed, and why", run.metrics.get("missing")),
        ("Details", run.metrics.get("details")),
        ("Files of this run", {name: _size(size) for name, size in run.files}),
        ("Pictures that could not be read", budget.unreadable),
    ]
    return [(name, sections.as_yaml(value)) for name, value in blocks if value]


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _page_file(name: str) -> str:
    return resources.files("everview.pipeline.report.page").joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing may load but what is in the page: the two hashes are its own style and script."""
    return (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'"
    )


def _source_hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"sha256-{digest}"
