"""A checkpoint counts when it verifies; what is damaged is named and set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from everview.pipeline.errors import InputRejected, TryAgain
from everview.pipeline.training.checkpoints import MANIFEST, Checkpoint, commit, newest


def checkpoint(step: int) -> Checkpoint:
    tensors = {"model": {"weight": torch.full((3, 2), float(step))}}
    return Checkpoint(step, tensors, {"elapsed_s": 1.5 * step})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "a truncated file": lambda path: truncate(path / "model.safetensors"),
    "a flipped bit": lambda path: flip(path / "model.safetensors"),
    "a missing file": lambda path: (path / "model.safetensors").unlink(),
    "an empty file": lambda path: (path / "facts.json").write_bytes(b""),
    "changed facts": lambda path: (path / "facts.json").write_text('{"elapsed_s": 9.000}'),
    "no manifest": lambda path: (path / MANIFEST).unlink(),
    "half a manifest": lambda path: truncate(path / MANIFEST),
    "a manifest of another kind": lambda path: (path / MANIFEST).write_text("[1, 2]"),
    "a manifest of a later version": lambda path: (path / MANIFEST).write_text('{"schema": 99}'),
    "a manifest that points outside": lambda path: (path / MANIFEST).write_text(
        json.dumps({"schema": 1, "step": 2, "files": {"../../secret": {"bytes": 1}}})
    ),
}


def test_the_newest_commit_comes_back_whole(tmp_path):
    for step in (1, 2, 10):
        commit(tmp_path, checkpoint(step))
    found = newest(tmp_path, pytest.fail)
    assert found.step == 10
    assert torch.equal(found.tensors["model"]["weight"], torch.full((3, 2), 10.0))
    assert found.facts == {"elapsed_s": 15.0}


def test_no_commit_yet_is_a_fresh_start(tmp_path):
    assert newest(tmp_path / "nowhere", pytest.fail) is None


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_bad_commit_is_named_set_aside_and_the_one_before_it_used(tmp_path, damage):
    commit(tmp_path, checkpoint(1))
    bad = commit(tmp_path, checkpoint(2))
    damage(bad)
    said: list[str] = []
    assert newest(tmp_path, said.append).step == 1
    assert bad.name in said[0]
    assert not bad.exists()
    assert bad.with_name(bad.name + ".bad").exists()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_commits_of_which_none_verifies_are_rejected_every_time(tmp_path, damage):
    damage(commit(tmp_path, checkpoint(1)))
    for _ in range(2):
        with pytest.raises(InputRejected, match="no checkpoint") as caught:
            newest(tmp_path, lambda text: None)
        assert caught.value.exit_code == 3


def test_an_unfinished_commit_does_not_count_and_is_cleared(tmp_path):
    commit(tmp_path, checkpoint(1))
    draft = tmp_path / "step-00000002.abc.tmp"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    assert newest(tmp_path, pytest.fail).step == 1
    assert not draft.exists()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("_synchronise", OSError(28, "No space left on device")),
        ("save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_a_full_disk_leaves_earlier_commits_and_no_draft(tmp_path, monkeypatch, place, error):
    commit(tmp_path, checkpoint(1))

    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr(f"everview.pipeline.training.checkpoints.{place}", full)
    with pytest.raises(TryAgain, match="no space left"):
        commit(tmp_path, checkpoint(2))
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000001"]


def test_only_the_newest_are_kept(tmp_path):
    for step in range(6):
        commit(tmp_path, checkpoint(step), keep=2)
    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == [
        "step-00000004",
        "step-00000005",
    ]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_changed_byte_of_any_file_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    path = commit(folder, checkpoint(1))
    files = sorted(file for file in path.iterdir() if file.name != MANIFEST)
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    with pytest.raises(InputRejected):
        newest(folder, lambda text: None)
