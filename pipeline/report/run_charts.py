"""Which curves a run shows: over the frames of a stream, over the steps of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everview.pipeline.report.charts import Chart, Series, line_chart
from everview.pipeline.report.contents import RunContents

# A curve that moves by less is flat, whatever the axis would make of it.
_LEAST_DB = 1.0
# Columns of a training curve that are no part of the loss.
_NOT_LOSSES = {"step", "elapsed_s", "progress", "tokens", "rate", "ms_per_step", "skipped",
               "gradient_norm", "loss"}  # fmt: skip
_MAX_LINES = 5


def stream_charts(run: RunContents) -> list[Chart]:
    """Latency, memory, foresight, held-out quality and retention; those that were measured."""
    rows = [row for row in run.frames if row.get("id") is not None]
    is_one_stream = len({row.get("scene") for row in rows}) <= 1
    charts = _over_frames(rows) if is_one_stream else []
    charts.append(_retention(run))
    return [chart for chart in charts if chart is not None]


def _over_frames(rows: Sequence[dict[str, Any]]) -> list[Chart | None]:
    inputs = [row for row in rows if row.get("role") != "held_out"]
    held_out = [row for row in rows if row.get("role") == "held_out"]
    memory = [_series("process", inputs, "rss_mib"), _series("state", inputs, "state_mib")]
    return [
        line_chart(
            "Latency",
            [
                _series("arrival to absorbed", inputs, "latency_ms"),
                _series("its chunk's update", inputs, "absorb_ms"),
            ],
            "frame",
            "ms",
            "From a frame's arrival to its place in the memory",
            from_zero=True,
        ),
        line_chart(
            "Memory",
            memory,
            "frame",
            "MiB",
            "The process and the state it carries",
            from_zero=True,
        ),
        line_chart(
            "Foreseen",
            [
                _series("picture", inputs, "residual"),
                _series("memory alone", inputs, "memory_residual"),
            ],
            "frame",
            "dB",
            "PSNR of frames of each chunk, drawn before the chunk is absorbed",
            least_span=_LEAST_DB,
        ),
        line_chart(
            "Held-out quality",
            [_series("rendered", held_out, "psnr")],
            "frame",
            "dB",
            "PSNR of each held-out view after the whole stream",
            least_span=_LEAST_DB,
        ),
        line_chart(
            "Time to render",
            [_series("one view", held_out, "latency_ms")],
            "frame",
            "ms",
            "One held-out view, rendered alone",
            from_zero=True,
        ),
    ]


def _retention(run: RunContents) -> Chart | None:
    scenes = run.metrics.get("scenes") or []
    details = run.metrics.get("details") or {}
    curve = details.get("retention_psnr")
    if curve is None and len(scenes) == 1:
        curve = scenes[0].get("retention_curve_db")
    curve, every = curve or [], details.get("retention_stride") or 1
    return line_chart(
        "Retention",
        [Series("first chunk", [1 + every * place for place in range(len(curve))], curve)],
        "chunk",
        "dB",
        "PSNR of the first chunk's frames after each later chunk, memory alone",
        least_span=_LEAST_DB,
    )


def training_charts(run: RunContents) -> list[Chart]:
    """Loss and its parts, gradient norm, learning rate, step time, held-out scenes."""
    lines = [line for line in run.curve if _is_number(line.get("step"))]
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return []
    parts = [
        key for key, value in steps[-1].items() if key not in _NOT_LOSSES and _is_number(value)
    ]
    losses = [_over(key, steps, key) for key in ("loss", *parts[: _MAX_LINES - 1])]
    charts = [
        line_chart("Loss", losses, "step", "", "Logarithmic", log=True),
        _held_out_scenes(lines),
        line_chart("Gradient norm", [_over("norm", steps, "gradient_norm")], "step", "", log=True),
        line_chart("Learning rate", [_over("factor", steps, "rate")], "step", "", from_zero=True),
        line_chart(
            "Step time", [_over("time", steps, "ms_per_step")], "step", "ms", from_zero=True
        ),
    ]
    return [chart for chart in charts if chart is not None]


def adaptation_charts(run: RunContents) -> list[Chart]:
    """What the kept-back inputs of a capture gain for every second; only `adapt` leaves that."""
    if run.record.get("verb") != "adapt":
        return []
    checks = [line for line in run.curve if isinstance(line.get("held_out"), dict)]
    checks = [check for check in checks if _is_number(check.get("elapsed_s"))]
    seconds = [float(check["elapsed_s"]) for check in checks]
    names = checks[0]["held_out"] if checks else ()
    chart = line_chart(
        "Gain",
        [
            Series(name, seconds, [check["held_out"].get(name) for check in checks])
            for name in names
        ],
        "s",
        "dB",
        "PSNR of inputs that were kept back, over the time of learning",
        least_span=_LEAST_DB,
    )
    return [] if chart is None else [chart]


def _held_out_scenes(lines: Sequence[dict[str, Any]]) -> Chart | None:
    """PSNR over the run; of nested names (`set/room`) the shortest come first."""
    measured = [line for line in lines if isinstance(line.get("held_out"), dict)]
    names = {name for line in measured for name in line["held_out"]}
    shown = sorted(names, key=lambda name: (name.count("/"), name))[:_MAX_LINES]
    series = [
        Series(name, [m["step"] for m in measured], [m["held_out"].get(name) for m in measured])
        for name in shown
    ]
    return line_chart("Held-out scenes", series, "step", "dB", "PSNR", least_span=_LEAST_DB)


def _series(label: str, rows: Sequence[dict[str, Any]], key: str) -> Series:
    known = [row for row in rows if row.get(key) is not None]
    return Series(label, [row["id"] for row in known], [row[key] for row in known])


def _over(label: str, lines: Sequence[dict[str, Any]], key: str) -> Series:
    return Series(label, [line["step"] for line in lines], [line.get(key) for line in lines])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
