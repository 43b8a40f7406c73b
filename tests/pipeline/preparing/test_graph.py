"""Ray makes the very set that one process makes."""

from __future__ import annotations

import pytest

from everview.datasets.shards import open_shards
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.run import prepare
from tests.pipeline.preparing.sources import capture, write_pictures

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def files(folder):
    """Content of the set's files, by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name.startswith(("shard-", "manifest"))
    }


def test_two_workers_make_what_one_process_makes_and_isolate_what_fails(tmp_path, local_ray):
    unposed = write_pictures(tmp_path / "unposed")
    sources = [capture(seed=0, frames=3), str(unposed), capture(seed=1, frames=2)]
    config = PrepareConfig(sources=tuple(sources), size=32, image_format="png")
    alone = prepare(config, tmp_path / "alone", workers=1)
    spread = prepare(config, tmp_path / "spread", workers=2)
    assert files(spread.run) == files(alone.run)
    assert len(list(open_shards(spread.place).read())) == 2
    assert list(spread.failed) == list(alone.failed) == ["unposed"]
    assert "--poses sfm" in spread.failed["unposed"]
