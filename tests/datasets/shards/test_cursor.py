"""A cursor walks all scenes once an epoch, can be cut anywhere, and doesn't care who walks it."""

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everview.datasets.errors import DataError
from everview.datasets.shards import SceneCursor, epoch_order, open_shards, write_shards
from tests.datasets.shards.posed import scene

SCENES = 11


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eleven scenes in several shards."""
    from everview.datasets.shards import writing

    where = tmp_path_factory.mktemp("cursor") / "set"
    before, writing.MAX_SHARD_BYTES = writing.MAX_SHARD_BYTES, 2**16 + 20_000
    try:
        write_shards(where, (scene(f"s{i:02d}", deep=False) for i in range(SCENES)))
    finally:
        writing.MAX_SHARD_BYTES = before
    opened = open_shards(where)
    assert len(opened.manifest.shards) > 2
    return opened


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    mixed=st.integers(1, 4),
)
def test_an_epoch_is_a_permutation_that_needs_few_shards_open(counts, seed, epoch, mixed):
    order = epoch_order(counts, seed, epoch, mixed)
    assert sorted(order.tolist()) == list(range(sum(counts)))
    shard_of = np.repeat(np.arange(len(counts)), counts)[order]
    last = {shard: place for place, shard in enumerate(shard_of)}
    first = {shard: place for place, shard in reversed(list(enumerate(shard_of)))}
    for place in range(len(order)):
        assert sum(first[s] <= place <= last[s] for s in first) <= mixed


def test_epochs_and_seeds_differ_and_repeat(shards):
    def walk(seed):
        return list(islice(SceneCursor(shards, seed), 2 * SCENES))

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)
    assert walk(1)[:SCENES] != walk(1)[SCENES:]
    assert sorted(walk(1)[:SCENES]) == sorted(walk(1)[SCENES:]) == list(range(SCENES))


@given(parts=st.integers(1, SCENES), epoch=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_parts_are_disjoint_and_together_the_set(shards, parts, epoch):
    dealt = []
    for part in range(parts):
        cursor = SceneCursor(shards, 3, part, parts)
        while cursor.epoch < epoch:
            cursor.next()
        while cursor.epoch == epoch:
            dealt.append(cursor.next())
    assert sorted(dealt) == list(range(SCENES))


@given(cut=st.integers(0, 30), part=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_a_walk_cut_anywhere_goes_on_as_if_it_had_not_been(shards, cut, part):
    unbroken = list(islice(SceneCursor(shards, 5, part, 3), 40))
    first = SceneCursor(shards, 5, part, 3)
    taken = [first.next() for _ in range(cut)]
    kept = json.loads(json.dumps(first.state()))
    second = SceneCursor(shards, 5, part, 3)
    second.restore(kept)
    assert taken + [second.next() for _ in range(40 - cut)] == unbroken


def test_the_state_of_another_walk_is_refused(shards):
    state = SceneCursor(shards, 5).state()
    for key, other in (("set", "0"), ("seed", 6), ("part", 1), ("parts", 2), ("place", 99)):
        with pytest.raises(DataError):
            SceneCursor(shards, 5).restore({**state, key: other})


def test_a_part_without_scenes_is_refused(shards):
    with pytest.raises(DataError, match="too few"):
        SceneCursor(shards, 0, 0, SCENES + 1)
