"""Blocks that torch compiles: without breaks, to the answers of plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from everview.models.episode import Episode
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL


@contextmanager
def without_breaks() -> Iterator[Any]:
    """Dynamo's counters of what is compiled inside, from nothing; it ends with no break counted."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()
    assert not counters["graph_break"]


def compiled_answers_are_plain_ones(plain: SceneModel, compiled: SceneModel, seen: Episode) -> None:
    """Two models of the same weights, one of which this compiles."""
    compiled.compile_blocks(backend="eager", fullgraph=True, dynamic=False)
    expected, found = (m(seen, CHUNK_CAUSAL)[1].targets.rgb for m in (plain, compiled))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
