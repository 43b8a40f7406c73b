"""The ingest socket: who is let in, what is refused, what took effect, what survives a crash."""

import errno
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from everview.datasets.errors import DataError
from everview.datasets.formats.frame_message import MAGIC, frame_message, open_message
from everview.models.weight_files import load_model
from everview.pipeline.errors import TryAgain, UsageError
from everview.pipeline.streaming.arrivals import DROPPED, Arrival
from everview.pipeline.streaming.completeness import shortcomings
from everview.pipeline.streaming.config import SourceOptions
from everview.pipeline.streaming.feeder import Feeder
from everview.pipeline.streaming.session import Session
from everview.pipeline.streaming.sources import sending
from everview.pipeline.streaming.sources.conversation import Received
from everview.pipeline.streaming.sources.ingest import ADDRESS_FILE, IngestSource
from everview.pipeline.streaming.sources.ingest_protocol import WINDOW, Hello
from everview.pipeline.streaming.sources.kept import KeptFrames
from everview.pipeline.streaming.sources.sending import (
    Address,
    Sender,
    capture_frames,
    send_frames,
)
from everview.pipeline.streaming.stream import _take, stream_capture

pytestmark = pytest.mark.usefixtures("without_lpips")

OPTIONS = SourceOptions(idle_s=30.0)
_KILLED = """
import json, sys
from pathlib import Path
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.stream import stream_capture
from tests.pipeline.streaming.test_stream import Signaller

policies = StreamPolicies(chunk_frames=4, snapshot_every_s=0.0)
config = StreamConfig(policies=policies, **json.loads(sys.argv[1]))
stream_capture(config, Path(sys.argv[2]), progress=Signaller(9, 12))
"""


def wait_for(file):
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until, f"{file} did not appear"
        time.sleep(0.02)
    return file


class Serving:
    """A source that listens, and what a feeder takes from it; without a session."""

    def __init__(self, run, depth=8, is_read=True, most=None):
        run.mkdir()
        self.run, self._depth, self._most, self._is_read = run, depth, most, is_read
        self.is_read, self.may_close = threading.Event(), threading.Event()
        self.may_close.set()
        self.source = IngestSource("ingest://", OPTIONS)
        self.arrivals, self.go_on = [], threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.address = Address.read(wait_for(run / ADDRESS_FILE))

    def _serve(self):
        self.source.begin(self.run, lambda line: None)
        with Feeder(self.source, lambda frame: frame, self._depth) as feeder:
            if not self._is_read:
                assert self.go_on.wait(30)
            for arrival in feeder.arrivals(lambda: len(self.arrivals) == self._most):
                self.arrivals.append(arrival)
                self.source.took(arrival, "accepted")
            self.counts = feeder.counts()
        self.is_read.set()
        assert self.may_close.wait(30)
        self.source.close(True)

    def to_the_end(self):
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.arrivals


@pytest.fixture
def serving(tmp_path):
    return Serving(tmp_path / "run")


# --- messages ---


def test_a_message_gives_the_frame_back(frames):
    frame = replace(frames(3)[2], depth=np.full((32, 32), 1.25, np.float32))
    opened = open_message(frame_message(7, frame))
    again = opened.frame(10_000)
    assert (opened.sequence, again.index, again.name) == (7, 7, frame.name)
    assert np.array_equal(again.image, frame.image)
    assert np.allclose(again.depth, frame.depth)
    assert np.allclose(again.camera.c2w_cv, frame.camera.c2w_cv)
    assert again.time_s == frame.time_s


def altered(message, **changes):
    (length,) = struct.unpack_from("<I", message, 4)
    header = {**json.loads(message[8 : 8 + length]), **changes}
    text = json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + message[8 + length :]


def test_what_is_no_message_is_refused_in_a_sentence(frames):
    good = frame_message(0, frames(1)[0])
    wrong = [
        b"", b"EVF1", b"nothing", good[:-1], good + b"x", b"EVF1\xff\xff\xff\xff" + good[8:],
        altered(good, sequence=-1), altered(good, sequence=1.5), altered(good, sequence=2**60),
        altered(good, image=None), altered(good, image={"bytes": -4}), altered(good, extra=1),
        altered(good, image={"bytes": 2**40}), altered(good, depth={"bytes": 5}),
    ]  # fmt: skip
    for data in wrong:
        with pytest.raises(DataError) as error:
            open_message(data)
        assert "\n" not in str(error.value)


def test_what_is_no_frame_is_refused_before_it_is_decoded(frames):
    good = frame_message(0, frames(1)[0])
    camera = json.loads(good[8 : 8 + struct.unpack_from("<I", good, 4)[0]])["camera"]
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
    bomb += struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0) + b"\0" * 20
    wrong = [
        altered(good, camera={**camera, "fx": -1}),
        altered(good, camera={**camera, "c2w_cv": [1.0] * 16}),
        altered(good, camera={**camera, "c2w_cv": "close to the door"}),
        altered(good, camera={**camera, "width": 99}),
        altered(good, camera={**camera, "distortion": [0.1]}),
        altered(good, camera={**camera, "model": []}),
        altered(good, camera={**camera, "model": {}}),
        altered(good, time_s="noon"),
        MAGIC + good[4:8] + good[8:-200] + bytes(200),
    ]
    text = json.dumps({"sequence": 0, "image": {"bytes": len(bomb)}}).encode()
    wrong.append(MAGIC + struct.pack("<I", len(text)) + text + bomb)
    for data in wrong:
        with pytest.raises(DataError):
            open_message(data).frame(10_000)


def test_the_number_to_go_on_from_is_the_first_that_has_not_come():
    received = Received()
    assert [received.add(n) for n in (0, 2, 1, 1, 5)] == [1, 1, 3, 3, 3]
    for number in range(6, 1100):
        received.add(number)
    assert received.next == 1100  # 3 and 4 are no longer waited for
    with pytest.raises(DataError, match="ahead"):
        received.check(2_000_000)


# --- the socket ---


def test_only_who_has_the_token_is_let_in_and_no_page_of_a_browser(serving):
    url, token = serving.address.url, serving.address.token
    assert url.startswith("ws://127.0.0.1:")
    assert stat.S_IMODE((serving.run / ADDRESS_FILE).stat().st_mode) == 0o600
    bearer = {"Authorization": f"Bearer {token}"}
    for headers, where, status in (
        ({}, url, 401),
        ({"Authorization": "Bearer " + "x" * len(token)}, url, 401),
        ([*bearer.items()] * 2, url, 401),
        ({**bearer, "Origin": "http://127.0.0.1"}, url, 403),
        (bearer, url + "/other", 404),
    ):
        with pytest.raises(InvalidStatus) as refused, connect(where, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
    with Sender(serving.address, Hello()) as sender:
        sender.finish(30)
    assert serving.to_the_end() == []
    assert token not in repr(serving.address)


def test_idle_strangers_and_a_lack_of_file_handles_keep_no_sender_out(serving, monkeypatch):
    port, failures = serving.source.port, [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]
    lines = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(40)]
    for line in lines[:24]:
        assert line.recv(1) == b""  # cut off, long before its time to say something is over
    accept = socket.socket.accept

    def failing(self):
        if failures:
            raise OSError(failures.pop(), "not now")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with Sender(serving.address, Hello()) as sender:
        assert sender.finish(30).is_complete
    for line in lines:
        line.close()
    serving.to_the_end()


def test_a_token_that_is_too_short_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERVIEW_INGEST_TOKEN", "secret")
    with pytest.raises(UsageError, match="at least 16"):
        IngestSource("ingest://", OPTIONS).begin(tmp_path, lambda line: None)


def test_a_frame_that_cannot_be_used_is_refused_by_its_number_and_the_others_go_on(serving, frames):
    one, two, three = frames(3)
    with Sender(serving.address, Hello()) as sender:
        sender.send(0, one)
        sender._connection.send(b"this is no frame")
        sender._connection.send(altered(frame_message(1, two), time_s="noon"))
        sender.send(2, three)
        answers = sender.finish(30)
    arrivals = serving.to_the_end()
    assert [(a.sequence, a.frame is None) for a in arrivals] == [(0, False), (1, True), (2, False)]
    assert answers.effects == {"accepted": 2}
    assert [sequence for sequence, _ in answers.refused] == [None, 1]
    assert len(serving.source.skipped) == 2
    assert arrivals[1].cursor["skipped"] is arrivals[2].cursor["skipped"]  # not a copy a frame
    again = IngestSource("ingest://", OPTIONS)
    again.resume(json.loads(json.dumps(arrivals[2].cursor)))
    assert again.skipped == serving.source.skipped


def test_a_live_sender_is_told_which_frames_were_dropped(tmp_path, frames):
    serving = Serving(tmp_path / "run", depth=3, is_read=False)
    with Sender(serving.address, Hello(live=True)) as sender:
        for frame in frames(20):
            sender.send(frame.index, frame)
        sender._connection.send(json.dumps({"type": "end"}))
        until = time.monotonic() + 30
        while not serving.source._is_ended:  # everything that was sent has been put
            assert time.monotonic() < until
            time.sleep(0.01)
        serving.go_on.set()
        serving.to_the_end()
        sender._thread.join(30)
    assert sender.answers.refused == [(number, DROPPED) for number in range(17)]
    assert sender.answers.effects == {"accepted": 3}
    assert serving.counts.dropped == 17


def test_a_new_connection_takes_the_place_of_the_old_one_and_learns_where_to_go_on(serving, frames):
    walk = frames(4)
    first = Sender(serving.address, Hello())
    for frame in walk[:2]:
        first.send(frame.index, frame)
    until = time.monotonic() + 30
    while first.answers.effects.get("accepted") != 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    with Sender(serving.address, Hello()) as second:
        assert second.next == 2
        first._thread.join(30)  # it was cut off
        with pytest.raises(TryAgain):
            first.send(2, walk[2])
        for frame in walk[2:]:
            second.send(frame.index, frame)
        second.finish(30)
    assert [a.sequence for a in serving.to_the_end()] == [0, 1, 2, 3]


def test_no_cursor_passes_over_a_frame_that_an_old_connection_still_holds(serving, frames):
    walk, held, go_on = frames(4), threading.Event(), threading.Event()
    first = Sender(serving.address, Hello())
    put = serving.source._put

    def slow(arrival):
        if arrival.sequence == 1:
            held.set()
            assert go_on.wait(30)
        return put(arrival)

    serving.source._put = slow
    for frame in walk[:2]:
        first.send(frame.index, frame)
    assert held.wait(30)
    first._connection.socket.shutdown(2)
    with Sender(serving.address, Hello()) as second:
        assert second.next == 2
        for frame in walk[2:]:
            second.send(frame.index, frame)
        until = time.monotonic() + 30
        while serving.source._busy < 2 and len(serving.arrivals) < 3:
            assert time.monotonic() < until
            time.sleep(0.005)
        go_on.set()
        second.finish(30)
    first.close()
    arrivals = serving.to_the_end()
    assert [(a.sequence, a.cursor["next"]) for a in arrivals] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_what_a_number_sends_again_does_not_replace_its_first_picture(config, frames, tmp_path):
    first, late = frames(2)
    session = Session(load_model(config.weights), config.policies, tmp_path)
    source = IngestSource("ingest://", OPTIONS)
    source._kept = KeptFrames(tmp_path, source.info)
    again = replace(first, image=255 - first.image)
    effects = [
        _take(session, source, Arrival(number, frame, 0.0), config)
        for number, frame in ((0, first), (0, again), (1, late))
    ]
    assert effects == ["held out", "duplicate", "accepted"]
    assert [np.array_equal(kept.image, frame.image) for kept, frame in
            zip(source.seen_again(), (first, late), strict=True)] == [True, True]  # fmt: skip


def test_a_run_that_is_complete_before_the_sender_is_done_answers_it(tmp_path, frames):
    serving, (frame,) = Serving(tmp_path / "run", most=5), frames(1)
    endless = lambda first: (replace(frame, index=number) for number in count(first))  # noqa: E731
    told = send_frames(endless, lambda: serving.address, Hello(), patience_s=5.0)
    assert told.is_complete
    assert len(serving.to_the_end()) == 5


def test_who_comes_while_everything_is_written_waits_and_who_comes_later_hears_the_end(
    serving, frames
):
    serving.may_close.clear()
    first = Sender(serving.address, Hello())
    first.send(0, frames(1)[0])
    first._connection.send(json.dumps({"type": "end"}))
    assert serving.is_read.wait(30)
    first._connection.socket.shutdown(2)
    with Sender(serving.address, Hello(), 5.0) as second:
        assert second.next == 1  # at once, although the exports go on
        shutdown, serving.source._server.shutdown = serving.source._server.shutdown, print
        serving.may_close.set()
        assert second.finish(30).is_complete
        serving.to_the_end()
        with Sender(serving.address, Hello(), 5.0) as third:
            assert third.finish(0.0).is_complete
        shutdown()
    first.close()


def test_messages_that_nobody_can_name_take_no_place_for_ever(serving, frames, monkeypatch):
    monkeypatch.setattr(sending, "frame_message", lambda *_: b"this is no frame")
    with Sender(serving.address, Hello()) as sender:
        for number in range(2 * WINDOW):
            sender.send(number, frames(1)[0])
        answers = sender.finish(30)
    assert len(answers.refused) == 2 * WINDOW


def test_a_server_that_answers_nothing_is_left_in_time(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(sending, "_SILENCE_S", 0.2)
    serving = Serving(tmp_path / "run", depth=1, is_read=False)
    with Sender(serving.address, Hello()) as sender:
        for number in range(WINDOW):
            sender.send(number, frames(1)[0])
        with pytest.raises(TryAgain, match="no answer"):
            sender.send(WINDOW, frames(1)[0])
        serving.go_on.set()
        sender.finish(30)
    serving.to_the_end()


# --- the whole job ---


def push(config, run):
    """Send the capture to the run, whenever it listens; returns the thread and what it was told."""
    told = []
    hello, frames_from = capture_frames(config.capture)

    def work():
        wait_for(run / ADDRESS_FILE)
        read = lambda: Address.read(run / ADDRESS_FILE)  # noqa: E731
        told.append(send_frames(frames_from, read, hello, patience_s=120))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, told


def last_state(run):
    commit = max(path for path in (run / "snapshot").iterdir() if path.name[0].isdigit())
    return (commit / "state.safetensors").read_bytes()


def test_a_socket_killed_in_mid_stream_leaves_the_run_that_the_capture_itself_leaves(
    config, tmp_path
):
    plain = stream_capture(config, tmp_path / "plain")
    out = tmp_path / "pushed"
    pushed = replace(config, capture="ingest://")
    thread, told = push(config, out)
    values = {
        name: getattr(pushed, name)
        for name in ("capture", "weights", "size", "hold_out", "video_frames", "review_views",
                     "fusion_views", "device")
    }  # fmt: skip
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, json.dumps(values), str(out)],
        capture_output=True, text=True, timeout=300,
        cwd=Path(__file__).resolve().parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = stream_capture(pushed, out)
    thread.join(60)
    assert told[0].is_complete
    assert told[0].saved == 21
    assert result.metrics["psnr"] == plain.metrics["psnr"]
    assert last_state(out) == last_state(plain.run)
    names = {path.name for path in plain.run.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    assert shortcomings(out) == []
