"""Warm-up, stable, decay: a learning rate as data, for runs counted in steps or in seconds.

A run that rents a card has a wall-clock budget and must always finish its cooldown, so everything
that changes over a run is a function of `progress` in [0, 1], which is step / steps or
elapsed / seconds. Only the warm-up counts steps: it protects the optimiser's first moments, which
know nothing of clocks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: exactly one of `steps` and `seconds` is given."""

    steps: int | None = None
    """optimiser steps"""
    seconds: float | None = None
    """wall-clock seconds of the loop, with compilation, evaluation and commits, after loading"""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a budget is given in steps or in seconds, one of the two")
        if (self.steps or self.seconds or 0) <= 0:
            raise ValueError(f"a budget of {self.steps or self.seconds} is not positive")

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the run that lies behind, in [0, 1]; 1 ends it."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.seconds is not None
        return min(elapsed_s / self.seconds, 1.0)


@dataclass(frozen=True)
class RateSchedule:
    """The learning rate's factor over a run: up in steps, flat, then linearly down."""

    warm_up_steps: int = 250
    """steps from 0 to the full rate"""
    cooldown: float = 0.5
    """share of the run, at its end, over which the rate falls linearly"""
    floor: float = 0.0
    """factor at the very end"""

    def __post_init__(self) -> None:
        if self.warm_up_steps < 0 or not 0 <= self.cooldown <= 1 or not 0 <= self.floor <= 1:
            raise ValueError(f"{self} needs warm_up_steps >= 0, cooldown and floor in [0, 1]")

    def factor(self, step: int, progress: float) -> float:
        """Factor in [0, 1] for step number `step` (from 0) at `progress` in [0, 1]."""
        rise = min(1.0, (step + 1) / self.warm_up_steps) if self.warm_up_steps else 1.0
        if self.cooldown == 0 or progress <= 1 - self.cooldown:
            return rise
        fall = (1 - progress) / self.cooldown
        return rise * (self.floor + (1 - self.floor) * fall)

    def is_cooling(self, progress: float) -> bool:
        """Whether the rate is falling: weights saved before can start another stage."""
        return progress > 1 - self.cooldown


@dataclass(frozen=True)
class Ramp:
    """A number that goes linearly from `first` to `last` between two points of progress."""

    first: float
    """value up to `start`"""
    last: float
    """value from `stop` on"""
    start: float = 0.0
    """progress at which it begins to change"""
    stop: float = 1.0
    """progress at which it has arrived"""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(f"{self} needs 0 <= start <= stop <= 1")

    def value(self, progress: float) -> float:
        """The number at `progress` in [0, 1]."""
        if progress >= self.stop:
            return self.last
        if progress <= self.start:
            return self.first
        share = (progress - self.start) / (self.stop - self.start)
        return self.first + share * (self.last - self.first)


def constant(value: float) -> Ramp:
    """A ramp that never changes."""
    return Ramp(value, value)
