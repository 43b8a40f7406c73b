"""The configuration of a pair matcher's training: frozen, complete, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everview.models.pairs.config import COARSE, PairConfig
from everview.pipeline.training.config import DataConfig, EpisodeShape, OptimiserConfig, World
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant

# Streams first: neighbouring frames of a video, up to seven apart; then views at random, which are
# what a place that is seen again looks like.
WORLDS = (
    World("room", trajectory="video", share=0.34),
    World("room", dynamic=True, trajectory="video", share=0.14),
    World("room", share=0.18),
    World("tabletop", trajectory="video", share=0.10),
    World("tabletop", dynamic=True, trajectory="video", share=0.05),
    World("tabletop", share=0.07),
    World("orbit", trajectory="video", share=0.08),
    World("orbit", share=0.04),
)


@dataclass(frozen=True)
class PairLossConfig:
    """Weights of the parts of the loss over a run; see `losses`."""

    coarse: Ramp = constant(0.5)
    """cross entropy of a token's match"""
    steps: Ramp = constant(0.1)
    """absolute error in pixels after every iteration, later ones more"""
    likelihood: Ramp = Ramp(0.2, 0.5, 0.1, 0.3)
    """of the match under its Laplace distribution"""
    visible: Ramp = constant(0.5)
    """cross entropy of whether a point is seen at all"""
    depth: Ramp = constant(0.2)
    """likelihood of the log depth, up to each frame's own scale"""
    place: Ramp = constant(0.2)
    """cross entropy of how much two frames share"""
    pose: Ramp = Ramp(0.0, 1.0, 0.3, 0.5)
    """error of the camera pose that the matches say"""


@dataclass(frozen=True)
class PairAugmentation:
    """What happens to every frame by itself, as between a camera's exposures."""

    gain: float = 0.2
    """standard deviation of the log gain; a third of it per colour"""
    gamma: float = 0.15
    """of the log exponent"""
    noise: float = 0.03
    """largest standard deviation of white noise"""
    blur_share: float = 0.25
    """frames that are blurred, along one axis or both"""


@dataclass(frozen=True)
class PairTrainConfig:
    """A complete run. sizes: of the pictures of a step and their shares, each at most the pool's
    and a multiple of 8."""

    name: str
    budget: Budget
    model: PairConfig = PairConfig()  # noqa: RUF009 (frozen)
    data: DataConfig = DataConfig(  # noqa: RUF009
        worlds=WORLDS, size=128, views=8, pool_scenes=752, refresh_scenes=16, reuse=6.0,
        shapes=(EpisodeShape(scenes=32, inputs=1, targets=1, chunks=(1,)),),
    )  # fmt: skip
    pairs: int = 32
    """of a step, each in both directions"""
    sizes: tuple[tuple[int, float], ...] = ((128, 0.5), (96, 0.3), (64, 0.2))
    augmentation: PairAugmentation = PairAugmentation()
    rate: RateSchedule = RateSchedule(warm_up_steps=200, cooldown=0.6)
    optimiser: OptimiserConfig = OptimiserConfig(  # noqa: RUF009
        hidden="adamw", adamw_rate=8e-4, beta2=0.98, weight_decay=0.02, average_decay=0.998
    )
    loss: PairLossConfig = PairLossConfig()
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    commit_every_s: float = 60.0
    report_every: int = 50
    held_out_scenes: int = 16
    """of each kind of held-out scene"""

    def __post_init__(self) -> None:
        for size, share in self.sizes:
            if size % COARSE or size > self.data.size or share <= 0:
                raise ValueError(
                    f"pictures of {size} px at a share of {share}: a multiple of {COARSE} up to "
                    f"{self.data.size} px, and a positive share"
                )
        if self.data.views < 2 or self.pairs < 1:
            raise ValueError("pairs need two views of a scene, and a step at least one pair")
