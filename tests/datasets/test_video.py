"""Videos: time as presented, upright, damaged ones, and playlists that pose as videos."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from tests.datasets import captures_on_disk as disk
from tests.datasets.cube import corner_errors_px
from tests.datasets.videos import grey_pictures, turn_clockwise, write_video


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"),
     (".avi", "mpeg4"), (".ts", "libx264")],
)  # fmt: skip
def test_containers_give_the_same_frames_at_the_same_times(tmp_path, suffix, codec):
    frames = list(open_capture(write_video(tmp_path / f"v{suffix}", count=9, codec=codec)))
    assert [frame.index for frame in frames] == list(range(9))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(9) / 30, atol=2e-3)
    greys = [float(frame.image[40, 50].mean()) for frame in frames]
    np.testing.assert_allclose(greys, [p[40, 50, 0] for p in grey_pictures(9)], atol=6)
    assert frames[0].image.shape == (48, 64, 3)


def test_a_video_is_known_by_its_bytes_not_its_name(tmp_path):
    path = write_video(tmp_path / "v.mkv", count=4)
    assert len(list(open_capture(path.rename(tmp_path / "noname")))) == 4
    assert len(list(open_capture((tmp_path / "noname").rename(tmp_path / "v.mp4")))) == 4


def test_variable_rates_keep_the_presentation_time_stamps(tmp_path):
    stamps = [0, 10, 200, 233, 1000, 1001, 3600]
    capture = open_capture(write_video(tmp_path / "v.mkv", count=7, stamps_ms=stamps))
    assert [round(1000 * frame.time_s) for frame in capture] == stamps


def test_rotation_is_applied(tmp_path):
    upright = open_capture(write_video(tmp_path / "v.mp4", count=3))
    turned = open_capture(turn_clockwise(write_video(tmp_path / "t.mp4", count=3)))
    for frame, other in zip(upright, turned, strict=True):
        assert other.image.shape == (64, 48, 3)
        np.testing.assert_array_equal(other.image, np.rot90(frame.image, -1))


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    def peak(count: int) -> int:
        capture = open_capture(write_video(tmp_path / f"{count}.mp4", count=count))
        tracemalloc.start()
        for _ in capture:
            pass
        _, largest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return largest

    peak(10)
    assert peak(300) < peak(30) + 3 * 64 * 48 * 3


def test_realestate_cameras_are_laid_over_a_video(tmp_path):
    views = disk.cube_views(4)
    pictures = [v.image for v in views for _ in range(3)]
    write_video(tmp_path / "clip.mp4", pictures=pictures)
    stamps = [100_000 * k for k in range(4)] + [9_000_000]
    (tmp_path / "clip.txt").write_text(disk.realestate_rows([*views, views[0]], stamps))
    capture = open_capture(tmp_path)
    frames = list(capture)
    assert capture.info.format.startswith("RealEstate10K")
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    for frame, seen in zip(frames, views, strict=True):
        np.testing.assert_allclose(frame.camera.c2w_cv, seen.camera.c2w_cv, atol=1e-6)
        assert corner_errors_px(frame.image, frame.camera).mean() < 0.25  # 4:2:0 chroma
    assert [skip.name for skip in capture.skipped] == ["9000000"]


def frames_or_refusal(path: Path) -> tuple[list[Frame], str]:
    """What one pass gives before it ends or is refused, and the sentence of the refusal."""
    frames: list[Frame] = []
    try:
        frames.extend(open_capture(path))
    except DataError as error:
        return frames, str(error)
    return frames, ""


def damaged(path: Path, every: int) -> Path:
    """Bytes flipped inside the media data, `every` so many."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    for at in range(start + 300, len(data) if data.index(b"moov") < start else data.index(b"moov"),
                    every):  # fmt: skip
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    return path


def test_a_damaged_video_gives_frames_and_counted_skips_or_one_sentence(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    for every in (20_000, 3_000, 400, 60, 7):
        path = damaged(write_video(tmp_path / f"{every}.mp4", pictures=list(noise)), every)
        frames, refusal = frames_or_refusal(path)
        assert frames or refusal
        assert all(np.diff([frame.time_s for frame in frames]) > 0)
        assert refusal == "" or (str(path) in refusal and "\n" not in refusal)


def test_a_truncated_video_gives_what_is_there_or_one_sentence(tmp_path):
    whole = write_video(tmp_path / "v.mkv", count=30).read_bytes()
    counts = []
    for share in (0.02, 0.3, 0.6, 0.9):
        path = tmp_path / f"{share}.mkv"
        path.write_bytes(whole[: int(share * len(whole))])
        frames, refusal = frames_or_refusal(path)
        assert refusal == "" or str(path) in refusal
        counts.append(len(frames))
    assert counts == sorted(counts)
    assert 0 < counts[-1] < 30


def playlist(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"


@pytest.fixture
def listener():
    """A server on loopback that counts who connects."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    connections: list[object] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, peer = server.accept()
            except TimeoutError:
                continue
            connections.append(peer)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1], connections
    stop.set()
    thread.join()
    server.close()


DISGUISES = {
    "hls": playlist,
    "hls behind a box": lambda target: "\0\0\0\x18ftypisom" + playlist(target),
    "concat": lambda target: f"ffconcat version 1.0\nfile '{target}'\n",
    "dash": lambda target: f'<?xml version="1.0"?><MPD><BaseURL>{target}</BaseURL></MPD>',
    "sdp": lambda target: f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\n{target}\n",
    "subtitles": lambda target: f"1\n00:00:00,000 --> 00:00:01,000\n{target}\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".avi"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_playlist_dressed_as_a_video_reads_and_fetches_nothing(
    tmp_path, listener, disguise, suffix
):
    port, connections = listener
    secret = write_video(tmp_path / "secret.ts", count=3)
    targets = [str(secret), f"file://{secret}", f"http://127.0.0.1:{port}/x.ts"]
    for k, target in enumerate(targets):
        path = tmp_path / f"{k}{suffix}"
        path.write_text(DISGUISES[disguise](target))
        with pytest.raises(DataError, match=path.name):
            list(open_capture(path))
    assert connections == []


def test_a_video_larger_than_the_limit_is_refused(tmp_path):
    path = write_video(tmp_path / "v.mp4", count=2)
    with pytest.raises(DataError, match="64x48"):
        open_capture(path, max_pixels=64 * 48 - 1)


def test_a_size_that_changes_midway_changes_the_frames_up_to_the_limit(tmp_path):
    small = write_video(tmp_path / "a.ts", pictures=grey_pictures(30))
    large = write_video(
        tmp_path / "b.ts",
        pictures=grey_pictures(6, 640, 480),
        stamps_ms=[1100 + 33 * k for k in range(6)],
    )
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    sizes = [frame.image.shape[:2] for frame in open_capture(path)]
    assert sizes == [(48, 64)] * 30 + [(480, 640)] * 6
    limited = open_capture(path, max_pixels=10_000)
    sizes = [frame.image.shape[:2] for frame in limited]
    assert set(sizes) == {(48, 64)}
    assert len(sizes) > 20
    assert limited.skipped


def test_audio_alone_is_no_capture(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="no video stream"):
        open_capture(tmp_path / "a.mp4")
