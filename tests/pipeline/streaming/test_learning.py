"""Policies that decide how a chunk is written: commit, surprise, replay; and all in a session."""

import math
from dataclasses import replace

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models.elastic import Elastic, MemoryAwareSynapses
from everview.models.state import state_bytes, state_to_tensors
from everview.models.steps import ConstantStep
from everview.models.weight_files import load_model
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.rendering.renderer import image_tensor, time_tensor
from everview.pipeline.runs import read_frames, read_run
from everview.pipeline.streaming.commit import Commit
from everview.pipeline.streaming.committing import committing
from everview.pipeline.streaming.events import read_events
from everview.pipeline.streaming.foresight import Foreseen
from everview.pipeline.streaming.learning import Learning
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.replay import Replay, Replayed
from everview.pipeline.streaming.scenes import open_scene
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.stream import stream_capture
from everview.pipeline.streaming.surprise import Surprise, Surprised

EVERYTHING = {
    "commit": Commit(step="constant", step_size=0.5, elastic="mas", pull=4.0),
    "surprise": Surprise(of="picture", doubling_db=0.5),
    "replay": Replay(frames=2, tolerated_db=-1.0),
}


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def stream(model, tmp_path, frames):
    """A session that was given some frames: `stream(name, count, policies...)`."""

    def run(name="run", count=16, **policies):
        session = open_session(model, tmp_path / name, **policies)
        for frame in frames(count):
            session.push(frame)
        return session

    return run


def open_session(model, out, **policies):
    out.mkdir(exist_ok=True)
    defaults = {"chunk_frames": 4, "retention_views": 1}
    return Session(model, StreamPolicies(**{**defaults, **policies}), out, World("up_to_scale"))


def tensors(session):
    return state_to_tensors(session.published.state)[0]


def are_same(left, right) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(t.nan_to_num(7), right[name].nan_to_num(7)) for name, t in left.items()
    )


# --- commit ---


def test_a_commit_policy_shares_the_slow_weights_and_has_a_fingerprint_of_its_own(model) -> None:
    other = committing(model, Commit(step="constant", step_size=0.3, elastic="mas"))
    assert other.config.step == ConstantStep(0.3)
    assert other.config.elastic == Elastic(MemoryAwareSynapses())
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert ours.data_ptr() == theirs.data_ptr(), name
    assert other.fingerprint != model.fingerprint
    assert other.init_state(1).layers[1].elastic is not None
    assert model.init_state(1).layers[1].elastic is None
    assert committing(model, Commit()) is model
    same = Commit(step="inverse-sqrt", step_size=0.25)  # as it was trained
    assert committing(model, same) is model


def test_a_state_of_another_commit_policy_is_refused_and_says_which(stream, model, tmp_path):
    stream("run", 8, commit=Commit(step="constant", step_size=0.3)).snapshot()
    snapshot = load_snapshot(tmp_path / "run")
    plain = open_session(model, tmp_path / "run")
    with pytest.raises(InputRejected, match=r"step constant, step_size 0\.3.* as trained.*--fresh"):
        plain.restore(snapshot)
    elastic = open_session(model, tmp_path / "run", commit=Commit(elastic="si"))
    with pytest.raises(InputRejected, match=r"has elastic si.*replay the capture"):
        elastic.restore(snapshot)


def test_a_constant_full_step_goes_further_than_a_small_one(stream, model) -> None:
    moved, begin = {}, model.init_state(1).layers[1].weights
    for size in (0.1, 1.0):
        session = stream(f"step{size}", commit=Commit(step="constant", step_size=size))
        moved[size] = float((tensors(session)["layers.1.weights"] - begin).norm())
    assert moved[1.0] > 2 * moved[0.1]


# --- surprise ---


def seen(db: float) -> list[Foreseen]:
    return [Foreseen(picture_db=db, memory_db=99.0, view=None)]


def test_surprise_is_the_fast_mean_minus_the_slow_one_within_bounds() -> None:
    policy = Surprise(of="picture", fast=0.5, slow=0.9, doubling_db=1.0, least=0.5, most=2.0)
    surprised = Surprised(policy)
    assert surprised.learn([]) == 1.0  # the first chunk is not predicted
    assert surprised.learn(seen(20.0)) == 1.0
    factor = surprised.learn(seen(19.0))  # fast -19.5, slow -19.9: by 0.4 dB worse than usual
    assert surprised.surprise_db == pytest.approx(0.4)
    assert factor == pytest.approx(2**0.4)
    assert surprised.learn(seen(0.0)) == 2.0
    for _ in range(8):
        factor = surprised.learn(seen(40.0))
    assert factor == 0.5
    assert (surprised.lowest, surprised.highest) == (0.5, 2.0)


def test_a_residual_that_is_no_number_changes_neither_means_nor_step() -> None:
    surprised = Surprised(Surprise(of="picture"))
    surprised.learn(seen(20.0))
    before = surprised.to_facts()
    for bad in (math.nan, math.inf, -math.inf):
        assert surprised.learn(seen(bad)) == 1.0
    assert surprised.to_facts() == {**before, "ignored": 3}


# --- replay ---


def test_replays_by_chunks_go_over_all_that_is_kept_but_the_newest(stream) -> None:
    bank = stream(count=12).published.state.bank
    assert bank.size == 6
    replayed = Replayed(Replay(frames=2, every=2))
    asked = []
    for _ in range(12):
        places = replayed.choose(bank, (32, 32), None)
        replayed.wrote(len(places), 2)
        asked.append(places)
    assert [bool(places) for places in asked] == [False, True] * 6
    assert {place for places in asked for place in places} == {0, 1, 2, 3}
    assert (replayed.times, replayed.frames) == (6, 12)
    every = Replayed(Replay(frames=2, every=1), newest=2)
    assert every.choose(bank, (32, 32), None)
    assert not every.choose(None, (32, 32), None)
    assert not every.choose(bank, (48, 32), None)
    every.wrote(2, 5)
    assert not every.choose(bank, (32, 32), None)


def test_the_controller_replays_more_the_more_is_forgotten_and_nothing_while_it_is_held(stream):
    bank = stream(count=12).published.state.bank

    def asked(drift_db: float | None, chunks: int = 40) -> float:
        controlled = Replayed(Replay(frames=1, tolerated_db=1.0, kp=0.2, ki=0.02))
        due = [bool(controlled.choose(bank, (32, 32), drift_db)) for _ in range(chunks)]
        assert 0 <= controlled.integral <= 1
        assert 0 <= controlled.credit < 1
        return sum(due) / chunks

    assert asked(0.5) == asked(1.0) == 0
    assert 0 < asked(1.5) < asked(3.0) <= 1
    assert asked(math.nan) == asked(math.inf) == asked(None) == 0


def test_replayed_frames_are_part_of_the_chunks_one_update(stream, model, frames) -> None:
    """The same as a chunk that holds them, and the bank doesn't take them twice."""
    session = stream(count=8)
    before, every = session.published.state, frames(12)
    chunk = every[8:]

    def observed(some, **given):
        cameras = Cameras.stack([f.camera for f in some])[None]
        images = image_tensor([f.image for f in some], model.device)
        return model.observe(images, cameras, time_tensor([f.time_s for f in some], "cpu"), before,
                             **given)  # fmt: skip

    replayed = observed(chunk, replayed_BR=torch.tensor([[0, 2]]))
    kept = [
        next(f for f in every if abs(f.time_s - float(before.bank.time_s[0, place])) < 1e-4)
        for place in (0, 2)
    ]
    together = observed([*kept, *chunk])
    torch.testing.assert_close(
        replayed.layers[1].weights, together.layers[1].weights, rtol=0, atol=1e-5
    )
    plain = observed(chunk)
    assert torch.equal(replayed.bank.images, plain.bank.images)
    assert int(replayed.clock.chunks) == int(plain.clock.chunks)
    assert not torch.equal(replayed.layers[1].weights, plain.layers[1].weights)


def test_frames_that_are_not_kept_or_of_another_size_are_not_replayed(model, stream, frames):
    state, frame = stream(count=8).published.state, frames(1)[0]

    def observed(state, camera=frame.camera):
        images = torch.zeros(1, 1, 3, camera.height, camera.width)
        places = torch.tensor([[0]])
        model.observe(images, Cameras.stack([camera])[None], None, state, replayed_BR=places)

    observed(state)
    with pytest.raises(ValueError, match="keeps no frames"):
        observed(replace(state, bank=None))
    with pytest.raises(ValueError, match="32x32 can't be replayed in a chunk of 32x24"):
        observed(state, frame.camera.cropped(0, 0, 32, 24))


def test_replay_is_refused_where_a_window_over_time_would_take_it_for_the_last_frames() -> None:
    policies = StreamPolicies(replay=Replay(frames=2))
    assert Learning(policies, "WTF").replayed.frames == 0
    with pytest.raises(UsageError, match="window over time"):
        Learning(policies, "WTSF")


# --- all of them in a session ---


def test_a_step_follows_from_what_was_predicted_before_the_chunk_was_learned(stream) -> None:
    """The rows' residuals, which the state before the chunk gave, explain every factor."""
    policy = Surprise(of="memory", doubling_db=0.2)
    session = stream(count=24, surprise=policy, prequential=Prequential(1))
    surprised = Surprised(policy)
    rows = read_frames(session.out)
    factors = []
    for chunk in range(6):
        own = [row for row in rows if row["chunk"] == chunk]
        predicted = [row["memory_residual"] for row in own if row["memory_residual"] is not None]
        expected = surprised.learn([Foreseen(0.0, db, view=None) for db in predicted])
        assert {row["step_factor"] for row in own} == {expected}
        factors.append(expected)
    assert factors[0] == 1.0
    assert len(set(factors)) > 3


def test_a_run_says_what_its_policies_did_and_is_opened_with_them(config, tmp_path, without_lpips):
    policies = replace(config.policies, **{**EVERYTHING, "replay": Replay(frames=2, every=1)})
    done = stream_capture(replace(config, policies=policies), tmp_path / "run")
    told = read_run(done.run)["stream"]
    assert told["learning"]["replay"]["frames"] > 0
    assert told["learning"] == done.metrics["details"]["learning"]
    assert told["commit"]["step"] == {"kind": "ConstantStep", "value": 0.5}
    assert told["commit"]["elastic"]["importance"] == {"kind": "MemoryAwareSynapses"}
    scene = open_scene(done.run, device="cpu")
    assert scene.state.layers[1].elastic is not None
    assert scene.model.config.elastic.pull == 4.0


def test_off_they_leave_a_session_as_it_is_bit_for_bit(stream) -> None:
    plain = stream("plain")
    off = stream("off", surprise=Surprise(of="memory", least=1.0, most=1.0))
    assert are_same(tensors(plain), tensors(off))
    assert plain.learning.told() == {}


def test_a_restored_session_with_every_policy_goes_on_bit_for_bit(stream, model, tmp_path, frames):
    whole = stream("whole", 22, **EVERYTHING)
    whole.finish()
    told = whole.learning.told()
    assert told["replay"]["times"] >= 2
    assert told["surprise"]["highest"] > told["surprise"]["lowest"]
    for cut in (7, 12, 18):
        stream("cut", cut, **EVERYTHING).snapshot()
        second = open_session(model, tmp_path / "cut", **EVERYTHING)
        second.restore(load_snapshot(second.out))
        for frame in frames(22)[cut:]:
            second.push(frame)
        second.finish()
        assert are_same(tensors(whole), tensors(second))
        assert second.learning.to_facts() == whole.learning.to_facts()
        assert read_events(second.out) == read_events(whole.out)
        for name in ("surprise", "step_factor", "replayed"):
            rows = [[row[name] for row in read_frames(s.out)] for s in (whole, second)]
            assert rows[0] == rows[1]
        (second.out / "frames.jsonl").unlink()
        (second.out / "events.jsonl").unlink()


def test_replays_are_events_and_counted_apart_from_frames(stream) -> None:
    session = stream(count=20, replay=Replay(frames=2, every=2))
    events = [event for event in read_events(session.out) if event["event"] == "replayed"]
    assert [event["frames"] for event in events] == [2] * len(events)
    assert session.learning.told()["replay"]["frames"] == 2 * len(events) > 0
    assert all(0 <= time < 2 for event in events for time in event["times_s"])
    assert session.account() == {"received": 20, "accepted": 20}
    assert len(session.trajectory) == 20


def test_the_state_keeps_its_size_and_stays_finite_under_every_policy(stream) -> None:
    sizes = [state_bytes(stream(f"of{n}", n, **EVERYTHING).published.state) for n in (12, 24)]
    assert sizes[0] == sizes[1]
    layers = [t for n, t in tensors(stream("on", **EVERYTHING)).items() if n.startswith("layers.")]
    assert all(bool(t.isfinite().all()) for t in layers)


def test_a_snapshot_from_before_these_policies_is_gone_on_with(stream, model, tmp_path) -> None:
    stream("old", 8).snapshot()
    snapshot = load_snapshot(tmp_path / "old")
    older = {k: v for k, v in snapshot.facts.items() if k not in ("commit", "learning")}
    session = open_session(model, tmp_path / "old")
    session.restore(replace(snapshot, facts=older))
    assert session.num_chunks == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Commit(step_size=0.0),
        lambda: Commit(pull=math.nan),
        lambda: Commit(anchor_decay=1.0),
        lambda: Surprise(fast=0.9, slow=0.5),
        lambda: Surprise(doubling_db=math.inf),
        lambda: Surprise(least=0.0),
        lambda: Replay(frames=65),
        lambda: Replay(tolerated_db=math.nan),
        lambda: StreamPolicies(surprise=Surprise(of="memory"), prequential=Prequential(0)),
        lambda: StreamPolicies(replay=Replay(4, tolerated_db=1.0), retention_views=0),
    ],
)
def test_policies_that_no_stream_could_follow_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()
