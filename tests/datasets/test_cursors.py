"""A capture cut anywhere and resumed gives the frames, and the skips, of one never cut."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from tests.datasets import captures_on_disk as disk
from tests.datasets.videos import write_video


def posed(root):
    disk.write_transforms(root, disk.cube_views(5))
    (root / "images/0001.png").unlink()
    (root / "images/0003.png").write_bytes(b"damaged")
    return root


def images(root):
    for k in range(5):
        disk.save_image(root / f"{k}.png", np.full((6, 8, 3), 40 * k, np.uint8))
    (root / "4.png").write_bytes(b"damaged")
    return root


def mp4(root):
    return write_video(root / "v.mp4", count=5, key_every=3)


def mpegts(root):
    return write_video(root / "v.ts", count=5, key_every=3)


def posed_video(root):
    views = disk.cube_views(4)
    write_video(root / "clip.mp4", pictures=[v.image for v in views for _ in range(3)])
    stamps = [100_000 * k for k in range(4)]
    (root / "clip.txt").write_text(disk.realestate_rows(views, stamps))
    return root


@pytest.mark.parametrize("kind", [posed, images, mp4, mpegts, posed_video])
def test_resumed_at_every_cut_equals_never_stopped(tmp_path, kind):
    source = kind(tmp_path)
    whole = open_capture(source)
    expected = list(whole)
    assert len(expected) >= 3
    for cut in range(len(expected) + 1):
        first = open_capture(source)
        given = list(islice(first, cut))
        state = json.loads(json.dumps(first.state()))
        second = open_capture(source)
        second.restore(state)
        given += list(second)
        assert [f.index for f in given] == [f.index for f in expected]
        assert [f.time_s for f in given] == [f.time_s for f in expected]
        assert [f.name for f in given] == [f.name for f in expected]
        for frame, other in zip(given, expected, strict=True):
            np.testing.assert_array_equal(frame.image, other.image)
        assert second.skipped == whole.skipped


def test_iterators_share_one_cursor_and_rewind_starts_over(tmp_path):
    capture = open_capture(images(tmp_path))
    assert next(iter(capture)).index == 0
    assert next(iter(capture)).index == 1
    assert len(list(capture)) == 2
    assert list(capture) == []
    assert len(capture.skipped) == 1
    capture.rewind()
    assert capture.skipped == []
    assert len(list(capture)) == 4


def test_a_cursor_of_another_capture_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    state = open_capture(posed(tmp_path / "a")).state()
    other = open_capture(images(tmp_path / "b"))
    with pytest.raises(DataError, match="another capture"):
        other.restore(state)
    with pytest.raises(DataError, match="not a capture's state"):
        other.restore({"next": 3})


def test_identity_is_equal_for_copies_and_changes_with_a_camera(tmp_path):
    views = disk.cube_views(3)
    first = open_capture(disk.write_transforms(tmp_path / "a", views)).identity()
    copy = open_capture(disk.write_transforms(tmp_path / "b", views)).identity()
    moved = open_capture(disk.write_transforms(tmp_path / "c", views[::-1])).identity()
    assert first == copy
    assert first != moved
