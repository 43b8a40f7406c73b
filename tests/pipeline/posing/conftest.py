"""One walk for all: frames with exact depth and poses, drawn once."""

from __future__ import annotations

import pytest

from everview.datasets.captures import Frame
from everview.datasets.opening import open_capture


@pytest.fixture(scope="session")
def walk() -> list[Frame]:
    """Twelve frames of a walk through a room, 96 pixels."""
    return list(open_capture("procedural://room?seed=5&frames=12&size=96"))
