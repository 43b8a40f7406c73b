"""Which scene comes next: a shuffled, endless walk over a set that can be cut at any point.

Every epoch has its own order, a function of (seed, epoch) alone: shards are shuffled, and the
scenes of a few neighbouring shards are shuffled among each other, so that a reader needs only
those few open. The order is dealt to P parts like cards, part p taking places p, p + P, ...; what
a part sees depends on P and not on which worker walks it, or how many do. Fix P, give every worker
some of the parts, and the number of workers may change between two steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from everview.datasets.errors import DataError
from everview.datasets.shards.reading import ShardSet

MIXED_SHARDS = 4
"""Shards whose scenes are shuffled among each other, and that a reader should keep open."""


def epoch_order(
    scenes_per_shard: Sequence[int], seed: int, epoch: int, mixed: int = MIXED_SHARDS
) -> np.ndarray:
    """Every scene index once, int64 [S], in the order of `epoch`.

    mixed: shards whose scenes are shuffled together. PCG64 seeded with (seed, epoch).
    """
    random = np.random.default_rng([seed, epoch])
    ends = np.cumsum(np.asarray(scenes_per_shard, np.int64))
    shards = random.permutation(len(ends))
    order = []
    for first in range(0, len(shards), mixed):
        together = [
            np.arange(ends[shard] - scenes_per_shard[shard], ends[shard])
            for shard in shards[first : first + mixed]
        ]
        order.append(random.permutation(np.concatenate(together)))
    return np.concatenate(order)


class SceneCursor:
    """Scene indices of one part of a set, epoch after epoch, without end.

    The position is (epoch, place): place scenes of this part were taken in that epoch.
    Raises DataError for a part that holds no scene.
    """

    def __init__(
        self,
        shards: ShardSet,
        seed: int,
        part: int = 0,
        parts: int = 1,
        among: Collection[int] | None = None,
    ) -> None:
        """among: the scenes that are walked; all unless given."""
        self._among = None if among is None else np.asarray(sorted(among), np.int64)
        scenes = len(shards) if self._among is None else len(self._among)
        if not 0 <= part < parts:
            raise DataError(f"part {part} of {parts}: parts count from 0")
        if parts > scenes:
            raise DataError(
                f"{shards.place.url} holds {scenes} scenes, too few for {parts} parts; use at "
                f"most {scenes}"
            )
        self.epoch = self.place = 0
        self._seed, self._part, self._parts, self._scenes = seed, part, parts, scenes
        self._set_identity = shards.identity
        self._counts = tuple(len(shard.scenes) for shard in shards.manifest.shards)
        self._order: tuple[int, np.ndarray] | None = None

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.next()

    def next(self) -> int:
        """The next scene's index; the cursor moves behind it."""
        share = self._share()
        index = int(share[self.place])
        self.place += 1
        if self.place == len(share):
            self.epoch, self.place = self.epoch + 1, 0
        return index

    def go_to(self, taken: int) -> None:
        """The position behind the first `taken` scenes of the walk."""
        self.epoch, self.place = divmod(taken, len(self._share()))  # every epoch has as many

    def state(self) -> dict[str, Any]:
        """The position, and of which walk: small, plain JSON data."""
        return {
            "set": self._set_identity,
            "scenes": self._scenes,
            "seed": self._seed,
            "part": self._part,
            "parts": self._parts,
            "epoch": self.epoch,
            "place": self.place,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after `state`. Raises DataError if it is the state of another walk."""
        here = self.state()
        for key in ("set", "scenes", "seed", "part", "parts"):
            if not isinstance(state, dict) or state.get(key) != here[key]:
                raise DataError(
                    f"the cursor to restore walks another {key} of scenes than this one; use the "
                    "same set, scenes, seed and number of parts"
                )
        epoch, place = int(state["epoch"]), int(state["place"])
        before = self.epoch
        self.epoch = epoch
        if epoch < 0 or not 0 <= place < len(self._share()):
            self.epoch = before
            raise DataError(f"the cursor to restore is at place {place} of epoch {epoch}")
        self.place = place

    def _share(self) -> np.ndarray:
        if self._order is None or self._order[0] != self.epoch:
            order = epoch_order(self._counts, self._seed, self.epoch)
            if self._among is not None:
                order = order[np.isin(order, self._among)]
            self._order = self.epoch, order[self._part :: self._parts]
        return self._order[1]
