"""The reorder window, and a session behind it: every number once, in order, or named as missing."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.events import EventLog, read_events
from everview.pipeline.streaming.intake import FrameClock
from everview.pipeline.streaming.policies import Order
from everview.pipeline.streaming.sampled import Sampled
from everview.pipeline.streaming.window import Gap, Released, ReorderWindow


def disordered(numbers, reach, chance):
    """A shuffle that moves nothing by more than `reach` places."""
    keys = [place + chance.uniform(0, reach + 1) for place in range(len(numbers))]
    return [number for _, number in sorted(zip(keys, numbers, strict=True))]


def everything(window, numbers):
    given_out = []
    for number in numbers:
        given_out += window.offer(number, f"item {number}").released
    return [*given_out, *window.drain()]


@given(st.integers(0, 12), st.integers(0, 40), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_disorder_within_the_window_changes_nothing(reach, length, chance):
    order = disordered(list(range(length)), reach, chance)
    assert max((abs(place - n) for place, n in enumerate(order)), default=0) <= reach
    released = everything(ReorderWindow(reach), order)
    assert released == [Released(number, f"item {number}") for number in range(length)]


@given(st.integers(0, 8), st.lists(st.integers(0, 30), max_size=80))
@settings(max_examples=200, deadline=None)
def test_whatever_comes_every_number_has_its_turn_once_or_is_in_one_gap(size, numbers):
    window = ReorderWindow(size)
    released, standings = [], []
    for number in numbers:
        offered = window.offer(number, number)
        standings.append(offered.standing)
        released += offered.released
        assert len(window.held) <= size
        facts = window.to_facts()  # killed and resumed at every step
        window = ReorderWindow.from_facts(size, facts, [window.held[n] for n in facts["held"]])
    released += window.drain()
    covered = []
    for piece in released:
        covered += range(piece.first, piece.last + 1) if isinstance(piece, Gap) else [piece.item]
    assert covered == list(range(max(numbers, default=-1) + 1))
    taken = {piece.item for piece in released if isinstance(piece, Released)}
    assert len(taken) + standings.count("duplicate") + standings.count("late") == len(numbers)
    assert set(numbers) - taken == {n for n, s in zip(numbers, standings, strict=True)
                                    if s == "late" and n not in taken}  # fmt: skip


def test_a_number_that_never_comes_is_given_up_after_as_many_as_the_window_holds():
    window = ReorderWindow(3)
    for number in (0, 2, 3, 4):
        assert not any(isinstance(piece, Gap) for piece in window.offer(number, number).released)
    assert window.offer(7, 7).released == (Gap(1, 1), *(Released(n, n) for n in (2, 3, 4)))
    assert window.offer(1, 1).standing == "late"
    assert window.offer(3, 3).standing == "duplicate"
    assert window.drain() == (Gap(5, 6), Released(7, 7))


def test_a_window_of_impossible_size_is_refused():
    with pytest.raises(UsageError, match="at least 0"):
        ReorderWindow(-1)
    with pytest.raises(UsageError, match="0 to 1024"):
        Order(window=2000)


def test_the_frames_clock_names_gaps_and_steps_back_and_nothing_else():
    clock, told = FrameClock(gap_s=1.0), []
    for seconds in (0.0, 0.1, 0.2, 0.3, 1.4, 1.5, 1.45, None, 1.55, float("nan"), 11.55, 11.6):
        told.append(clock.tick(seconds))
    events = {place: event for place, event in enumerate(told) if event is not None}
    assert {place: name for place, (name, _) in events.items()} == {
        4: "time gap", 6: "time backwards", 10: "time gap",
    }  # fmt: skip
    assert np.allclose([seconds for _, seconds in events.values()], [1.1, -0.05, 10.0])


def test_frames_minutes_apart_are_no_gaps_when_all_are():
    clock = FrameClock(gap_s=1.0)
    assert [clock.tick(60.0 * count) for count in range(20)] == [None] * 20


def test_events_after_a_snapshot_happen_again_and_a_torn_line_is_left_out(tmp_path):
    log = EventLog(tmp_path)
    for count in range(3):
        log.note("late", sequence=count)
        if count == 1:
            mark = log.mark()
    log.close()
    with log.path.open("a") as file:
        file.write('{"event": "la')
    again = EventLog(tmp_path)
    again.go_on_after(mark)
    again.note("gap", first=7, last=9)
    assert [event["event"] for event in read_events(tmp_path)] == ["late", "late", "gap"]
    EventLog(tmp_path).note("late", sequence=5)  # a run that isn't continued starts anew
    assert len(read_events(tmp_path)) == 1


def test_a_sample_stays_small_and_even_and_survives_a_snapshot():
    sample = Sampled()
    for value in range(100_000):
        sample.add(float(value))
        if value == 50_000:
            sample = Sampled.from_facts(sample.to_facts())
    assert len(sample.values) < 1024
    assert sample.values == [float(v) for v in range(0, 100_000, sample.stride)]


def test_the_shuffle_of_these_tests_reaches_as_far_as_it_says():
    orders = [disordered(list(range(60)), 8, random.Random(seed)) for seed in range(20)]
    moved = [max(abs(place - n) for place, n in enumerate(order)) for order in orders]
    assert max(moved) in (7, 8)
