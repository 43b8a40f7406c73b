"""What a cluster configuration accepts, and where its address comes from."""

from __future__ import annotations

import pytest

from everview.pipeline.cluster import ClusterConfig
from everview.pipeline.errors import UsageError


def test_without_an_address_a_cluster_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ClusterConfig().resolved_address() == "local"


def test_in_a_job_the_cluster_of_the_job_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert ClusterConfig().resolved_address() == "10.0.0.5:6379"
    assert ClusterConfig(address="local").resolved_address() == "local"


def test_a_dashboard_in_ray_address_is_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.5:8265")
    assert ClusterConfig().resolved_address() == "local"
    with pytest.raises(UsageError, match="everview submit"):
        ClusterConfig(address="http://10.0.0.5:8265")


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1}, {"object_store_mib": 10}])
def test_a_size_that_ray_would_refuse_later_is_refused_at_once(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        ClusterConfig(**wrong)  # type: ignore[arg-type]
