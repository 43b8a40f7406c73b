"""A capture's own inputs as what is learned from: nothing that is judged later is looked at.

Some inputs are kept back, evenly taken: they say when to stop. Of the others every step writes some
and asks for some that it did not write, as a stream will be asked for what it didn't see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.datasets.errors import DataError
from everview.pipeline.adapting.config import Recipe
from everview.pipeline.evaluation.protocols import Split

FEWEST_INPUTS = 4
_KEPT_BACK = (1 / 6, 8)
"""share of the inputs, and how many at most: each is drawn at every check"""


@dataclass(frozen=True)
class Lesson:
    """Indices of one step's frames, in the capture's order: written in chunks of equal length, and
    asked for."""

    chunks: tuple[tuple[int, ...], ...]
    asked: tuple[int, ...]

    @property
    def written(self) -> tuple[int, ...]:
        """Every written index, in order."""
        return tuple(index for chunk in self.chunks for index in chunk)


@dataclass(frozen=True)
class OwnInputs:
    """The inputs of a capture: `learned` from, and `kept_back` to see whether that helps."""

    learned: tuple[int, ...]
    kept_back: tuple[int, ...]

    @staticmethod
    def of(split: Split, source: str) -> OwnInputs:
        """Of a protocol's split. Raises DataError where there are too few inputs."""
        inputs = split.inputs
        if len(inputs) < FEWEST_INPUTS:
            raise DataError(
                f"{source} has {len(inputs)} inputs; adapting needs {FEWEST_INPUTS}, of which some "
                "are written, some asked for and some kept back"
            )
        share, most = _KEPT_BACK
        count = int(np.clip(round(len(inputs) * share), 1, most))
        # in the middle of equal stretches, so that neighbours on both sides are learned from
        places = ((np.arange(count) + 0.5) * len(inputs) / count).astype(int)
        kept = tuple(inputs[place] for place in places)
        return OwnInputs(tuple(i for i in inputs if i not in set(kept)), kept)

    def lesson(self, number: int, seed: int, recipe: Recipe) -> Lesson:
        """Step `number`'s frames: half of the steps take a stretch of neighbours, which are near
        each other as a stream's are, half take them from anywhere. A function of its arguments."""
        random = np.random.default_rng((seed, number))
        count = min(recipe.written + recipe.asked, len(self.learned))
        if random.random() < 0.5:
            first = int(random.integers(len(self.learned) - count + 1))
            chosen = np.arange(first, first + count)
        else:
            chosen = np.sort(random.choice(len(self.learned), count, replace=False))
        asked = min(recipe.asked, count // 2)
        # what is asked for lies inside: the ends of a stretch have neighbours on one side alone
        inner = chosen[1:-1] if count - 2 >= asked else chosen
        asked_for = np.sort(random.choice(inner, asked, replace=False))
        written = np.setdiff1d(chosen, asked_for)
        divisors = [n for n in (1, 2, 3, 4) if len(written) % n == 0]
        chunks = written.reshape(int(random.choice(divisors)), -1)
        return Lesson(
            tuple(tuple(self.learned[i] for i in chunk) for chunk in chunks),
            tuple(self.learned[i] for i in asked_for),
        )
