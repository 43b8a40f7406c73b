"""`python -m everview.pipeline.benchmarks.scaling`: the same as `everview bench scaling`, where its
command line isn't installed."""

from __future__ import annotations

import argparse
from pathlib import Path

from everview.pipeline.benchmarks.command import command, markdown, say
from everview.pipeline.benchmarks.scaling.entries import ENTRIES, chosen
from everview.pipeline.benchmarks.scaling.rows import COLUMNS, Setting, run_benchmarks, table_rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table; 0 when every row has its figure, 1 when something failed."""
    parser = argparse.ArgumentParser(prog="scaling", description="What scaling costs.")
    parser.add_argument("--rows", default="", help=", ".join(entry.name for entry in ENTRIES))
    parser.add_argument("--out", type=Path, default=None, help="JSON, rewritten after every row")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all rows together")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--ranks", type=int, default=None, help="all GPUs, or 2 on the CPU")
    parser.add_argument("--small", action="store_true", help="only show that everything runs")
    parser.add_argument("--shards", nargs="*", default=(), help="a set of the feed's size")
    given = parser.parse_args(arguments)
    setting = Setting.here(given.device, given.ranks, given.seconds, given.shards, given.small)
    report = run_benchmarks(chosen(given.rows), setting, given.out, say)
    print(markdown(COLUMNS, table_rows(report)))
    return int(any(row["failure"] for row in report["rows"]))


if __name__ == "__main__":
    command("scaling", main)
