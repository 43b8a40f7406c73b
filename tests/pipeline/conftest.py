"""One Ray for all tests that need no other: starting one takes several seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from everview.pipeline.cluster import ClusterConfig, cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on Ray last: what runs beside one that is there may choose to use it."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[ExitStack]:
    """Holds the shared Ray, if it runs."""
    with ExitStack() as held:
        yield held


@pytest.fixture
def local_ray(shared_ray: ExitStack) -> None:
    """A local cluster of two processors; the tests that ask for it share it."""
    import ray

    if not ray.is_initialized():
        where = ClusterConfig(address="local", cpus=2, object_store_mib=200)
        shared_ray.enter_context(cluster(where))


@pytest.fixture
def no_ray(shared_ray: ExitStack) -> None:
    """For a test that starts another one in this process: the shared one has ended."""
    shared_ray.close()
