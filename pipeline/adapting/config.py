"""What `everview adapt` can be told; the resolved value in `run.json` repeats the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.errors import UsageError
from everview.pipeline.training.config import LossConfig, OptimiserConfig
from everview.pipeline.training.learning_rate import RateSchedule, constant

_PATCH = 8


@dataclass(frozen=True)
class Recipe:
    """How the slow weights move. A weight that has seen many scenes is moved a little: AdamW alone,
    whose steps are small where gradients disagree, and no decay. Raises UsageError."""

    optimiser: OptimiserConfig = OptimiserConfig(  # noqa: RUF009 (frozen)
        hidden="adamw", adamw_rate=1e-4, beta2=0.99, weight_decay=0.0
    )
    rate: RateSchedule = RateSchedule(warm_up_steps=5, cooldown=0.3)
    loss: LossConfig = LossConfig(  # noqa: RUF009 (frozen)
        direct=constant(0.1), charbonnier=constant(0.1), depth=constant(0.05)
    )
    written: int = 12
    """inputs that a step writes, at most; fewer where the capture has fewer"""
    asked: int = 4
    """other inputs that a step asks for"""
    memory_share: float = 0.25
    """share of those that are asked of the memory alone"""

    def __post_init__(self) -> None:
        if self.written < 1 or self.asked < 1:
            raise UsageError(
                f"written {self.written} and asked {self.asked}: at least one view each"
            )
        if not 0 <= self.memory_share <= 1:
            raise UsageError(f"memory_share {self.memory_share}: from 0 to 1")


@dataclass(frozen=True)
class AdaptConfig:
    """Raises UsageError with the value, the limit and the reason."""

    capture: str
    """a folder, a file or a procedural:// URL; or a run of `stream`, whose capture it is then"""
    seconds: float = 60.0
    """of learning; looking at the kept-back inputs and judging come on top"""
    weights: str = DEFAULT_WEIGHTS
    """published name, folder, or URL#hash to start from"""
    inputs: int | None = None
    """the capture's inputs are N frames spread over it, in one set
    (default: every 8th frame is held out, the rest is streamed in chunks of 8)"""
    size: int = 128
    """side of the square pictures, pixels"""
    least_gain_db: float = 0.05
    """what the kept-back inputs must gain for the adapted weights to be used"""
    checks: int = 10
    """times that the kept-back inputs are looked at, evenly over the time"""
    patience: int = 3
    """checks without a gain after which learning stops"""
    seed: int = 0
    """of the splits"""
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 86400:
            raise UsageError(f"--seconds {self.seconds:g}: above 0 and at most a day")
        if self.size < 16 or self.size % _PATCH:
            raise UsageError(f"--size {self.size}: a multiple of {_PATCH}, at least 16")
        if self.inputs is not None and self.inputs < 4:
            raise UsageError(
                f"--inputs {self.inputs}: at least 4, to write, to ask for and to keep back"
            )
        if self.checks < 1 or self.patience < 1:
            raise UsageError(f"checks {self.checks} and patience {self.patience}: at least 1 each")
