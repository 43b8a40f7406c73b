"""Which card a rank takes of those its command was given."""

from __future__ import annotations

import os

import pytest

from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.training.local_ranks import take_card

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
