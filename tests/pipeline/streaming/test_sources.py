"""Sources and the one queue: what waits, what is dropped, what a program can hand in."""

import math
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from everview.datasets.captures import CaptureInfo
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.pipeline.runs import read_frames
from everview.pipeline.streaming import feeder as feeding
from everview.pipeline.streaming.arrivals import DROPPED, Arrival
from everview.pipeline.streaming.completeness import shortcomings
from everview.pipeline.streaming.feeder import ArrivalQueue, EndOfStream, Feeder
from everview.pipeline.streaming.sources import kept as kept_frames
from everview.pipeline.streaming.sources.captured import CapturedSource
from everview.pipeline.streaming.sources.iterated import IteratedSource
from everview.pipeline.streaming.sources.kept import KeptFrames
from everview.pipeline.streaming.stream import stream_capture, stream_source
from everview.workflows.cli.stream import subject_of

pytestmark = pytest.mark.usefixtures("without_lpips")

INFO = CaptureInfo("test", "test", "up_to_scale", None, True)


def as_is(frame):
    return frame


def all_of(source, depth=3):
    with Feeder(source, as_is, depth) as feeder:
        return list(feeder.arrivals()), feeder.counts()


def test_a_source_that_can_wait_loses_nothing_and_never_fills_more_than_the_queue(frames):
    taken, counts = all_of(IteratedSource(frames(40), "walk"))
    assert [a.frame.index for a in taken] == list(range(40))
    assert all(a.look.image is a.frame.image for a in taken)  # measured before their turn
    assert (counts.frames, counts.dropped) == (40, 0)
    assert counts.longest <= 3


def test_a_source_that_cannot_wait_loses_its_oldest_frames_each_counted_and_numbered(frames):
    source = IteratedSource(frames(20), "camera", can_wait=False)
    delivered = threading.Event()
    deliver = source.deliver
    source.deliver = lambda put: (deliver(put), delivered.set())
    with Feeder(source, as_is, depth=3) as feeder:
        assert delivered.wait(30)  # nobody takes anything meanwhile
        taken, counts = list(feeder.arrivals()), feeder.counts()
    assert [a.sequence for a in taken] == list(range(20))
    assert [a.sequence for a in taken if a.frame is not None] == [17, 18, 19]
    assert {a.problem for a in taken[:17]} == {DROPPED}
    assert (counts.frames, counts.dropped, counts.longest) == (20, 17, 3)


def test_a_source_that_can_wait_loses_no_word_of_what_it_could_not_read(monkeypatch):
    monkeypatch.setattr(feeding, "_MOST_PROBLEMS", 4)
    queue, problems = ArrivalQueue(1), [Arrival(n, None, 0.0, "damaged") for n in range(40)]

    def deliver():
        for problem in problems:
            queue.put(problem, can_wait=True)
        queue.end(None)

    thread = threading.Thread(target=deliver)
    thread.start()
    taken = []
    for _ in problems:
        taken.append(queue.get())
        assert len(queue._items) <= 5
    with pytest.raises(EndOfStream):
        queue.get()
    thread.join()
    assert taken == problems


def test_leaving_early_stops_a_source_that_waits_for_room(frames):
    source = IteratedSource(iter(frames(40)), "walk")
    with Feeder(source, as_is, depth=2) as feeder:
        first = next(feeder.arrivals())
    assert first.sequence == 0
    assert not feeder._thread.is_alive()


def test_a_silent_source_does_not_hold_up_whoever_wants_to_stop():
    never = threading.Event()

    class Silent(IteratedSource):
        def deliver(self, put):
            never.wait(60)

        def stop(self):
            never.set()

    asked = []
    with Feeder(Silent([], "nothing"), as_is) as feeder:
        assert list(feeder.arrivals(lambda: asked.append(1) or len(asked) > 4)) == []


def test_what_a_source_raises_reaches_the_session_after_the_frames_before_it(frames):
    def broken():
        yield from frames(2)
        raise DataError("the cable was pulled")

    taken = []
    with (
        pytest.raises(DataError, match="cable"),
        Feeder(IteratedSource(broken(), "x"), as_is) as feeder,
    ):
        taken.extend(feeder.arrivals())
    assert len(taken) == 2


def test_a_frame_that_a_capture_skips_arrives_as_a_problem_and_resuming_repeats_its_number(
    frames, tmp_path
):
    images = []
    for frame in frames(5):
        Image.fromarray(frame.image).save(tmp_path / frame.name)
        images.append(PosedImage(frame.name, frame.camera, frame.time_s))
    write_transforms_json(tmp_path / "transforms.json", images, "up_to_scale")
    (tmp_path / "002.png").write_bytes(b"\x89PNG not really")
    whole, _ = all_of(CapturedSource(open_capture(tmp_path)))
    assert [a.sequence for a in whole] == [0, 1, 2, 3, 4]
    assert [a.frame is None for a in whole] == [False, False, True, False, False]
    assert "002.png" in whole[2].problem
    for stopped in (1, 2, 3):
        again = CapturedSource(open_capture(tmp_path))
        again.resume(whole[stopped].cursor)
        rest, _ = all_of(again)
        last = whole[stopped].sequence
        fresh = [a.sequence for a in rest if a.sequence > last]
        assert fresh == list(range(last + 1, 5))
        assert {a.sequence for a in rest} - set(fresh) <= {last}  # only a problem comes again


def test_an_iterator_streams_to_the_same_views_as_the_capture_it_came_from(config, tmp_path):
    plain = stream_capture(config, tmp_path / "plain")
    capture = open_capture(config.capture)
    source = IteratedSource(iter(capture), "from code", scale=capture.info.scale)
    result = stream_source(source, config, tmp_path / "iterated")
    assert result.metrics["psnr"] == pytest.approx(plain.metrics["psnr"], abs=1e-9)
    assert {p.name for p in result.run.iterdir()} == {p.name for p in plain.run.iterdir()}
    assert shortcomings(result.run) == []
    assert len(read_frames(result.run)) == 21


def test_a_held_out_frame_whose_time_is_none_is_left_out_of_the_comparison(config, tmp_path):
    every = [frame for frame in open_capture(config.capture)]
    every[5] = replace(every[5], time_s=math.inf, name="caf\udce9.png")
    result = stream_source(IteratedSource(every, "from code"), config, tmp_path / "run")
    rows = {row["id"]: row for row in read_frames(result.run)}
    assert sorted(n for n, row in rows.items() if row["role"] == "held_out") == [0, 10, 15, 20]
    assert (rows[5]["gate"], rows[5]["gate_reason"]) == ("rejected", "time not finite")
    assert rows[5]["name"] == "caf\\udce9.png"
    assert result.metrics["details"]["counts"]["held out"] == 4


def test_of_a_long_live_stream_what_was_kept_is_compared_and_nothing_else(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(kept_frames, "KeptFrames", partial(KeptFrames, most=16))
    capture = open_capture(config.capture)
    result = stream_source(IteratedSource(iter(capture), "x"), config, tmp_path / "run")
    held_out = [row["id"] for row in read_frames(result.run) if row["role"] == "held_out"]
    assert held_out == [0, 5, 10, 15]  # and not 20, of a block that was let go
    assert result.metrics["floors"]["nearest_view"]["psnr"] > 0


def test_no_file_of_a_run_and_no_folder_s_name_holds_the_password_of_a_camera(config, tmp_path):
    camera = "rtsp://admin:hunter2secret@10.0.0.9"
    source = IteratedSource(iter(open_capture(config.capture)), "rtsp://10.0.0.9")
    result = stream_source(source, replace(config, capture=camera), tmp_path / "run")
    files = [file for file in result.run.rglob("*") if file.is_file()]
    assert [file for file in files if b"hunter2secret" in file.read_bytes()] == []
    assert "hunter2secret" not in result.table
    assert result.metrics["scenes"][0]["scene"] == "rtsp://10.0.0.9"
    assert subject_of(camera) == subject_of(camera + "?channel=2") == "10.0.0.9"
    assert subject_of("walks/me@home") == "me@home"


def test_what_is_kept_does_not_depend_on_kills(frames, tmp_path):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    whole, killed = (KeptFrames(folder, INFO, most=16) for folder in folders)
    walk = [replace(frames(1)[0], index=index) for index in range(0, 320, 4)]
    for number, frame in enumerate(walk):
        if number in (23, 36, 50, 70):  # soon after frames were let go, and not
            killed = KeptFrames(folders[1], INFO, most=16)
        for kept in (whole, killed):
            kept.add(frame)
        assert [f.index for f in walk if f.index in killed] == [
            f.index for f in walk if f.index in whole
        ]


def test_an_iterator_whose_indices_fall_is_refused(frames):
    one, two = frames(2)
    with pytest.raises(DataError, match="comes after frame"):
        all_of(IteratedSource([two, one], "walk"))


def test_kept_frames_come_back_as_they_were_and_are_thinned_in_whole_blocks(frames, tmp_path):
    kept = KeptFrames(tmp_path, INFO, most=40)
    walk = frames(100)
    for frame in walk:
        kept.add(frame)
    indices = [frame.index for frame in kept]
    assert len(indices) <= 40
    assert all((index // 16) % 4 == 0 for index in indices)
    (kept.folder / "somebody's.safetensors").write_bytes(b"not a frame")
    again = KeptFrames(tmp_path, INFO, most=40)
    assert again.indices() == kept.indices()
    for frame in again:
        original = walk[frame.index]
        assert np.array_equal(frame.image, original.image)
        assert np.array_equal(frame.camera.c2w_cv, original.camera.c2w_cv)
        assert frame.time_s == original.time_s
    kept.remove()
    assert not list(tmp_path.iterdir())


def test_an_arrival_holds_either_a_frame_or_a_problem(frames):
    (frame,) = frames(1)
    for wrong in ((None, None), (frame, "broken")):
        with pytest.raises(ValueError, match="either"):
            Arrival(0, wrong[0], time.monotonic(), wrong[1])
