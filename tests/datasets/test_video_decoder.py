"""A video that crashes, stalls or exhausts its decoder is one sentence, and leaves no process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.datasets.formats import video_decoder
from everview.datasets.formats.video_decoder import DecodingLimits, Picture, VideoDecoder
from everview.datasets.opening import open_capture
from everview.workflows.cli.main import main
from tests.datasets.videos import grey_pictures, write_video

ROOT = Path(__file__).resolve().parents[2]
PIXELS = 64_000_000


def decoder(path: Path, limits: DecodingLimits = video_decoder.LIMITS) -> VideoDecoder:
    return VideoDecoder(video_decoder.local_video(path, "mov"), PIXELS, limits)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def ends(pid: int) -> bool:
    """Whether a process is gone, or goes within 10 seconds."""
    for _ in range(100):
        if not is_running(pid):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", count=40)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, "crashed (SIGSEGV)"),
        (signal.SIGABRT, "crashed (SIGABRT)"),
        (signal.SIGKILL, "was killed, perhaps because memory ran out"),
        (signal.SIGXCPU, "s of processor time at once"),
    ],
)
def test_a_decoder_that_dies_is_one_sentence_after_the_frames_it_gave(video, number, reason):
    with decoder(video) as running:
        items = running.read(None)
        first = list(islice(items, 2))
        os.kill(running.pid, number)
        with pytest.raises(DataError) as raised:
            list(items)
    assert [item.pts for item in first if isinstance(item, Picture)] == sorted(
        item.pts for item in first
    )
    assert reason in str(raised.value)
    assert str(video) in str(raised.value)


def test_a_decoder_that_stalls_is_given_up_and_ended(video):
    with decoder(video, DecodingLimits(silence_s=1)) as running:
        items = running.read(None)
        next(items)
        os.kill(running.pid, signal.SIGSTOP)
        with pytest.raises(DataError, match="gave no frame within 1 s"):
            list(items)
        assert not is_running(running.pid)


def test_a_decoder_reads_ahead_only_as_far_as_it_has_room(video):
    with decoder(video, DecodingLimits(silence_s=5)) as running:
        items = running.read(None)
        greys = []
        for item in items:
            assert isinstance(item, Picture)
            time.sleep(0.01)  # slower than the decoder: what it wrote must not be written over
            greys.append(float(item.image[40, 50].mean()))
    np.testing.assert_allclose(greys, [p[40, 50, 0] for p in grey_pictures(40)], atol=6)


def test_pictures_that_need_more_memory_than_allowed_are_left_out(tmp_path):
    path = write_video(tmp_path / "large.mp4", pictures=grey_pictures(12, 1920, 1080))
    with decoder(path, DecodingLimits(memory_mib=30, bytes_per_pixel=0)) as running:
        items = list(running.read(None))
    left = [item for item in items if not isinstance(item, Picture)]
    assert left
    with decoder(path) as running:
        assert all(isinstance(item, Picture) for item in running.read(None))


@pytest.mark.parametrize(
    "answer",
    [
        "'nonsense'",
        "[]",
        """'{"kind": "opened"}'""",
        "'x' * 200_000",
        """'{"kind": "opened", "container": "mov", "codec": "h264", "size": [64, 48], '
        '"rate": null, "time_base": [1, 1000], "start_pts": 0}\\n'
        '{"kind": "frame", "pts": 0, "packets": 1, "size": [100000, 100000], "quarters": 0}'""",
    ],
)
def test_answers_of_a_decoder_that_was_taken_over_are_checked(video, monkeypatch, answer):
    speak(monkeypatch, f"print({answer}, flush=True); input()")
    with pytest.raises(DataError, match="makes no sense"), decoder(video) as running:
        list(running.read(None))


def speak(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let a Python program be the decoding process."""

    def start(job: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    monkeypatch.setattr(video_decoder, "_start", start)


def test_a_crash_while_a_video_is_opened_is_exit_code_3(video, monkeypatch, capsys):
    speak(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(video)])
    assert left.value.code == 3
    said = capsys.readouterr().err
    assert "clip.mp4" in said
    assert "SIGSEGV" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("leave", ["exhaust", "break", "drop", "fail"])
def test_no_process_is_left_behind_however_a_pass_ends(video, monkeypatch, leave):
    pids = []
    start = video_decoder._start

    def remembered(job: video_decoder.Job) -> subprocess.Popen[bytes]:
        process = start(job)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(video_decoder, "_start", remembered)
    endings: dict[str, Callable[[], object]] = {
        "exhaust": lambda: list(open_capture(video)),
        "break": lambda: list(islice(open_capture(video), 2)),
        "drop": lambda: open_capture(video),
        "fail": lambda: [1 / 0 for _ in open_capture(video)],
    }
    with contextlib.suppress(ZeroDivisionError):
        endings[leave]()
    assert pids
    assert not any(is_running(pid) for pid in pids)


READ_SLOWLY = """
import sys, time
from everview.datasets.formats import video_decoder
from everview.datasets.opening import open_capture
start = video_decoder._start
def remembered(job):
    process = start(job)
    print(process.pid, flush=True)
    return process
video_decoder._start = remembered
for frame in open_capture(sys.argv[1]):
    print("frame", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_decoder_dies_with_its_parent(video, number):
    """The signal goes to the whole group, as a terminal's Ctrl-C does."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + READ_SLOWLY
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(video)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    with reader:
        assert reader.stdout is not None
        pid = 0
        for line in reader.stdout:
            if line.startswith("frame"):
                break
            pid = int(line)
        assert is_running(pid)
        os.killpg(reader.pid, number)
        assert reader.wait(20) != 0
    assert ends(pid)


def test_a_script_without_a_main_guard_reads_a_video(video):
    """Also one that came through a pipe, which has no file to import again."""
    script = (
        "from everview.datasets.opening import open_capture\n"
        f"print(len(list(open_capture({str(video)!r}))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "40\n"
