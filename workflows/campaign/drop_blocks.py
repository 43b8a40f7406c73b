"""Which blocks of a stack a shallower model misses least, on held-out procedural scenes.

    python -m everview.workflows.campaign.drop_blocks --length 3 --keep 3 --out DROPPED.json

Greedy: every block is left out in turn, the one that costs least goes, and so on, nothing being
trained in between. What is left is where a small recipe starts.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from everview.models.layers.blocks import block_length
from everview.models.scene_model import SceneModel
from everview.models.shallower import shallower
from everview.models.weight_files import load_model
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.training.held_out import HeldOut, means_over_worlds, measure, render_held_out
from everview.pipeline.training.sources import render_scenes
from everview.workflows.recipes import find_recipe

JUDGED = "set/rgb"


@dataclass(frozen=True)
class Dropped:
    """One round: the block that went, and what each would have left, in dB."""

    block: int
    psnr: float
    candidates: dict[int, float]


def drop_blocks(
    model: SceneModel, held_out: HeldOut, keep: int, length: int
) -> tuple[list[int], list[Dropped]]:
    """The blocks of `length` layers that are left, by their places in the whole stack; and how it
    came to that."""
    left = list(range(len(model.config.stack) // length))
    rounds: list[Dropped] = []
    while len(left) > keep:
        psnr: dict[int, float] = {}
        for block in left:
            layers = layers_of([other for other in left if other != block], length)
            psnr[block] = means_over_worlds(measure(shallower(model, layers), held_out))[JUDGED]
        gone = max(psnr, key=lambda block: psnr[block])
        left.remove(gone)
        rounds.append(Dropped(gone, psnr[gone], psnr))
        print(f"{len(left)} left: without {gone} {psnr[gone]:.2f} dB", file=sys.stderr, flush=True)
    return left, rounds


def layers_of(blocks: list[int], length: int) -> tuple[int, ...]:
    """Places of the layers of `blocks`."""
    return tuple(block * length + place for block in blocks for place in range(length))


def main(arguments: list[str] | None = None) -> int:
    """Write what was tried; print what is left."""
    parser = argparse.ArgumentParser(prog="drop_blocks", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="trunk")
    parser.add_argument("--keep", type=int, required=True, help="blocks")
    parser.add_argument(
        "--length",
        type=int,
        default=None,
        help="layers of a block (what the stack repeats)",
    )
    parser.add_argument("--scenes", type=int, default=1, help="held-out scenes of each world")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    config = find_recipe("base")()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(given.weights).to(device)
    stack = model.config.stack
    length = block_length(stack) if given.length is None else given.length
    if length < 1 or len(stack) % length:
        parser.error(f"--length {length}: it has to divide the {len(stack)} layers of {stack}")
    blocks = len(stack) // length
    if not 1 <= given.keep < blocks:
        parser.error(f"--keep {given.keep}: 1 to {blocks - 1} of the {blocks} blocks")
    judged = replace(config.evaluation, scenes=given.scenes, targets=4, chunks=(1,), streams=())
    held_out = render_held_out(config.data, judged, render_scenes, device)
    whole = means_over_worlds(measure(model, held_out))[JUDGED]
    left, rounds = drop_blocks(model, held_out, given.keep, length)
    layers = layers_of(left, length)
    report = {
        "weights": given.weights,
        "scenes": given.scenes,
        "length": length,
        "whole": whole,
        "rounds": [asdict(dropped) for dropped in rounds],
        "layers": layers,
    }
    write_json(given.out, report)
    print(f"{whole:.2f} dB whole; layers {layers}: {rounds[-1].psnr:.2f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
