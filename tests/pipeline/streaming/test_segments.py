"""Segments: a walk that leaves its gauge, archived states, queries to the nearest, kills."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.models.gauge import Gauge
from everview.models.state import state_to_tensors
from everview.models.weight_files import load_model
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.rendering.renderer import SceneRenderer
from everview.pipeline.streaming.chunks import read_chunks
from everview.pipeline.streaming.events import read_events
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.retention import RetentionProbe
from everview.pipeline.streaming.scenes import open_scene
from everview.pipeline.streaming.segments.archive import FOLDER, read_segment, read_state
from everview.pipeline.streaming.segments.atlas import Atlas, Segment
from everview.pipeline.streaming.segments.covered import Covered
from everview.pipeline.streaming.segments.policy import Segments
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.stream import stream_capture
from everview.pipeline.streaming.writing import written
from everview.pipeline.viewing.scenes import RunScene

STEP_M = 0.5


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def make(model, tmp_path):
    def build(name="run", reach=1.5, span=0, **policies):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        defaults = {"chunk_frames": 4, "retention_views": 0, "prequential": Prequential(0)}
        segments = Segments(reach, span, replayed=3, on_device=2)
        given = StreamPolicies(**{**defaults, "segments": segments, **policies})
        return Session(model, given, out, World("metric"))

    return build


def ahead(count: int, size: int = 32) -> list[Frame]:
    """A straight walk, half a metre a frame, sideways to its sight: 2 m are one gauge unit."""
    random = np.random.default_rng(5)
    frames = []
    for index in range(count):
        pose = np.eye(4)
        pose[0, 3] = STEP_M * index
        camera = Camera(size, size, size, size, size / 2, size / 2, pose)
        coarse = random.integers(20, 236, (8, 8, 3), np.uint8)
        picture = coarse.repeat(size // 8, 0).repeat(size // 8, 1)
        frames.append(Frame(index, f"{index:03d}.png", picture, camera, 0.1 * index))
    return frames


def sizes(session):
    return [chunk["frames"] for chunk in read_chunks(session.out)]


def tensors(session):
    return state_to_tensors(session.published.state)[0]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0, equal_nan=True)


def assert_same_picture(view, other):
    np.testing.assert_array_equal(view.image, other.image)
    np.testing.assert_array_equal(view.depth, other.depth)


def test_a_walk_that_leaves_the_reach_begins_a_segment_with_a_gauge_of_its_own(make):
    session = make()
    for frame in ahead(24):
        session.push(frame)
    told = session.segments.to_facts()
    # chunks of 2 m, one gauge unit, each a unit after the one before: the second from the origin is
    # still in reach, the third isn't
    assert [each["chunks"] for each in told] == [[0, 2], [2, 4], [4, 6]]
    origins = [float(each["gauge"]["origin"][0]) for each in told]
    assert origins == [2 * STEP_M, 10 * STEP_M, 18 * STEP_M]
    assert [each["file"] is None for each in told] == [False, False, True]
    events = [event for event in read_events(session.out) if event["event"] == "segment"]
    assert [(e["chunk"], e["replayed"], e["because"]) for e in events] == [
        (2, 3, "reach"), (4, 3, "reach"),
    ]  # fmt: skip
    assert all(event["distance"] > 1.5 for event in events)
    assert sizes(session) == [4] * 6


def test_the_next_segment_has_seen_the_last_frames_of_the_one_before(make, model):
    """Its state is that of a fresh session which was given them first, as an update of its own."""
    every = ahead(12)
    session = make()
    for frame in every:
        session.push(frame)
    fresh = model.init_state(1)
    gauge = session.published.state.gauge
    for frames in (every[5:8], every[8:12]):
        fresh = written(
            session.model, session._write, frames, fresh, gauge if fresh.gauge is None else None
        )
    assert_same(state_to_tensors(fresh)[0], tensors(session))


def test_without_leaving_the_reach_all_is_as_without_segments(make, frames):
    near, off = make("near", reach=4.0), make("off", reach=0.0)
    for frame in frames(12):
        near.push(frame)
        off.push(frame)
    assert_same(tensors(near), tensors(off))
    assert_same_picture(near.render(frames(1)[0].camera, 0.3), off.render(frames(1)[0].camera, 0.3))


def test_a_query_goes_to_the_segment_that_saw_the_place_bit_for_bit_as_when_it_was_live(make):
    every = ahead(24)
    session = make()
    live = {}
    for frame in every:
        session.push(frame)
        if frame.index in (7, 15):  # the last chunk of a segment
            where = every[frame.index - 6]
            live[where.index] = session.render(where.camera, where.time_s)
    for index, before in live.items():
        assert_same_picture(session.render(every[index].camera, every[index].time_s), before)
    path = [every[i].camera for i in (1, 2, 22, 9)]
    views = list(session.published.renderer.render(path, None, with_memory=True))
    for camera, view in zip(path, views, strict=True):
        assert_same_picture(view, session.render(camera))
        assert view.memory_image is not None


def test_a_walk_that_is_killed_and_goes_on_has_the_same_segments_bit_for_bit(make):
    """Cut at every frame, at the last snapshot before it, with leftovers of what came after."""
    every = ahead(22)
    whole = make("whole")
    for frame in every:
        whole.push(frame)
    whole.finish()
    files = [segment.file for segment in whole.published.atlas.archived]
    assert len(files) == 2
    for cut in (5, 8, 11, 18):
        first = make(f"cut{cut}")
        for frame in every[:cut]:
            first.push(frame)
        first.snapshot()
        for frame in every[cut : cut + 5]:  # a segment may end here and never be in a snapshot
            first.push(frame)
        second = make(f"cut{cut}")
        second.restore(load_snapshot(second.out))
        for frame in every[cut:]:
            second.push(frame)
        second.finish()
        second.snapshot()
        assert_same(tensors(whole), tensors(second))
        assert [segment.file for segment in second.published.atlas.archived] == files
        assert sorted(path.name for path in (second.out / FOLDER).iterdir()) == files
        assert read_events(second.out) == read_events(whole.out)
        camera = every[2].camera
        assert_same_picture(second.render(camera), whole.render(camera))


def test_a_file_that_no_snapshot_names_is_dropped_when_the_run_goes_on(make):
    session = make()
    every = ahead(12)
    for frame in every[:8]:
        session.push(frame)
    session.snapshot()
    for frame in every[8:]:
        session.push(frame)
    assert len(list((session.out / FOLDER).iterdir())) == 1
    again = make()
    again.restore(load_snapshot(session.out))
    assert not list((session.out / FOLDER).iterdir())


def test_a_run_that_starts_over_leaves_no_segment_of_the_attempt_before(make):
    session = make()
    for frame in ahead(12):
        session.push(frame)
    assert list((session.out / FOLDER).iterdir())
    make().start_over()
    assert not list((session.out / FOLDER).iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_snapshot_whose_segment_is_damaged_is_named_and_the_one_before_it_used(make, damage):
    session = make()
    every = ahead(12)
    for frame in every[:8]:
        session.push(frame)
    session.snapshot()
    for frame in every[8:]:
        session.push(frame)
    session.snapshot()
    (file,) = (session.out / FOLDER).iterdir()
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    loaded = load_snapshot(session.out)
    assert loaded.facts["num_chunks"] == 2
    assert str(file) in loaded.set_aside[0]
    again = make()
    again.restore(loaded)
    for frame in every[8:]:
        again.push(frame)
    assert file.read_bytes() != bytes(content) or damage != "flipped"
    assert_same(tensors(again), tensors(session))


def test_no_more_segments_are_on_the_device_than_the_policy_says(make):
    every = ahead(40)
    session = make()
    for frame in every:
        session.push(frame)
    assert len(session.published.atlas.archived) == 4
    shelf = session._shelf
    for index in (1, 9, 17, 25, 1, 1):
        session.render(every[index].camera)
        assert len(shelf._kept) == 1
    assert shelf.loads == 5


def test_pictures_of_archived_segments_are_drawn_beside_a_walk_that_goes_on(make):
    every = ahead(40)
    session = make()
    for frame in every[:20]:
        session.push(frame)
    expected = {i: session.render(every[i].camera, every[i].time_s).image for i in (1, 9)}
    wrong, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            for index, image in expected.items():
                seen = session.render(every[index].camera, every[index].time_s).image
                if not np.array_equal(seen, image):
                    wrong.append(index)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for frame in every[20:]:
            session.push(frame)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join(timeout=60)
    assert not wrong


def test_a_state_that_is_not_finite_begins_no_segment(make, monkeypatch):
    session = make()
    every = ahead(16)
    for frame in every[:8]:
        session.push(frame)
    observe = session.model.observe

    def spoil(*args, **kwargs):
        state = observe(*args, **kwargs)
        named = state_to_tensors(state)[0]
        next(t for n, t in named.items() if n.startswith("layers.")).fill_(float("nan"))
        return state

    monkeypatch.setattr(session.model, "observe", spoil)
    for frame in every[8:12]:
        session.push(frame)
    assert not session.published.atlas.archived
    monkeypatch.undo()
    for frame in every[12:]:
        session.push(frame)
    assert [each["chunks"] for each in session.segments.to_facts()] == [[0, 3], [3, 4]]


def test_retention_is_of_the_segment_that_is_written_and_asks_nothing_of_the_archive(make):
    session = make(retention_views=2)
    every = ahead(24)
    for frame in every:
        session.push(frame)
    assert [each["chunks"] for each in session.segments.to_facts()] == [[0, 2], [2, 4], [4, 6]]
    assert [frame.index for frame in session.retention.frames] == [16, 19]
    assert session.retention.half.count == 2  # chunks of this segment
    assert session.retention.curve.seen == 6  # of the stream
    assert session._shelf.loads == 0
    session.snapshot()
    again = make(retention_views=2)
    again.restore(load_snapshot(session.out))
    assert again.retention.to_facts() == session.retention.to_facts()


class Drawing:
    """A renderer of pictures known beforehand."""

    def __init__(self, images):
        self.images = images

    def memory_images(self, cameras, times):
        return iter(self.images)


def test_a_half_life_that_an_earlier_segment_had_is_kept():
    probe = RetentionProbe.choose(ahead(4), 2)
    learned = [frame.image for frame in probe.frames]
    dull = [np.full_like(image, 128) for image in learned]
    for images in (learned, dull):
        probe.measure(Drawing(images))
    half_life, _ = probe.half_life()
    assert half_life is not None
    later = probe.next_segment(ahead(8)[4:], 2)
    later.measure(Drawing([frame.image for frame in later.frames]))
    assert later.half_life() == (half_life, "")
    again = RetentionProbe.from_facts(later.to_facts(), later.frames)
    assert again.half_life() == (half_life, "")
    assert later.drift_db is None  # nothing of this segment can have been lost yet


def test_where_the_next_frames_tell_no_scale_the_segment_keeps_that_of_the_one_before(make, frames):
    """Cameras around a point have a scale; side by side, of a capture without one, they don't."""
    session = make()
    session.world = World("up_to_scale")
    for frame in frames(4):
        session.push(frame)
    for frame in ahead(44)[40:]:
        session.push(frame)
    first, second = (segment.gauge for segment in session.published.atlas.segments)
    assert second.rule == f"kept: {first.rule}"
    assert float(second.scale[0]) == float(first.scale[0])


def test_a_span_ends_a_segment_where_the_camera_stays_and_each_moment_keeps_its_own(make, frames):
    """Eight views each, of which three were seen before; a bank of six would drop the earlier."""
    session = make(reach=0.0, span=8)
    every, live = frames(28), {}
    for frame in every:
        session.push(frame)
        if frame.index == 7:
            where = every[5]
            live = {where.index: session.render(where.camera, where.time_s)}
    told = session.segments.to_facts()
    assert [each["chunks"] for each in told] == [[0, 2], *([n, n + 1] for n in range(2, 7))]
    assert [each["views"] for each in told] == [8, *[7] * 5]
    events = [event for event in read_events(session.out) if event["event"] == "segment"]
    assert [(e["because"], e["views"]) for e in events] == [("span", 8), *[("span", 7)] * 4]
    for index, before in live.items():
        assert_same_picture(session.render(every[index].camera, every[index].time_s), before)


def test_without_a_span_or_without_times_no_segment_ends_by_it(make, frames):
    off, untimed = make("off", reach=0.0), make("untimed", reach=0.0, span=8)
    for frame in frames(24):
        off.push(frame)
        untimed.push(replace(frame, time_s=None))
    assert len(off.published.atlas.segments) == len(untimed.published.atlas.segments) == 1


def test_segments_in_time_are_killed_and_go_on_bit_for_bit_and_are_opened_again(make, frames):
    every = frames(26)
    whole = make("whole", reach=0.0, span=8)
    for frame in every:
        whole.push(frame)
    whole.finish()
    files = [segment.file for segment in whole.published.atlas.archived]
    for cut in (9, 14, 21):
        first = make(f"cut{cut}", reach=0.0, span=8)
        for frame in every[:cut]:
            first.push(frame)
        first.snapshot()
        for frame in every[cut : cut + 5]:
            first.push(frame)
        second = make(f"cut{cut}", reach=0.0, span=8)
        second.restore(load_snapshot(second.out))
        for frame in every[cut:]:
            second.push(frame)
        second.finish()
        assert_same(tensors(whole), tensors(second))
        atlas = second.published.atlas
        assert [segment.file for segment in atlas.archived] == files
        assert all(segment.moves for segment in atlas.segments)
        assert all(read_segment(second.out, name).moves for name in files)
        assert read_events(second.out) == read_events(whole.out)
        for frame in (every[1], every[12]):
            ours, theirs = (s.render(frame.camera, frame.time_s) for s in (second, whole))
            assert_same_picture(ours, theirs)


def covering(number, positions, times, forward=(0, 0, 1), scale=0.5):
    pose = np.eye(4)
    pose[:3, 2] = forward
    rows = np.array([[*p, *forward, t] for p, t in zip(positions, times, strict=True)], float)
    gauge = Gauge(torch.eye(3)[None].double(), torch.zeros(1, 3).double(),
                  torch.tensor([scale]).double(), "a test")  # fmt: skip
    return Segment(number, gauge, Covered(rows, 1, len(rows)), (number, number + 1))


def looking(x, forward=1.0):
    pose = np.diag([forward, 1, forward, 1]).astype(float)
    pose[0, 3] = x
    return Camera(32, 32, 32, 32, 16, 16, pose)


def test_the_nearest_segment_is_told_by_place_then_direction_then_time():
    out = covering(0, [(x, 0, 0) for x in range(4)], range(4))
    far = covering(1, [(x, 0, 0) for x in range(4, 8)], range(4, 8))
    back = covering(2, [(x, 0, 0) for x in range(4)], range(20, 24), forward=(0, 0, -1))
    again = covering(3, [(x, 0, 0) for x in range(4)], range(40, 44))
    atlas = Atlas((out, far, back, again))
    assert atlas.nearest(looking(7.0), None).number == 1
    assert atlas.nearest(looking(1.0, -1.0), None).number == 2
    assert atlas.nearest(looking(1.0), 3.0).number == 0
    assert atlas.nearest(looking(1.0), 39.0).number == 3
    assert atlas.nearest(looking(1.0), None).number == 3  # equal: the later one
    assert atlas.nearest(looking(7.0), 1.0).number == 1  # time decides only where places tie


def test_where_things_move_a_moment_counts_before_a_slightly_better_place_and_not_before_any():
    """Segments of four seconds, of places a unit (2 m) apart and of one fifth of a unit apart."""
    spots = [(x, 0, 0) for x in (0.0, 0.1, 0.2, 0.3, 0.4)]
    then = replace(covering(0, [(x + 0.8, 0, 0) for x, _, _ in spots], range(5)), moves=True)
    later = replace(covering(1, spots, range(10, 15)), moves=True)
    far = replace(covering(2, [(x + 20, 0, 0) for x, _, _ in spots], range(20, 25)), moves=True)
    atlas = Atlas((then, later, far))
    assert atlas.duration_s == 4.0
    assert atlas.nearest(looking(0.2), 2.0).number == 0
    assert atlas.nearest(looking(0.2), 12.0).number == 1
    assert atlas.nearest(looking(20.2), 2.0).number == 2  # nobody else was ever there
    assert atlas.nearest(looking(0.2), None).number == 1  # without a time: by place
    still = Atlas(tuple(replace(each, moves=False) for each in atlas.segments))
    assert still.nearest(looking(0.2), 2.0).number == 1


def test_what_a_segment_covers_is_bounded_however_long_it_is():
    covered = Covered()
    for frame in ahead(400, 8):
        covered = covered.joined([frame])
    assert covered.seen == 400
    assert 64 <= len(covered.rows) <= 128
    assert np.isclose(np.diff(covered.rows[:, 0]), covered.stride * STEP_M).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"reach": 0.1},
        {"reach": float("nan")},
        {"span": 8},
        {"span": -1},
        {"replayed": -1},
        {"on_device": 1},
    ],
)
def test_values_that_no_walk_can_have_are_refused(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong)))):
        Segments(**wrong)


def test_an_archived_segment_answers_as_the_state_that_was_frozen(make, model):
    session = make()
    every = ahead(12)
    for frame in every[:8]:
        session.push(frame)
    held = session.published.state
    for frame in every[8:]:
        session.push(frame)
    (segment,) = session.published.atlas.archived
    again = read_state(session.out, segment.file, model)
    assert_same(state_to_tensors(again)[0], state_to_tensors(held)[0])
    view = next(iter(SceneRenderer(model, again).render([every[1].camera], [0.1])))
    assert_same_picture(view, session.render(every[1].camera, 0.1))
    with pytest.raises(InputRejected, match="no name of an archived segment"):
        read_state(session.out, "../run.json", model)


def test_a_segment_archived_before_segments_had_times_of_their_own_is_read_as_still(make):
    session = make()
    for frame in ahead(12):
        session.push(frame)
    (segment,) = session.published.atlas.archived
    content = (session.out / FOLDER / segment.file).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    told = json.loads(header["__metadata__"]["segment"])
    del told["moves"]
    header["__metadata__"]["segment"] = json.dumps(told)
    words = json.dumps(header).encode()
    content = len(words).to_bytes(8, "little") + words + content[8 + length :]
    name = f"00000000-{hashlib.blake2b(content, digest_size=16).hexdigest()}.safetensors"
    (session.out / FOLDER / name).write_bytes(content)
    again = read_segment(session.out, name)
    assert not again.moves
    assert again.chunks == segment.chunks


def test_a_file_that_is_no_segment_is_one_clear_sentence_whatever_its_name_says(make, model):
    session = make()
    (session.out / FOLDER).mkdir()
    for content in (b"", b"x" * 64, save({"covered": torch.zeros(2, 7)}, {"segment": "[1]"}),
                    save({"covered": torch.zeros(2, 7)}, {"segment": '{"state": 3}'})):  # fmt: skip
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        name = f"00000000-{digest}.safetensors"
        (session.out / FOLDER / name).write_bytes(content)
        for read in (lambda name: read_segment(session.out, name),
                     lambda name: read_state(session.out, name, model)):  # fmt: skip
            with pytest.raises(InputRejected, match=name):
                read(name)


def test_a_streamed_run_answers_from_its_segments_wherever_it_is_opened(
    config, tmp_path, without_lpips
):
    folder, out = tmp_path / "walk", tmp_path / "run"
    folder.mkdir()
    every = ahead(23)
    for frame in every:
        Image.fromarray(frame.image).save(folder / frame.name)
    images = [PosedImage(frame.name, frame.camera, frame.time_s) for frame in every]
    write_transforms_json(folder / "transforms.json", images, "metric")
    segments = Segments(1.5, replayed=3, on_device=2)
    policies = replace(config.policies, segments=segments)
    seen = {}

    @contextmanager
    def beside(session):
        seen["session"] = session
        yield

    told = replace(config, capture=str(folder), policies=policies, path="interpolate")
    result = stream_capture(told, out, beside=beside)
    session = seen["session"]
    record = json.loads((out / "run.json").read_text())
    assert len(record["segments"]) == len(session.published.atlas.segments) >= 2
    assert record["gauge"] == record["segments"][0]["gauge"]
    assert result.metrics["details"]["segments"] == record["segments"]
    assert "Segments" in (out / "report.html").read_text()
    opened, viewed = open_scene(out).renderer(), RunScene(out).renderer()
    for index in (1, 3, 12, 22):
        camera, time_s = every[index].camera, every[index].time_s
        live = session.render(camera, time_s)
        for renderer in (opened, viewed):
            assert_same_picture(next(iter(renderer.render([camera], [time_s]))), live)


def turned(frame: Frame) -> Frame:
    """The same view, 24x32 in place of 32x24."""
    camera = Camera(24, 32, 32, 32, 12, 16, frame.camera.c2w_cv)
    return replace(frame, image=np.ascontiguousarray(frame.image[:, :24]), camera=camera)


def wide(frame: Frame) -> Frame:
    return replace(frame, image=frame.image[:24], camera=frame.camera.cropped(0, 0, 32, 24))


def test_a_change_of_size_closes_the_chunk_and_keeps_the_memory(make, frames):
    session = make(reach=0.0)
    every = frames(20)
    given = [wide(f) for f in every[:6]] + [turned(f) for f in every[6:13]]
    given += [wide(f) for f in every[13:16]] + every[16:]
    for frame in given:
        assert session.push(frame).kind == "accepted"
    session.finish()
    assert sizes(session) == [4, 2, 4, 3, 3, 4]
    events = [e for e in read_events(session.out) if e["event"] == "size changed"]
    assert [(e["sequence"], e["before"], e["after"]) for e in events] == [
        (6, [32, 24], [24, 32]), (13, [24, 32], [32, 24]), (16, [32, 24], [32, 32]),
    ]  # fmt: skip
    state = session.published.state
    assert int(state.clock.chunks) == 6
    assert state.bank.images.shape == (1, 6, 3, 24, 32)
    for camera in (given[0].camera, given[8].camera, given[-1].camera):
        assert session.render(camera).image.shape == (camera.height, camera.width, 3)


def test_a_first_chunk_of_several_sizes_is_not_cut_short(make, frames):
    """Alone, its first frame would tell no scale."""
    session = make(reach=0.0)
    session.world = World("up_to_scale")
    every = frames(4)
    for frame in (wide(every[0]), turned(every[1]), every[2], wide(every[3])):
        session.push(frame)
    assert sizes(session) == [4]
    assert session.gauge.rule == "focus distance"


def test_a_stream_of_several_sizes_is_killed_and_goes_on_bit_for_bit(make):
    every = [(wide, turned)[i // 5 % 2](f) for i, f in enumerate(ahead(22))]
    whole = make("whole")
    for frame in every:
        whole.push(frame)
    whole.finish()
    for cut in (7, 12):
        first = make(f"cut{cut}")
        for frame in every[:cut]:
            first.push(frame)
        first.snapshot()
        second = make(f"cut{cut}")
        second.restore(load_snapshot(second.out))
        for frame in every[cut:]:
            second.push(frame)
        second.finish()
        assert sizes(second) == sizes(whole)
        assert_same(tensors(whole), tensors(second))


def test_another_lens_is_an_event(make, frames):
    session = make(reach=0.0)
    for frame in frames(6):
        lens = replace(frame.camera, fx=40.0, fy=40.0) if frame.index == 5 else frame.camera
        session.push(replace(frame, camera=lens))
    (event,) = read_events(session.out)
    assert (event["event"], event["sequence"]) == ("lens changed", 5)
    assert event["before"][0] == 1.0
    assert event["after"][0] == 1.25
