"""Any number of ranks trains the same run: same batches, same losses, same weights."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everview.models.config import WindowConfig
from everview.models.state import named_tensors
from everview.pipeline.errors import UsageError
from everview.pipeline.training import train_run
from everview.pipeline.training.checkpoints import newest
from everview.pipeline.training.config import EpisodeShape, ParallelConfig, TrainConfig
from everview.pipeline.training.exchange import open_exchange
from everview.pipeline.training.feeding import Feeder
from everview.pipeline.training.local_ranks import run_ranks
from everview.pipeline.training.loop import train
from everview.pipeline.training.optimisers import AVERAGE
from everview.pipeline.training.pieces import assembled
from everview.pipeline.training.ranks import Ranks, Share
from everview.pipeline.training.reporting import CURVE, Curve
from everview.pipeline.training.scene_pool import ScenePool
from everview.pipeline.training.train_run import CHECKPOINTS
from tests.pipeline.training.flat_scenes import plane_run, render_for_a_run, render_planes

CPU = torch.device("cpu")
STEPS = 6
PLAIN = plane_run(STEPS)
CONFIG = replace(PLAIN, optimiser=replace(PLAIN.optimiser, average_decay=0.9))
"""The weights' running mean is kept in every way, and told by every comparison."""
SHARED = replace(
    CONFIG,
    model=replace(CONFIG.model, memory_writes=("w0", "w1", "w2"), memory_momentum=True),
    data=replace(CONFIG.data, shapes=(EpisodeShape(2, 4, 2, (1, 2)),)),
    parallel=ParallelConfig(context=2),
)
SHARED_AT_ONCE = replace(
    SHARED,
    model=replace(CONFIG.model, stack="WTFS", window=WindowConfig(frames=2, sinks=1, cells=2)),
    data=replace(SHARED.data, schedules=(("chunk_causal", 1.0), ("set", 1.0))),
)
"""All chunks' directions in one batch; and a window over frames of all ranks, with more frames than
slots: queries read the nearest ones, whoever holds them."""
SHARING = {"shared": SHARED, "at once": SHARED_AT_ONCE}
BLIND = ("layers.1.rates.bias",)
"""Rates' common factor, which Newton-Schulz takes out again: the gradient is rounding, and AdamW
makes whole steps of it."""


def ranked_train(rank: int, size: int, folder: Path, *runs: tuple[TrainConfig, str, int]) -> None:
    """Runs one after another: what to train, below which name in `folder`, up to which step. A run
    that is there is continued."""
    train_run.render_scenes = render_for_a_run
    for config, name, until in runs:
        exchange = open_exchange(config.parallel.context, 60.0)
        train(config, folder / name, exchange=exchange, stop_signal=StopAt(folder / name, until))


class StopAt:
    """SIGTERM once the run in `folder` has come to a step; counts the steps of this attempt."""

    def __init__(self, folder: Path, until: int) -> None:
        before = newest(folder / CHECKPOINTS, pytest.fail)
        self.left = until - (0 if before is None else before.step)

    def __call__(self) -> int:
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0


def losses(out: Path) -> list[dict[str, float]]:
    timing = ("elapsed_s", "ms_per_step", "feed_s")
    return [
        {name: value for name, value in line.items() if name not in timing}
        for line in Curve.read(out / CURVE)
        if "loss" in line
    ]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The last checkpoint's weights, and their running means under names of their own."""
    found = newest(out / CHECKPOINTS, pytest.fail)
    assert found is not None
    state = assembled(found.tensors["optimiser"])
    means = {name: value for name, value in state.items() if name.startswith(AVERAGE)}
    whole = assembled(found.tensors["model"]) | means
    return {name: value.flatten() for name, value in whole.items()}


def measured(out: Path) -> dict[str, float]:
    (line,) = [line for line in Curve.read(out / CURVE) if "held_out" in line]
    return line["held_out"]


def assert_same_run(one: Path, other: Path) -> None:
    first, second = losses(one), losses(other)
    assert len(first) == len(second) == STEPS
    for expected, line in zip(first, second, strict=True):
        assert line == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert measured(other) == pytest.approx(measured(one), abs=1e-3)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() >= {AVERAGE + name for name in BLIND}
    for name, value in ours.items():
        if name.removeprefix(AVERAGE) not in BLIND:
            torch.testing.assert_close(theirs[name], value, atol=2e-5, rtol=1e-4, msg=name)


def assert_equal_run(one: Path, other: Path) -> None:
    """Bit for bit."""
    assert losses(one) == losses(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run that all others are compared with: one process, one micro-batch."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "render_scenes", render_for_a_run)
        train(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """One start of two processes for every way in which they train, and the beginning of a run
    that others go on with. ZeRO 3 divides everything there is to divide."""
    folder = tmp_path_factory.mktemp("two_ranks")
    zero = replace(CONFIG, parallel=ParallelConfig(zero=3, micro_scenes=1, offload=True))
    divided = replace(CONFIG, parallel=ParallelConfig(zero=1))
    run_ranks(ranked_train, 2, folder, (CONFIG, "plain", STEPS), (zero, "zero", STEPS),
              *((config, name, STEPS) for name, config in SHARING.items()),
              (divided, "moved", 2))  # fmt: skip
    return folder


def test_shares_of_a_batch_are_the_batch():
    """Two ranks' episodes, interleaved, are the one rank's: every tensor, every step's."""
    whole = Feeder(ScenePool(CONFIG.data, 3, CPU, render_planes), 3)
    shares = [
        Feeder(ScenePool(CONFIG.data, 3, CPU, render_planes, share=Share(rank, 2)), 3)
        for rank in range(2)
    ]
    for step in (0, 1, 9):
        expected = dict(named_tensors(whole.episode(step, 0.5)[0]))
        parts = [dict(named_tensors(feeder.episode(step, 0.5)[0])) for feeder in shares]
        for name, tensor in expected.items():
            joined = torch.stack([part[name] for part in parts], 1).flatten(0, 1)
            assert torch.equal(joined.nan_to_num(), tensor.nan_to_num()), name


def test_a_rank_renders_no_scene_of_another_rank():
    rendered: list[list[int]] = []
    for rank in range(2):
        seeds: list[int] = []

        def counted(world, numbers, *rest, kept=seeds):
            kept.extend(numbers.tolist())
            return render_planes(world, numbers, *rest)

        pool = ScenePool(CONFIG.data, 3, CPU, counted, share=Share(rank, 2))
        for step in range(20):
            pool.advance(step)
        rendered.append(seeds)
    assert len(rendered[0]) == len(rendered[1]) > 0
    assert not set(rendered[0]) & set(rendered[1])


def test_a_number_of_workers_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(UsageError, match="possible are 1, 2, 4"):
        Ranks(0, 3).check(4)
    with pytest.raises(UsageError, match="groups of 2"):
        Ranks(0, 3, replace(Ranks().context, count=2)).check(4)


def test_micro_batches_and_recomputed_activations_change_nothing(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(train_run, "render_scenes", render_for_a_run)
    train(replace(CONFIG, parallel=ParallelConfig(micro_scenes=1, recompute=True)), tmp_path)
    assert_same_run(alone, tmp_path)


@pytest.mark.slow
def test_two_ranks_train_what_one_trains_plain_divided_by_zero_and_sharing_captures(
    alone, two_ranks, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_run, "render_scenes", render_for_a_run)
    assert_same_run(alone, two_ranks / "plain")
    assert_same_run(alone, two_ranks / "zero")
    half = CONFIG.data.shapes[0].scenes // 2
    train(replace(CONFIG, parallel=ParallelConfig(micro_scenes=half)), tmp_path / "accumulated")
    assert_equal_run(two_ranks / "plain", tmp_path / "accumulated")
    for name, config in SHARING.items():
        train(replace(config, parallel=ParallelConfig()), tmp_path / f"{name}, whole")
        assert_same_run(tmp_path / f"{name}, whole", two_ranks / name)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(alone, two_ranks, monkeypatch):
    """Two steps on two ranks, Muon's momentum divided; two on one; two on two."""
    run = two_ranks / "moved"
    assert losses(run)[-1]["step"] == 2
    monkeypatch.setattr(train_run, "render_scenes", render_for_a_run)
    train(CONFIG, run, stop_signal=StopAt(run, 4))
    assert losses(run)[-1]["step"] == 4
    run_ranks(ranked_train, 2, two_ranks, (CONFIG, "moved", STEPS))
    assert_same_run(alone, run)


def test_chunks_that_ranks_cannot_divide_are_refused():
    context = replace(Ranks().context, count=2)
    with pytest.raises(ValueError, match="3 views"):
        context.own_chunks((4, 3))
