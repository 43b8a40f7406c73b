"""Protocols: which frames go in and which are judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everview.pipeline.evaluation.protocols import (
    HELD_OUT_SEEDS,
    every_eighth,
    in_equal_chunks,
    procedural,
    spread_inputs,
)
from everview.pipeline.training import scene_pool


def test_every_eighth_frame_is_held_out_and_the_rest_streamed_by_eight():
    split = every_eighth(60)
    assert split.targets == (0, 8, 16, 24, 32, 40, 48, 56)
    assert [len(chunk) for chunk in split.chunks] == [8, 8, 8, 8, 8, 8, 4]
    assert split.chunks[0] == (1, 2, 3, 4, 5, 6, 7, 9)
    assert split.schedule == "chunk_causal"


def test_spread_inputs_follow_linspace_and_are_one_set():
    split = spread_inputs(64, 8)
    assert split.chunks == ((0, 9, 18, 27, 36, 45, 54, 63),)
    assert len(split.targets) == 56
    assert split.schedule == "set"


@given(st.integers(2, 300), st.data())
def test_no_frame_is_both_observed_and_judged_and_none_is_lost(num_frames, data):
    num_inputs = data.draw(st.integers(1, num_frames - 1))
    for split in (spread_inputs(num_frames, num_inputs), every_eighth(num_frames)):
        assert sorted([*split.inputs, *split.targets]) == list(range(num_frames))
    expected = np.round(np.linspace(0, num_frames - 1, num_inputs)).astype(int)
    assert spread_inputs(num_frames, num_inputs).inputs == tuple(expected.tolist())


@given(st.integers(1, 100), st.data())
def test_equal_chunks_keep_order_and_differ_by_at_most_one(length, data):
    count = data.draw(st.integers(1, length))
    chunks = in_equal_chunks(range(length), count)
    sizes = [len(chunk) for chunk in chunks]
    assert sum(chunks, ()) == tuple(range(length))
    assert len(chunks) == count
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_inputs", [0, 5, 6])
def test_a_split_that_leaves_nothing_to_judge_is_refused(num_inputs):
    with pytest.raises(ValueError, match="--inputs"):
        spread_inputs(5, num_inputs)


def test_procedural_scenes_are_none_that_training_draws():
    assert HELD_OUT_SEEDS == scene_pool.HELD_OUT_SEEDS
    protocol = procedural(6, size=64)
    assert len({scene.name for scene in protocol.scenes}) == 6
    assert all(scene.seed >= scene_pool.HELD_OUT_SEEDS for scene in protocol.scenes)
    assert any(scene.dynamic for scene in protocol.scenes)
    split = every_eighth(protocol.scenes[0].frames)
    assert all(len(split.inputs) % count == 0 for count in protocol.chunk_counts)
