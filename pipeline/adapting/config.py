"""What `everview adapt` can be told; the resolved value in `run.json` repeats the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.errors import UsageError

_PATCH = 8


@dataclass(frozen=True)
class Recipe:
    """How the slow weights move: a little, since they have seen many scenes. Raises UsageError."""

    rate: float = 1e-4
    """AdamW's, for all weights: its steps are small where gradients disagree"""
    warm_up_steps: int = 5
    """steps from 0 to the full rate"""
    cooldown: float = 0.3
    """share of the time, at its end, over which the rate falls"""
    written: int = 12
    """inputs that a step writes, at most; fewer where the capture has fewer"""
    asked: int = 4
    """other inputs that a step asks for"""
    memory_share: float = 0.25
    """share of those that are asked of the memory alone"""
    perceptual: float = 0.03
    """weight of LPIPS in the loss, where it can be computed: squared error alone gains by blur"""
    least_sharpness: float = 0.9
    """what the kept-back inputs' Laplacian power must keep of its first value for weights to
    count, whatever they gain"""

    def __post_init__(self) -> None:
        if not self.rate > 0 or self.warm_up_steps < 0 or not 0 <= self.cooldown <= 1:
            raise UsageError(
                f"rate {self.rate}, warm_up_steps {self.warm_up_steps} and cooldown "
                f"{self.cooldown}: above 0, from 0, and from 0 to 1"
            )
        if self.written < 1 or self.asked < 1:
            raise UsageError(
                f"written {self.written} and asked {self.asked}: at least one view each"
            )
        if not 0 <= self.memory_share <= 1:
            raise UsageError(f"memory_share {self.memory_share}: from 0 to 1")
        if self.perceptual < 0 or self.least_sharpness < 0:
            raise UsageError(
                f"perceptual {self.perceptual} and least_sharpness {self.least_sharpness}: from 0"
            )


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
