"""Choices that need no training, by published weights: frames kept, and how far a commit goes.

    python -m everview.workflows.campaign.choices --weights base --out CHOICES.json \
        --captures fox hololens60 'procedural://room?seed=1000000011&frames=73&size=128'

Every 8th frame is held out. Frames kept are compared in chunks of 8; steps over several numbers of
chunks, whose gauge is that of all inputs. The file is rewritten after every row, and the same
command goes on with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from everview.models.scene_model import SceneModel
from everview.models.steps import ConstantStep, InverseSqrtStep, StepPolicy
from everview.models.weight_files import load_model
from everview.pipeline.evaluation.protocols import CHUNK_FRAMES, Split, every_eighth
from everview.pipeline.evaluation.scene_frames import SceneFrames, load_scene
from everview.pipeline.evaluation.scene_scores import causal_gaps
from everview.pipeline.runs.atomic import write_json

CAPACITIES = (2, 4, 8, 16, 32, 64)
CHUNKS = (1, 4, 8, 16, 32, 64)
STEPS: dict[str, StepPolicy] = {
    "1/sqrt(n), floor 1/4": InverseSqrtStep(),
    "1/sqrt(n), no floor": InverseSqrtStep(floor=0.0),
    "1": ConstantStep(1.0),
    "1/4": ConstantStep(0.25),
}


@dataclass(frozen=True)
class Row:
    """What one choice gave; PSNR in dB, of the picture and of the memory alone."""

    capture: str
    kept: int
    step: str
    chunks: int
    psnr: float
    memory_alone: float

    @property
    def choice(self) -> tuple[str, int, str]:
        """What is chosen; its chunks are measured together."""
        return self.capture, self.kept, self.step


def keeping(model: SceneModel, capacity: int) -> SceneModel:
    """The same weights with a bank of `capacity` frames. Raises ValueError for weights without."""
    if model.config.bank is None:
        raise ValueError("these weights have no frame bank: nothing is kept, whatever its size")
    bank = replace(model.config.bank, capacity=capacity)
    other = SceneModel(replace(model.config, bank=bank))
    other.load_state_dict(model.state_dict())
    return other.to(model.device).eval()


def measured(
    model: SceneModel, scene: SceneFrames, split: Split, kept: int, step: str, counts: list[int]
) -> list[Row]:
    """One choice at several numbers of chunks."""
    chosen = keeping(model, kept).committing(STEPS[step], None)
    return [
        Row(scene.name, kept, step, gap.chunks, gap.psnr, gap.memory_alone_psnr)
        for gap in causal_gaps(chosen, scene, split, counts)
    ]


def choices(inputs: int, full: int) -> Iterator[tuple[int, str, list[int]]]:
    """Frames kept, step and numbers of chunks, of everything that is compared."""
    trained = next(iter(STEPS))
    for kept in CAPACITIES:
        if kept < full:
            yield kept, trained, [max(1, inputs // CHUNK_FRAMES)]
    for step in STEPS:
        yield full, step, [count for count in CHUNKS if count <= inputs]


def main(arguments: list[str] | None = None) -> int:
    """Measure what the file doesn't hold yet."""
    parser = argparse.ArgumentParser(prog="choices", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="base")
    parser.add_argument("--captures", nargs="+", required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    rows = []
    if given.out.exists():
        report = json.loads(given.out.read_text())
        if (report["weights"], report["size"]) != (given.weights, given.size):
            parser.error(f"{given.out} is of {report['weights']} at {report['size']} px: another")
        rows = [Row(**row) for row in report["rows"]]
    known = {row.choice for row in rows}
    model = load_model(given.weights)
    full = max(CAPACITIES)
    for capture in given.captures:
        scene = load_scene(capture, capture.rstrip("/").rpartition("/")[2], given.size)
        split = every_eighth(len(scene.frames))
        for kept, step, counts in choices(len(split.inputs), full):
            if (scene.name, kept, step) in known:
                continue
            new = measured(model, scene, split, kept, step, counts)
            rows += new
            for row in new:
                print(row, file=sys.stderr, flush=True)
            report = {"weights": given.weights, "size": given.size, "rows": [*map(asdict, rows)]}
            write_json(given.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
