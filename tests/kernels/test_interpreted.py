"""The kernels agree with their references in Triton's interpreter: commits and Newton-Schulz.

One file's tests stay on one worker; test_interpreted_token_work.py is the other half of the work.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.interpreting import CHECKS, assert_it_passes

OTHERS = [check for check in CHECKS if check.stem != "check_token_work"]


@pytest.mark.slow
@pytest.mark.parametrize("check", OTHERS, ids=lambda check: check.stem)
def test_the_interpreter_agrees_with_the_reference(check: Path) -> None:
    assert_it_passes(check)


def test_every_check_is_run_by_one_of_the_two_files() -> None:
    assert {check.stem for check in CHECKS} - {check.stem for check in OTHERS} == {
        "check_token_work"
    }
