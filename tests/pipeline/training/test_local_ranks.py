"""Which card a rank takes of those its command was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.training.local_ranks import run_ranks, take_card

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("given", "number", "left"),
    [(None, 1, "1"), ("3", 0, "3"), ("2,5", 1, "5"), ("GPU-a", 0, "GPU-a")],
)
def test_a_rank_sees_its_card_alone_of_those_that_were_given(
    monkeypatch, given, number, left
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    take_card(number)
    assert os.environ[VISIBLE] == left


@pytest.mark.parametrize(("given", "number"), [("", 0), ("3", 1)])
def test_a_card_that_was_not_given_is_refused(monkeypatch, given, number) -> None:
    monkeypatch.setenv(VISIBLE, given)
    with pytest.raises(EnvironmentUnfit, match="no card number"):
        take_card(number)
    assert os.environ[VISIBLE] == given


def test_more_ranks_than_cards_are_refused_before_any_starts(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EnvironmentUnfit, match="2 ranks need a GPU each, and there are 1"):
        run_ranks(say_what_it_sees, 2, tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


def say_what_it_sees(rank: int, size: int, folder: Path) -> None:
    """A rank's: how many cards there are, which one it is on and what DeepSpeed would take."""
    seen = torch.cuda.device_count(), torch.cuda.current_device(), os.environ["LOCAL_RANK"]
    (folder / str(rank)).write_text(repr(seen))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_every_rank_is_on_the_only_card_it_sees(tmp_path) -> None:
    size = min(2, torch.cuda.device_count())
    run_ranks(say_what_it_sees, size, tmp_path, device="cuda")
    assert {file.read_text() for file in tmp_path.iterdir()} == {repr((1, 0, "0"))}
    assert len(list(tmp_path.iterdir())) == size
