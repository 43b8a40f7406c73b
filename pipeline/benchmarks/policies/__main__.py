"""Run the ablation, print its table, write its rows.

python -m everview.pipeline.benchmarks.policies [--only surprise] [--seeds 3 5] [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.benchmarks.command import command, markdown, say
from everview.pipeline.benchmarks.policies.ablation import COLUMNS, run_ablation, table_rows
from everview.pipeline.benchmarks.policies.loops import Loop
from everview.pipeline.streaming.scenes import open_model


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="policies", description="What policies gain on loops.")
    parser.add_argument("--only", default="", help="policies whose name begins so, and the base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5], help="of the rooms")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--lap-frames", type=int, default=32, help="a multiple of 8")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON, rewritten after every row; rows that are "
                        "there already stay")  # fmt: skip
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    loops = [
        Loop(seed, dynamic, given.laps, given.lap_frames, given.size)
        for seed in given.seeds
        for dynamic in (False, True)
    ]
    model = open_model(given.weights, given.device)
    report = run_ablation(model, given.weights, loops, given.out, say, given.only)
    print(markdown(COLUMNS, table_rows(report)))
    return 0


if __name__ == "__main__":
    command("policies", main)
