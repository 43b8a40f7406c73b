"""`procedural://` URLs are captures like any other."""

import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.datasets.procedural import open_procedural
from everview.datasets.procedural.capture import parse_procedural


def test_a_capture_gives_frames_with_cameras_depth_and_time():
    capture = open_procedural("procedural://tabletop?seed=7&frames=3&size=32&dynamic=true")
    frames = list(capture)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.time_s for frame in frames] == [0.0, 0.1, 0.2]
    for frame in frames:
        assert frame.image.shape == (32, 32, 3)
        assert frame.image.dtype == np.uint8
        assert frame.depth.shape == (32, 32)
        assert (frame.camera.width, frame.camera.height) == (32, 32)
    assert capture.info.scale == "metric"
    assert capture.info.num_frames == 3


def test_a_short_capture_read_twice_is_rendered_once(monkeypatch):
    capture = open_procedural("procedural://orbit?seed=2&frames=3&size=16")
    first = list(capture)
    monkeypatch.setattr("everview.datasets.procedural.capture.render_views", None)
    capture.rewind()
    assert all(again is frame for again, frame in zip(capture, first, strict=True))


def test_kept_frames_stay_within_their_bytes(monkeypatch):
    monkeypatch.setattr("everview.datasets.procedural.capture._KEPT_BYTES", 4 * 7 * 16**2)
    capture = open_procedural("procedural://orbit?seed=2&frames=9&size=16")
    assert [frame.index for frame in capture] == list(range(9))
    assert list(capture._kept) == [5, 6, 7, 8]
    assert np.array_equal(capture[0].image, open_procedural(str(capture.url))[0].image)


def test_a_restored_cursor_gives_the_remaining_frames():
    url = "procedural://orbit?seed=2&frames=5&size=16"
    whole = list(open_procedural(url))
    for cut in range(6):
        first = open_procedural(url)
        iterator = iter(first)
        for _ in range(cut):
            next(iterator)
        second = open_procedural(url)
        second.restore(first.state())
        rest = list(second)
        assert [frame.index for frame in rest] == list(range(cut, 5))
        for frame in rest:
            assert np.array_equal(frame.image, whole[frame.index].image)
            assert np.array_equal(frame.depth, whole[frame.index].depth)


def test_a_cursor_of_another_scene_is_refused():
    state = open_procedural("procedural://orbit?seed=2&frames=5&size=16").state()
    with pytest.raises(DataError):
        open_procedural("procedural://orbit?seed=3&frames=5&size=16").restore(state)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("procedural://tabeltop?seed=7", "did you mean 'tabletop'"),
        ("procedural://", "did you mean"),
        ("procedural://room?sed=7", "did you mean 'seed'"),
        ("procedural://room?seed=-1", "whole number"),
        ("procedural://room?seed=1.5", "whole number"),
        ("procedural://room?seed=", "whole number"),
        ("procedural://room?frames=0", "from 1 to"),
        ("procedural://room?frames=1000000000", "from 1 to"),
        ("procedural://room?frames=" + "9" * 5000, "from 1 to"),
        ("procedural://room?size=100000", "from 8 to"),
        ("procedural://room?dynamic=maybe", "true nor false"),
        ("procedural://room?seed=1&seed=2", "twice"),
    ],
)
def test_a_wrong_url_is_one_sentence_with_the_nearest_name(url, says):
    with pytest.raises(DataError, match=says) as caught:
        parse_procedural(url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_longest_capture_opens_at_once_and_reads_its_last_frame():
    capture = open_procedural("procedural://room?frames=100000&size=16&dynamic=true")
    assert len(capture) == 100_000
    last = capture[-1]
    assert last.index == 99_999
    assert np.isfinite(last.camera.c2w_cv).all()
    assert (last.depth > 0).mean() > 0.5
