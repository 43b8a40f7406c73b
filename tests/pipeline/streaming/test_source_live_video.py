"""Live video, against MPEG-TS over loopback TCP: cameras by time, drops, stops, resuming.

For RTSP the decoder itself is the server that a sender on loopback announces a stream to; a camera
that is asked to play one, and /dev/video*, have not been tried.
"""

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice, pairwise

import av
import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.arrivals import DROPPED
from everview.pipeline.streaming.completeness import shortcomings
from everview.pipeline.streaming.config import SourceOptions
from everview.pipeline.streaming.feeder import Feeder
from everview.pipeline.streaming.sources.live_video import LiveVideoSource, _Clock, live_input
from everview.pipeline.streaming.stream import stream_capture
from tests.datasets.videos import grey_pictures, write_video

pytestmark = pytest.mark.usefixtures("without_lpips")

OPTIONS = SourceOptions(idle_s=20.0, patience_s=0.2)


@contextmanager
def sent(data, hold=None):
    """A server that sends `data` to the first who connects; hold: then waits for this event."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)
                if hold is not None:
                    hold.wait(60)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        if hold is not None:
            hold.set()
        thread.join(60)


@pytest.fixture
def video(tmp_path, frames):
    """21 frames of the walk, 100 ms apart, as MPEG-TS bytes."""
    pictures = [frame.image for frame in frames(21)]
    stamps = [100 * k for k in range(21)]
    return write_video(tmp_path / "walk.ts", pictures=pictures, stamps_ms=stamps).read_bytes()


@pytest.fixture
def lines(tmp_path, frames):
    """The cameras of the walk as lines: the head, then one a frame."""
    flip = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV to OpenGL axes
    walk = frames(21)
    camera = walk[0].camera
    head = {"w": camera.width, "h": camera.height, "fl_x": camera.fx, "fl_y": camera.fy,
            "cx": camera.cx, "cy": camera.cy}  # fmt: skip
    rows = [
        {"time": frame.time_s + 0.004, "transform_matrix": (frame.camera.c2w_cv @ flip).tolist()}
        for frame in walk
    ]
    return [json.dumps(row) + "\n" for row in (head, *rows)]


def taken(source, run, depth=64):
    source.begin(run, lambda line: None)
    with Feeder(source, lambda frame: frame, depth) as feeder:
        return list(feeder.arrivals())


def test_every_frame_comes_with_the_camera_of_its_time(video, lines, frames, tmp_path):
    (tmp_path / "poses.jsonl").write_text("".join(lines))
    with sent(video) as url:
        options = replace(OPTIONS, cameras=str(tmp_path / "poses.jsonl"))
        arrivals = taken(LiveVideoSource(url, options), tmp_path)
    assert [a.sequence for a in arrivals] == list(range(21))
    for arrival, frame in zip(arrivals, frames(21), strict=True):
        assert np.allclose(arrival.frame.camera.c2w_cv, frame.camera.c2w_cv)
        assert arrival.frame.time_s == pytest.approx(frame.time_s)
        assert abs(arrival.frame.image.astype(int) - frame.image).mean() < 12  # H.264


def test_a_frame_waits_for_its_line_and_one_without_is_named(video, lines, tmp_path):
    path = tmp_path / "poses.jsonl"
    path.write_text("".join(lines[:3]))
    with sent(video) as url:
        source = LiveVideoSource(url, replace(OPTIONS, cameras=str(path), patience_s=20.0))
        source.begin(tmp_path, lambda line: None)
        with Feeder(source, lambda frame: frame, 64) as feeder:
            arrivals = feeder.arrivals()
            first = [next(arrivals), next(arrivals)]
            with path.open("a") as file:  # 2 to 4 come late, 5 never
                file.write("".join([*lines[3:6], *lines[7:]]))
            rest = list(arrivals)
    assert all(a.frame is not None for a in first)
    assert [a.sequence for a in rest if a.frame is None] == [5]
    assert "no camera within 0.02 s" in next(a.problem for a in rest if a.frame is None)


def test_what_a_session_is_too_slow_for_is_dropped_oldest_first(video, tmp_path):
    with sent(video) as url:
        source = LiveVideoSource(url, OPTIONS)
        source.begin(tmp_path, lambda line: None)
        done, deliver = threading.Event(), source.deliver
        source.deliver = lambda put: (deliver(put), done.set())
        with Feeder(source, lambda frame: frame, 4) as feeder:
            assert done.wait(60)
            arrivals = list(feeder.arrivals())
            assert feeder.counts().dropped == 17
    assert [a.problem for a in arrivals] == [DROPPED] * 17 + [None] * 4


def test_a_silent_stream_is_left_at_once_and_leaves_no_process(video, tmp_path):
    padding = b"\x47\x1f\xff\x10" + b"\xff" * 184  # MPEG-TS's own, until enough was looked at
    with sent(video + 2000 * padding, hold=threading.Event()) as url:
        source = LiveVideoSource(url, replace(OPTIONS, idle_s=600.0))
        source.begin(tmp_path, lambda line: None)
        process = source._decoder._process
        with Feeder(source, lambda frame: frame, 64) as feeder:
            next(feeder.arrivals())
        assert not feeder._thread.is_alive()
        assert process.returncode is not None


def announce(url, pictures):
    """Push pictures to whoever listens at an RTSP URL, as soon as somebody does."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        options = {"rtsp_transport": "tcp"}
        with suppress(OSError), av.open(url, "w", format="rtsp", options=options) as sender:
            stream = sender.add_stream("libx264", rate=30)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt, stream.options = "yuv420p", {"tune": "zerolatency"}
            for picture in pictures:
                sender.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            return
        time.sleep(0.05)


def test_rtsp_is_decoded_with_no_more_than_its_own_protocols(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"rtsp://127.0.0.1:{port}/live"
    source = LiveVideoSource(url, OPTIONS)
    listening = (("rtsp_flags", "listen"), ("listen_timeout", "60"))
    source._input = replace(source._input, options=(*source._input.options, *listening))
    threading.Thread(target=announce, args=(url, grey_pictures(40)), daemon=True).start()
    source.begin(tmp_path, lambda line: None)
    with Feeder(source, lambda frame: frame, 64) as feeder:
        arrivals = list(islice(feeder.arrivals(), 20))
    assert [a.sequence for a in arrivals] == list(range(20))
    brightness = [a.frame.image[24:].mean() for a in arrivals]
    assert brightness == sorted(brightness)


def test_going_on_after_a_stop_counts_on_in_numbers_and_in_time(video, tmp_path):
    with sent(video) as url:
        before = taken(LiveVideoSource(url, OPTIONS), tmp_path)
        cursor = json.loads(json.dumps(before[10].cursor))
    with sent(video) as other:
        again = LiveVideoSource(other, OPTIONS)
        cursor["source"] = again.identity()
        cursor["unix_s"] -= 5.0  # it was away for five seconds
        again.begin(tmp_path, lambda line: None)
        again.resume(cursor)
        with Feeder(again, lambda frame: frame, 64) as feeder:
            after = list(feeder.arrivals())
    assert [a.sequence for a in after] == list(range(11, 32))
    gap = after[0].frame.time_s - before[10].frame.time_s
    assert 5.0 <= gap < 60.0
    assert after[20].frame.time_s - after[0].frame.time_s == pytest.approx(2.0)


def test_time_goes_on_when_the_stamps_start_anew():
    class Header:
        time_base = 0.001

    clock = _Clock()
    clock.starts(Header)
    times = [clock.seconds(pts) for pts in (90_000, 90_100, 90_200, 500, 600)]
    assert times[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert all(later > earlier for earlier, later in pairwise(times))
    assert times[4] - times[3] == pytest.approx(0.1)


def test_the_decoder_opens_the_stream_and_nothing_else(tmp_path):
    secret = write_video(tmp_path / "secret.ts", pictures=grey_pictures(8))
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    with (
        sent(playlist) as url,
        pytest.raises(DataError, match=r"tcp://127.0.0.1:\d+ "),
    ):
        LiveVideoSource(url, OPTIONS).begin(tmp_path, lambda line: None)


@pytest.mark.parametrize(
    "url",
    ["http://localhost/x", "file:///etc/passwd", "tcp://localhost", "tcp://localhost:x",
     "v4l2:///etc/passwd", "rtsp://", "udp://localhost:5000"],
)  # fmt: skip
def test_other_urls_are_refused(url):
    with pytest.raises(UsageError, match="v4l2:///dev/videoN"):
        live_input(url)


def test_passwords_and_what_would_make_the_decoder_listen_stay_out():
    camera = live_input("rtsp://me:secret@camera.local/stream?channel=1")
    assert camera.name == "rtsp://camera.local/stream"
    assert live_input("tcp://127.0.0.1:5000?listen=1").address == "tcp://127.0.0.1:5000"


def test_a_device_that_is_not_there_is_one_sentence(tmp_path):
    source = LiveVideoSource("v4l2:///dev/video-none", OPTIONS)
    with pytest.raises(DataError, match="v4l2:///dev/video-none can't be opened as a video"):
        source.begin(tmp_path, lambda line: None)


def test_a_stream_over_tcp_ends_with_a_whole_run_directory(config, video, lines, tmp_path):
    plain = stream_capture(config, tmp_path / "plain")
    (tmp_path / "poses.jsonl").write_text("".join(lines))
    with sent(video) as url:
        result = stream_capture(
            replace(config, capture=url, cameras=str(tmp_path / "poses.jsonl"), queue_frames=64),
            tmp_path / "live",
        )
    names = {path.name for path in plain.run.iterdir()}
    assert {path.name for path in result.run.iterdir()} == names
    assert shortcomings(result.run) == []
    assert result.metrics["details"]["queue"]["dropped"] == 0
    assert result.metrics["details"]["held_out_frames"] == 5
