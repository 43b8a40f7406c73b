"""What adapting learns from: inputs alone, each step some written and others asked for."""

from __future__ import annotations

import pytest

from everview.datasets.errors import DataError
from everview.pipeline.adapting.config import Recipe
from everview.pipeline.adapting.splits import OwnInputs
from everview.pipeline.evaluation.protocols import Split, every_eighth, spread_inputs

RECIPE = Recipe(written=12, asked=4)


@pytest.mark.parametrize("split", [every_eighth(50), every_eighth(7), spread_inputs(64, 8)])
def test_every_input_is_learned_from_or_kept_back_and_nothing_else_is(split: Split) -> None:
    own = OwnInputs.of(split, "a capture")
    assert sorted((*own.learned, *own.kept_back)) == sorted(split.inputs)
    assert own.kept_back
    assert not set(own.learned) & set(own.kept_back)


def test_kept_back_inputs_are_spread_and_at_most_eight() -> None:
    own = OwnInputs.of(every_eighth(500), "a capture")
    assert len(own.kept_back) == 8
    gaps = [b - a for a, b in zip(own.kept_back, own.kept_back[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize("count", [7, 12, 50, 200])
def test_a_lesson_asks_for_what_it_did_not_write_and_writes_in_order(count: int) -> None:
    own = OwnInputs.of(every_eighth(count), "a capture")
    for number in range(50):
        lesson = own.lesson(number, 0, RECIPE)
        assert lesson.asked
        assert lesson.written
        assert not set(lesson.asked) & set(lesson.written)
        assert {*lesson.asked, *lesson.written} <= set(own.learned)
        assert list(lesson.written) == sorted(lesson.written)
        assert len({len(chunk) for chunk in lesson.chunks}) == 1
        assert len(lesson.written) <= RECIPE.written + RECIPE.asked


def test_a_lesson_is_a_function_of_its_number_and_the_seed() -> None:
    own = OwnInputs.of(every_eighth(50), "a capture")
    lessons = [own.lesson(number, 3, RECIPE) for number in range(20)]
    assert lessons == [own.lesson(number, 3, RECIPE) for number in range(20)]
    assert lessons != [own.lesson(number, 4, RECIPE) for number in range(20)]
    assert len({lesson.asked for lesson in lessons}) > 10


def test_too_few_inputs_are_refused_with_the_capture_and_the_number() -> None:
    with pytest.raises(DataError, match="a capture has 3 inputs; adapting needs 4"):
        OwnInputs.of(every_eighth(4), "a capture")
