"""What the diagnosis blames, with a matcher that knows the answer and errs on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from everview.pipeline.posing.learned.diagnosis import Depths, Step, diagnose
from everview.pipeline.posing.learned.odometer import LearnedLimits, LearnedOdometer
from tests.pipeline.posing.exact_matcher import ExactMatcher

LIMITS = LearnedLimits(keyframes=4, window=3, references=3, short_side=64, next_shared=0.8)


def told_of(walk, matcher) -> list[Step | Depths]:
    return list(diagnose(LearnedOdometer(limits=LIMITS, matcher=matcher), iter(walk)))


def test_right_matches_are_on_their_lines_and_their_poses_fine(walk):
    told = told_of(walk, ExactMatcher(walk))
    steps = [one for one in told if isinstance(one, Step)]
    assert len(steps) == len(walk) - 1
    assert {one.cause for one in steps} == {"fine"}
    assert np.median([one.line_px for one in steps]) < 1.0
    scales = [one.scale for one in steps]
    assert np.std(np.log(scales)) < 0.2
    depths = [one for one in told if isinstance(one, Depths)]
    assert depths[0].seen_off == pytest.approx(0.067, abs=0.03)  # a tenth's median


def test_matches_that_are_off_their_lines_are_blamed(walk):
    matcher = ExactMatcher(walk)
    right = matcher.compare

    def compare(a, b):
        matches = right(a, b)
        return replace(matches, position=matches.position.flip(1))

    matcher.compare = compare
    steps = [one for one in told_of(walk[:4], matcher) if isinstance(one, Step)]
    assert {one.cause for one in steps} == {"matches"}
    assert min(one.line_px for one in steps) > 2.0


def test_a_frame_that_shares_nothing_is_not_blamed_on_the_matches(walk):
    matcher = ExactMatcher(walk)
    right = matcher.compare

    def compare(a, b):
        matches = right(a, b)
        return replace(matches, visible=matches.visible * 0.0 - 4.0)

    matcher.compare = compare
    steps = [one for one in told_of(walk[:3], matcher) if isinstance(one, Step)]
    assert {one.cause for one in steps} == {"shared"}
    assert all(one.problem is not None for one in steps)
