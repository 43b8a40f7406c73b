"""Files that only grow: a mark verifies a beginning, and what came after it is cut off."""

import os

import pytest

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.appended import AppendedFile, Mark, check_mark


def written(path, *pieces):
    file = AppendedFile(path)
    for piece in pieces:
        file.append(piece)
    return file


def test_a_file_goes_on_after_its_mark_as_if_nothing_had_followed(tmp_path):
    path = tmp_path / "rows"
    first = written(path, b"one\n", b"two\n")
    mark = first.mark()
    first.append(b"thr")  # killed here
    again = AppendedFile(path)
    again.go_on_after(mark)
    again.append(b"three\n")
    whole = written(tmp_path / "whole", b"one\n", b"two\n", b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    assert again.mark() == whole.mark()


def test_a_mark_is_durable_of_a_file_that_was_closed_before_it(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), sync(handle)))
    file = written(tmp_path / "rows", b"one\n")
    file.close()
    file.mark()
    assert len(synced) == 1


def test_a_new_file_takes_the_place_of_what_an_attempt_left(tmp_path):
    path = tmp_path / "rows"
    written(path, b"left\n").close()
    assert written(path, b"new\n").mark().bytes == 4
    assert path.read_bytes() == b"new\n"
    AppendedFile(path).start_over()
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"ono\ntwo\n", "bytes have changed"), (b"one\n", "has 4 bytes, the snapshot 8")],
)
def test_a_changed_or_shortened_beginning_is_named(tmp_path, content, said):
    path = tmp_path / "rows"
    mark = written(path, b"one\n", b"two\n").mark()
    path.write_bytes(content)
    with pytest.raises(InputRejected, match=f"rows.*{said}"):
        check_mark(path, mark)
    path.unlink()
    with pytest.raises(InputRejected, match=r"rows can't be read"):
        check_mark(path, mark)


def test_a_mark_of_nothing_needs_no_file(tmp_path):
    mark = AppendedFile(tmp_path / "none").mark()
    check_mark(tmp_path / "none", mark)
    file = written(tmp_path / "none", b"x")
    file.go_on_after(mark)
    assert not (tmp_path / "none").exists()
    assert Mark.of({"bytes": 0, "blake2b": mark.blake2b}) == mark
