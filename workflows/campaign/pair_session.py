"""One rented GPU, one command: train a pair matcher, from nothing to published weights.

    python -m everview.workflows.campaign.pair_session --recipe pairs --seconds 280 --out OUT

It needs torch, numpy, pillow, safetensors and pyarrow, no network. OUT holds the weights, rewritten
every minute, the curve and a report: six small files.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.pairs.run import train_pairs
from everview.pipeline.training.reporting import Reporter
from everview.workflows.campaign.gpu_session import describe_machine
from everview.workflows.recipes.pairs import PAIR_RECIPES


def main(arguments: list[str] | None = None) -> int:
    """Train; 0 when it went through."""
    parser = argparse.ArgumentParser(prog="pair_session", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=sorted(PAIR_RECIPES), default="pairs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seconds", type=float, default=None, help="instead of the recipe's budget"
    )
    parser.add_argument("--steps", type=int, default=None, help="the same in steps")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(arguments)
    describe_machine()
    config = replace(PAIR_RECIPES[given.recipe](), device=given.device)
    if given.seconds or given.steps:
        config = replace(config, budget=Budget(seconds=given.seconds, steps=given.steps))
    train_pairs(config, given.out, Reporter(sys.stderr))
    return 0


if __name__ == "__main__":
    sys.exit(main())
