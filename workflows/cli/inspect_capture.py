"""`everview inspect CAPTURE`: decode everything, say what is there, draw what can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everview.workflows.cli.arguments import CaptureArgument, CommonFlags, Switch
from everview.workflows.cli.outcome import Outcome, table

_SKIPPED_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Decode every image of a capture within limits and say what it holds.

    A frame that can't be read is skipped, named and counted (exit code 0); a capture that can't be
    read is refused (exit code 3). With --out, a contact sheet and a plot of the cameras are left.
    """

    capture: CaptureArgument
    """folder, transforms.json, opencv_cameras.json, video or procedural:// URL"""
    allow_external_paths: Switch = False
    """follow paths and links that leave the capture's folder"""


def run(arguments: Arguments) -> Outcome:
    from everview.datasets.opening import open_capture
    from everview.pipeline.runs import RunDirectory, write_json, write_text
    from everview.workflows.inspection import contact_sheet, frustum_plot, inspect_frames

    capture = open_capture(
        arguments.capture, allow_external_paths=arguments.allow_external_paths
    )  # fmt: skip
    if arguments.out is None:
        found = inspect_frames(capture)
        return Outcome(found.facts, _page(found.facts))
    with RunDirectory.open(arguments.out, "inspect", arguments, fresh=arguments.fresh) as run:
        found = inspect_frames(capture)
        run.note(input={"source": found.info.source, "identity": found.facts["identity"]},
                 gauge=found.facts["gauge"])  # fmt: skip
        write_json(run.path / "inspection.json", found.facts)
        contact_sheet(found.thumbnails).save(run.path / "contact_sheet.png")
        if found.cameras:
            unit = "m" if found.info.scale == "metric" else "units"
            write_text(run.path / "cameras.svg", frustum_plot(found.cameras, unit))
    return Outcome(found.facts, _page(found.facts), run=run.path)


def _page(facts: Mapping[str, Any]) -> str:
    """The facts as a table, the skipped frames below it."""
    cameras, time, depth, gauge = (facts[key] for key in ("cameras", "time", "depth", "gauge"))
    rows = [
        ("capture", facts["capture"]),
        ("format", facts["format"]),
        ("frames", f"{facts['frames']} decoded, {len(facts['skipped'])} skipped"),
        ("sizes", ", ".join(f"{size} ({count})" for size, count in facts["sizes"].items())),
        ("scale", facts["scale"].replace("_", " ")),
    ]
    if cameras:
        extent = " x ".join(f"{side:g}" for side in cameras["extent"])
        rows += [
            ("cameras", f"{cameras['count']}, field of view {_range(cameras['fov_x_deg'])} deg"),
            ("path", f"{cameras['path_length']:g} long, extent {extent}"),
            ("step", f"{_range(cameras['step'])}, turning {_range(cameras['turn_deg'])} deg"),
        ]
    else:
        rows.append(("cameras", "none: poses are not known"))
    rows.append(("time", f"{time['span_s']:g} s, every {_range(time['interval_s'])} s"
                 if time else "no clock"))  # fmt: skip
    rows.append(("depth", f"{depth['coverage']:.0%} of pixels, {depth['nearest']:g} to "
                          f"{depth['farthest']:g}, median {depth['median']:g}"
                 if depth and depth["median"] is not None else "none"))  # fmt: skip
    rows.append(("gauge", f"{gauge['rule']}: 1 unit is {gauge['unit']:g}"
                 if gauge["rule"] else gauge["reason"]))  # fmt: skip
    told = facts["conventions"]
    rows += [("warning", told["warning"])] if told and told["warning"] else []
    rows += [("licence", facts["licence"])] if facts["licence"] else []
    rows += [("note", note) for note in facts["notes"]]
    skipped = facts["skipped"]
    lines = [f"skipped {skip['name']}: {skip['reason']}" for skip in skipped[:_SKIPPED_SHOWN]]
    if len(skipped) > _SKIPPED_SHOWN:
        lines.append(f"and {len(skipped) - _SKIPPED_SHOWN} more (--json lists them all)")
    return "\n".join([table(rows), *lines])


def _range(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "-"
    if spread["min"] == spread["max"]:
        return f"{spread['median']:g}"
    return f"{spread['min']:g} to {spread['max']:g} (median {spread['median']:g})"
