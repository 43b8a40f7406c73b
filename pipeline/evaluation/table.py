"""The table that `evaluate` prints: the model, its memory alone, and the floors, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_COLUMNS = (
    ("psnr", "PSNR dB", 2),
    ("ssim", "SSIM", 3),
    ("lpips_alex", "LPIPS-alex", 3),
    ("laplacian_ratio", "Laplacian", 2),
)
FLOOR_LABELS = {
    "mean_colour": "floor: mean colour of the inputs",
    "nearest_view": "floor: nearest input copied",
    "depth_warp": "floor: nearest 4 warped by true depth",
}


def rows_of(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Label and scores: the model, the memory alone, each floor. None where there is none."""
    rows: list[tuple[str, Mapping[str, Any] | None]] = [("model", metrics)]
    rows.append(("model, memory alone (bank=0)", metrics.get("memory_alone")))
    floors = metrics.get("floors") or {}
    rows += [(label, floors.get(name)) for name, label in FLOOR_LABELS.items()]
    return rows


def score_table(metrics: Mapping[str, Any], title: str) -> Table:
    """Model and floors in one table."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("")
    for _, heading, _ in _COLUMNS:
        table.add_column(heading, justify="right")
    for label, scores in rows_of(metrics):
        cells = [_number((scores or {}).get(key), digits) for key, _, digits in _COLUMNS]
        table.add_row(label, *cells, style="bold" if label == "model" else None)
    return table


def scene_table(scenes: Sequence[Mapping[str, Any]]) -> Table:
    """One line a scene, beside the better of mean colour and copied view."""
    table = Table(title="scenes", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True, min_width=max(len(str(scene["name"])) for scene in scenes))
    for heading in ("PSNR dB", "memory alone", "colour, copy", "SSIM", "LPIPS-alex", "in, judged"):
        table.add_column(heading, justify="right")
    for scene in scenes:
        if scene.get("error"):
            table.add_row(str(scene["name"]), "failed")
            continue
        floors = [scene["floors"][name] for name in ("mean_colour", "nearest_view")]
        best = max(floor["psnr"] for floor in floors)
        table.add_row(
            str(scene["name"]),
            _number(scene["psnr"], 2),
            _number(scene["memory_alone"]["psnr"], 2),
            _number(best, 2),
            _number(scene["ssim"], 3),
            _number(scene["lpips_alex"], 3),
            f"{scene['num_inputs']}, {scene['num_targets']}",
        )
    return table


def gap_table(gaps: Sequence[Mapping[str, Any]]) -> Table:
    """`set` against `chunk_causal` with the same weights, inputs and gauge."""
    title = "set against chunk_causal, same weights, inputs and gauge"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    headings = ("chunks", "PSNR dB", "gap dB", "memory alone", "gap dB", "half-life, chunks",
                "half-life, s")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    keys = ("psnr", "gap_db", "memory_alone_psnr", "memory_alone_gap_db",
            "retention_half_life_chunks", "retention_half_life_s")  # fmt: skip
    for gap in gaps:
        table.add_row(str(gap["chunks"]), *(_number(gap[key], 2) for key in keys))
    return table


def as_text(tables: Sequence[Table], width: int = 100, colour: bool = False) -> str:
    """Tables as text."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour,
        legacy_windows=False,
    )  # fmt: skip
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "\n".join(lines).strip("\n")


def _number(value: Any, digits: int) -> str:
    # adding 0.0 turns a rounded -0.0 into 0.0
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"
