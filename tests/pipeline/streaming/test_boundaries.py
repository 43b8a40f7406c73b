"""Where chunks end: by tokens, by the frames' clock, by silence; killed and resumed or not."""

import time
from dataclasses import replace

import pytest

from everview.models.state import state_to_tensors
from everview.models.weight_files import load_model
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.streaming.boundaries import Boundaries
from everview.pipeline.streaming.chunks import read_chunks
from everview.pipeline.streaming.feeder import ArrivalQueue, EndOfStream
from everview.pipeline.streaming.flushes import FILE_NAME as FLUSHES
from everview.pipeline.streaming.flushes import Flushes
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def make(model, tmp_path):
    def build(name="run", chunk_frames=4, **limits):
        policies = StreamPolicies(
            chunk_frames, Boundaries(**limits), retention_views=1, prequential=Prequential(0)
        )
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        return Session(model, policies, out, World("up_to_scale"))

    return build


def ends(session):
    return [(chunk["frames"], chunk["closed"]) for chunk in read_chunks(session.out)]


def state_of(session):
    tensors = state_to_tensors(session.published.state)[0]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_budget_of_tokens_ends_chunks_whatever_the_size_of_the_frames(make, frames):
    session = make(chunk_frames=0, tokens=64)  # 16 tokens of 8x8 pixels in a frame of 32
    for frame in frames(10):
        session.push(frame)
    session.finish()
    assert ends(session) == [(4, "budget"), (4, "budget"), (2, "end")]
    assert session.chunks.to_facts() == {
        "count": 3, "frames": 10, "closed": {"budget": 2, "end": 1},
    }  # fmt: skip


def test_a_chunk_ends_when_its_oldest_frame_is_too_old_by_the_frames_own_clock(make, frames):
    session = make(latency_s=0.15)
    for frame in frames(12):
        session.push(frame)
    session.finish()
    # the first fixes the gauge and waits for its frames
    assert ends(session) == [(4, "full"), (3, "latency"), (3, "latency"), (2, "end")]


def test_held_out_and_rejected_frames_tell_the_time_too(make, frames, black):
    session, every = make(latency_s=0.15), frames(12)
    for frame in every[:5]:
        session.push(frame)
    session.hold_out(every[5])
    session.push(black(every[6]))
    assert ends(session)[1:] == [(1, "latency")]


def test_frames_without_time_or_with_a_clock_that_goes_back_end_no_chunk(make, frames):
    session, every = make(latency_s=0.15), frames(10)
    for frame in every[:5]:
        session.push(frame)
    session.push(replace(every[5], time_s=None))
    session.push(replace(every[6], time_s=-5.0))
    assert ends(session) == [(4, "full")]


def test_boundaries_by_the_frames_clock_are_those_of_an_unbroken_stream(make, frames):
    every = frames(13)
    whole = make("whole", latency_s=0.15)
    for frame in every:
        whole.push(frame)
    whole.finish()
    for cut in (5, 6, 8):
        first = make(f"cut{cut}", latency_s=0.15)
        for frame in every[:cut]:
            first.push(frame)
        first.snapshot()
        for frame in every[cut : cut + 2]:
            first.push(frame)
        second = make(f"cut{cut}", latency_s=0.15)
        second.restore(load_snapshot(second.out))
        for frame in every[cut:]:
            second.push(frame)
        second.finish()
        assert ends(second) == ends(whole)
        assert state_of(second) == state_of(whole)


def until_flushed(session):
    limit = time.monotonic() + 30
    while not session.flush_if_silent():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize("cut", [0, 5], ids=["without a snapshot", "after five frames"])
def test_a_chunk_that_silence_ended_ends_there_again_after_a_kill(make, frames, cut):
    every, calm = frames(12), {"silence_s": 0.02}
    whole = make(f"whole{cut}", **calm)
    for frame in every[:5]:
        whole.push(frame)
    if cut:
        whole.snapshot()
    whole.push(every[5])
    until_flushed(whole)
    for frame in every[6:]:
        whole.push(frame)
    assert ends(whole) == [(4, "full"), (2, "silence"), (4, "full")]
    resumed = make(f"whole{cut}", **calm)  # `whole` is not finished: it is killed here
    if cut:
        resumed.restore(load_snapshot(resumed.out))
    else:
        resumed.start_over()
    for number, frame in enumerate(every[cut:], cut):
        resumed.push(frame)
        time.sleep(0.03)
        # a slow start of the sender is no silence: these frames came before. What ended after
        # number 5 ends there again whether more comes or not
        assert number == 11 or resumed.flush_if_silent() == (number == 5)
    resumed.finish()
    whole.finish()
    assert ends(resumed) == [(4, "full"), (2, "silence"), (4, "full"), (2, "end")]
    assert state_of(resumed) == state_of(whole)


def test_a_source_that_stays_silent_after_a_kill_leaves_no_frame_waiting(make, frames):
    first = make("run", silence_s=0.02)
    for frame in frames(6):
        first.push(frame)
    first.snapshot()
    resumed = make("run", silence_s=0.02)
    resumed.restore(load_snapshot(resumed.out))
    until_flushed(resumed)
    assert ends(resumed) == [(4, "full"), (2, "silence")]


def test_nothing_is_flushed_without_a_limit_before_the_first_chunk_or_without_frames(make, frames):
    plain, early, empty = make("plain"), make("early", silence_s=1e-6), make("e", silence_s=1e-6)
    for frame in frames(6):
        plain.push(frame)
    early.push(frames(1)[0])
    for frame in frames(4):
        empty.push(frame)
    assert not any(session.flush_if_silent() for session in (plain, early, empty))


def test_a_file_of_flushes_that_is_none_is_named(tmp_path):
    (tmp_path / FLUSHES).write_text('{"after": 3}\n{"after": 9')
    flushes = Flushes(tmp_path)
    flushes.go_on()
    assert [flushes.due_before(number) for number in (3, 4, 10)] == [False, True, False]
    flushes.record(12)
    assert (tmp_path / FLUSHES).read_text() == '{"after": 3}\n{"after": 12}\n'
    with pytest.raises(InputRejected, match="2 flushes, the snapshot 3"):
        flushes.go_on(3)
    (tmp_path / FLUSHES).write_text("nonsense\n")
    with pytest.raises(InputRejected, match=r"flushes\.jsonl"):
        Flushes(tmp_path).go_on()


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="chunk_frames 0"):
        StreamPolicies(0)
    with pytest.raises(UsageError, match="latency_s -1"):
        Boundaries(latency_s=-1)


def test_a_queue_says_that_nothing_came_and_that_nothing_will():
    queue = ArrivalQueue(1)
    assert queue.get() is None
    queue.end(None)
    with pytest.raises(EndOfStream):
        queue.get()
