"""`everview bench ranks`: one run trained in every way that ranks can divide it, on the CPU.

What is compared is equality, not speed: losses of every step and the weights after the last, with
their running means, of ZeRO 0 to 3, host memory, micro-batches and shared captures, against one
process that does none of that, in float32 with float32 Newton-Schulz.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everview.models import config as models
from everview.models.scene_model import SceneModel
from everview.pipeline.errors import InputRejected
from everview.pipeline.training.checkpoints import newest
from everview.pipeline.training.config import (
    DataConfig,
    EpisodeShape,
    EvaluationConfig,
    OptimiserConfig,
    ParallelConfig,
    TrainConfig,
    World,
)
from everview.pipeline.training.exchange import open_exchange
from everview.pipeline.training.learning_rate import Budget, RateSchedule
from everview.pipeline.training.local_ranks import run_ranks
from everview.pipeline.training.loop import train
from everview.pipeline.training.optimisers import AVERAGE
from everview.pipeline.training.pieces import assembled
from everview.pipeline.training.reporting import CURVE, Curve
from everview.pipeline.training.train_run import CHECKPOINTS

LIMIT = 1e-5
COLUMNS = ("ranks", "hidden", "way", "steps", "largest loss difference", "weights apart / moved")

_WAYS: Mapping[str, tuple[int, ParallelConfig]] = {
    "data parallel": (2, ParallelConfig()),
    "micro-batches": (1, ParallelConfig(micro_scenes=1)),
    "ZeRO 0": (2, ParallelConfig(zero=0)),
    "ZeRO 1": (2, ParallelConfig(zero=1)),
    "ZeRO 2": (2, ParallelConfig(zero=2)),
    "ZeRO 3": (2, ParallelConfig(zero=3)),
    "ZeRO 2, offload, micro-batches": (2, ParallelConfig(zero=2, offload=True, micro_scenes=1)),
    "ZeRO 3, offload, micro-batches": (2, ParallelConfig(zero=3, offload=True, micro_scenes=1)),
    "context 2": (2, ParallelConfig(context=2)),
    "context 2, ZeRO 3": (2, ParallelConfig(context=2, zero=3)),
    "context 2 x data 2": (4, ParallelConfig(context=2)),
}


@dataclass(frozen=True)
class RankRow:
    """One way against one process. weights: distance between both ends over the distance moved,
    of the weights and their running means together."""

    ranks: int
    hidden: str
    way: str
    steps: int
    loss: float
    weights: float

    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS`."""
        counts = str(self.ranks), self.hidden, self.way, str(self.steps)
        return (*counts, f"{self.loss:.1e}", f"{self.weights:.1e}")

    @property
    def holds(self) -> bool:
        """Whether every loss is within the limit."""
        return self.loss <= LIMIT


def compare_ranks(steps: int, only: str = "") -> list[RankRow]:
    """Every way whose name begins with `only`, with Muon and with AdamW."""
    ways = {name: way for name, way in _WAYS.items() if name.startswith(only)}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for hidden in ("muon", "adamw"):
            config = _run(hidden, steps)
            alone = Path(place) / hidden
            run_ranks(_train, 1, [(config, alone)])
            for size in sorted({size for size, _ in ways.values()}):
                chosen = {name: way for name, (count, way) in ways.items() if count == size}
                runs = [
                    (replace(config, parallel=parallel), Path(place) / f"{hidden} {name}")
                    for name, parallel in chosen.items()
                ]
                run_ranks(_train, size, runs, deadline_s=1800, collective_s=600)
                for name, (_, out) in zip(chosen, runs, strict=True):
                    rows.append(_compared(size, hidden, name, alone, out))
    return rows


def _run(hidden: Any, steps: int) -> TrainConfig:
    """A small real run: procedural scenes, every matrix of the memory written, with momentum."""
    return TrainConfig(
        name="ranks",
        budget=Budget(steps=steps),
        model=replace(
            models.tiny(), stack="WTF", memory_writes=("w0", "w1", "w2"), memory_momentum=True
        ),
        data=DataConfig(
            worlds=(World("orbit"),),
            size=16,
            samples_per_pixel=1,
            views=8,
            pool_scenes=8,
            refresh_scenes=2,
            reuse=64,
            shapes=(EpisodeShape(4, 4, 2, (1, 2)),),
        ),
        rate=RateSchedule(warm_up_steps=2),
        optimiser=OptimiserConfig(hidden=hidden, average_decay=0.9),
        evaluation=EvaluationConfig(scenes=2, inputs=4, targets=2, chunks=(1, 2), every_s=1e9),
        device="cpu",
        commit_every_s=1e9,
        report_every=1,
    )


def _train(rank: int, size: int, runs: list[tuple[TrainConfig, Path]]) -> None:
    for config, out in runs:
        train(config, out, exchange=open_exchange(config.parallel.context, 600.0))


def _compared(size: int, hidden: str, way: str, alone: Path, out: Path) -> RankRow:
    ours, theirs = (
        [line["loss"] for line in Curve.read(place / CURVE) if "loss" in line]
        for place in (out, alone)
    )
    apart = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    start = _start(out)
    one, other = _weights(out), _weights(alone)
    moved = torch.cat([(other[name] - start[name]) for name in other]).norm()
    distance = torch.cat([(one[name] - other[name]) for name in other]).norm() / moved
    return RankRow(size, hidden, way, len(ours), apart, distance.item())


def _weights(out: Path) -> dict[str, Tensor]:
    found = newest(out / CHECKPOINTS, print)
    if found is None:
        raise InputRejected(f"{out} holds no checkpoint")
    state = assembled(found.tensors["optimiser"])
    means = {name: value for name, value in state.items() if name.startswith(AVERAGE)}
    whole = assembled(found.tensors["model"]) | means
    return {name: tensor.flatten() for name, tensor in whole.items()}


def _start(out: Path) -> dict[str, Tensor]:
    """The weights before the first step."""
    torch.manual_seed(0)
    model = SceneModel(_run("muon", 1).model)
    start = {name: tensor.flatten() for name, tensor in model.state_dict().items()}
    return start | {AVERAGE + name: tensor for name, tensor in start.items()}


def as_json(rows: list[RankRow]) -> dict[str, Any]:
    """Rows and circumstances."""
    return {"limit": LIMIT, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
