"""A session behind a bad line: duplicates, disorder, loss, and a kill at any arrival."""

import random
from dataclasses import replace

import numpy as np
import pytest

from everview.models.state import state_to_tensors
from everview.models.weight_files import load_model
from everview.pipeline.runs import read_frames
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.events import FILE_NAME as EVENTS
from everview.pipeline.streaming.events import read_events
from everview.pipeline.streaming.policies import Order, Prequential, StreamPolicies
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.trajectory import NAMES_NAME, ROWS_NAME

_TIMED = ("latency_ms", "absorb_ms", "rss_mib")


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def make(model, tmp_path):
    def build(name, **policies):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        defaults = {"chunk_frames": 4, "retention_views": 1, "prequential": Prequential(1)}
        return Session(model, StreamPolicies(**{**defaults, **policies}), out, World("up_to_scale"))

    return build


def left_by(session):
    """Everything of a finished session that must not depend on the line or on kills."""
    session.finish()
    rows = [{k: v for k, v in row.items() if k not in _TIMED} for row in read_frames(session.out)]
    state = {
        name: tensor.numpy().tobytes()
        for name, tensor in state_to_tensors(session.published.state)[0].items()
    }
    trajectory = [(session.out / name).read_bytes() for name in (ROWS_NAME, NAMES_NAME)]
    return state, rows, trajectory, session.retention.curve.values, session.foresight


def arrivals(frames, numbers):
    return [Arrival(n, frames[n], 0.0, cursor={"place": i}) for i, n in enumerate(numbers)]


def receive(session, arriving, held_out=5):
    for arrival in arriving:
        number = arrival.sequence
        session.receive(arrival, is_held_out=arrival.frame is not None and number % held_out == 0)


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_and_disorder_within_the_window_change_nothing(make, frames, seed):
    few, chance = frames(22), random.Random(seed)
    clean, dirty = make("clean"), make("dirty")
    receive(clean, arrivals(few, range(22)))
    keys = [place + chance.uniform(0, 9) for place in range(22)]
    numbers = [n for _, n in sorted(zip(keys, range(22), strict=True))]
    twice = chance.sample(range(22), 5)
    for number in twice:  # any time after it came first
        numbers.insert(chance.randint(numbers.index(number) + 1, len(numbers)), number)
    receive(dirty, arrivals(few, numbers))
    assert left_by(dirty) == left_by(clean)
    counts = dirty.account()
    assert (counts["received"], counts["duplicate"]) == (27, 5)
    assert "missing" not in counts
    told = [event["sequence"] for event in read_events(dirty.out) if event["event"] == "duplicate"]
    assert sorted(told) == sorted(twice)


def bad_line(frames, black):
    """Arrivals with everything in them, and the frame number that comes too late."""
    numbers = [0, 2, 1, 3, 4, 4, 6, 7, 8, 10, 9, 12, 11, 13, 14, 15, 5, 16, 20, 19, 18, 20, 21]
    line = arrivals(frames, numbers)
    line[8] = replace(line[8], frame=black(line[8].frame))
    line[12] = Arrival(11, None, 0.0, "11.png: can't be decoded", line[12].cursor)
    return line


def test_what_comes_late_or_never_or_broken_is_counted_and_named(make, frames, black):
    session = make("run", order=Order(window=4))
    receive(session, bad_line(frames(22), black), held_out=100)
    session.finish()
    events = [{k: v for k, v in e.items() if k != "received"} for e in read_events(session.out)]
    assert events == [
        {"event": "duplicate", "sequence": 4},
        {"event": "gap", "first": 5, "last": 5},
        {"event": "unreadable", "sequence": 11, "problem": "11.png: can't be decoded"},
        {"event": "late", "sequence": 5},
        {"event": "duplicate", "sequence": 20},
        {"event": "gap", "first": 17, "last": 17},
    ]
    assert session.account() == {
        "received": 23, "duplicate": 2, "late": 1, "gaps": 2, "missing": 2, "unreadable": 1,
        "held out": 1, "accepted": 17, "rejected": 2,
    }  # fmt: skip
    rows = read_frames(session.out)
    written = [n for n in range(1, 22) if n not in (5, 8, 11, 17)]
    assert [row["sequence"] for row in rows if row["gate"] == "accepted"] == written
    assert [(r["sequence"], r["gate_reason"]) for r in rows if r["gate"] == "rejected"] == [
        (8, "black")
    ]


def test_killed_at_any_arrival_and_resumed_equals_never_killed(make, frames, black):
    """With frames in the window, frames pending, a rejected frame's row unwritten, events told."""
    few = frames(22)
    order = Order(window=4)
    whole = make("whole", order=order)
    receive(whole, bad_line(few, black))
    expected, counts = left_by(whole), whole.account()
    events = (whole.out / EVENTS).read_bytes()
    first_chunk = 6
    for cut in range(first_chunk, 23, 4):
        first = make(f"cut{cut}", order=order)
        receive(first, bad_line(few, black)[:cut])
        assert first.snapshot() is not None
        receive(first, bad_line(few, black)[cut : cut + 3])  # rows and events that come again
        first.intake.events.close()
        second = make(f"cut{cut}", order=order)
        second.restore(load_snapshot(second.out))
        assert second.cursor == {"place": cut - 1}
        receive(second, bad_line(few, black)[cut:])
        assert left_by(second) == expected
        assert second.account() == counts
        assert (second.out / EVENTS).read_bytes() == events


def test_frames_of_any_kind_survive_waiting_in_a_snapshot(make, frames):
    """Those that no chunk could hold as well: they are judged when their turn comes."""
    few = frames(12)
    odd = {
        5: replace(few[5], camera=None),
        6: replace(few[6], image=np.full((32, 32, 3), np.nan, np.float32)),
        7: replace(few[7], time_s=float("nan")),
        8: replace(few[8], depth=np.full((32, 32), 2.0, np.float32)),
        9: replace(few[9], image=few[9].image[:16]),
    }
    session = make("run")
    for number in (0, 1, 2, 3, *odd):
        session.push(odd.get(number, few[number]), sequence=number)
    session.snapshot()
    again = make("run")
    again.restore(load_snapshot(again.out))
    for other in (session, again):
        assert other.push(few[4], sequence=4).kind == "accepted"
        assert dict(other.refused) == {
            "no camera": 1, "picture not finite": 1, "time not finite": 1,
            "picture and camera differ in size": 1,
        }  # fmt: skip
    assert np.array_equal(again.pending[-1].frame.depth, odd[8].depth)


def test_what_a_source_names_again_after_resuming_is_no_duplicate(make, frames):
    session = make("run")
    problem = Arrival(1, None, 0.0, "1.png: missing")
    session.push(frames(1)[0], sequence=0)
    for _ in range(2):
        session.receive(problem)
    assert session.account() == {"received": 2, "unreadable": 1, "accepted": 1, "rejected": 1}
    assert [event["event"] for event in read_events(session.out)] == ["unreadable"]
