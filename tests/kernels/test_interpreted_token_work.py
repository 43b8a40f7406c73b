"""Update and read agree with their references in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.kernels.interpreting import CHECKS, assert_it_passes


@pytest.mark.slow
def test_the_interpreter_agrees_with_the_reference() -> None:
    (check,) = (check for check in CHECKS if check.stem == "check_token_work")
    assert_it_passes(check)
