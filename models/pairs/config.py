"""The configuration of a pair matcher: frozen, complete, the same data in code and files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

STRIDE = 4
"""pixels between two points of a frame that are matched"""
COARSE = 8
"""pixels between two tokens; sides of pictures are multiples of it"""


@dataclass(frozen=True)
class PairConfig:
    """Sizes of the network. Raises ValueError with value, limit and reason."""

    stem: int = 40
    """channels at half the resolution"""
    fine: int = 80
    """channels at a quarter"""
    dim: int = 160
    """width of a token, at an eighth"""
    heads: int = 4
    """of attention"""
    own_layers: int = 2
    """of attention inside a frame, done once a frame"""
    joint_layers: int = 2
    """of attention to the other frame and inside, done once a pair"""
    match: int = 64
    """channels of the features that are correlated for refinement"""
    hidden: int = 96
    """channels of the refinement's state"""
    radius: int = 3
    """correlations looked up around a match, in points, on two levels"""
    iterations: int = 4
    """of refinement"""
    place: int = 64
    """length of the vector by which places are recognised"""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or not 1 <= value <= 1024:
                raise ValueError(f"{field.name} {value!r}: a whole number from 1 to 1024")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `PairConfig(**dict)` is the way back."""
        return dataclasses.asdict(self)
