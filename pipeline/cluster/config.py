"""What a Ray cluster of ours may use, and where one that is running is found."""

from __future__ import annotations

import os
from dataclasses import dataclass

from everview.pipeline.errors import UsageError

_MIN_OBJECT_STORE_MIB = 80  # Ray refuses less


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """A Ray cluster to start on this machine, or the address of one to use."""

    address: str = ""
    """HOST:PORT of a running cluster's head, `auto` for the one this machine belongs to, `local`
    for a cluster of this process alone; empty: RAY_ADDRESS (in a job, its cluster), else local"""
    cpus: int | None = None
    """CPUs of a local cluster; all usable cores unless given"""
    gpus: int | None = None
    """GPUs of a local cluster; all visible ones unless given"""
    object_store_mib: int = 512
    """shared memory of a local cluster's object store"""
    worker_logs: bool = False
    """show on stderr what the workers print"""

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus < 1:
            raise UsageError(f"a cluster needs at least 1 CPU, not {self.cpus}")
        if self.gpus is not None and self.gpus < 0:
            raise UsageError(f"a cluster can't have {self.gpus} GPUs")
        if self.object_store_mib < _MIN_OBJECT_STORE_MIB:
            raise UsageError(
                f"an object store needs {_MIN_OBJECT_STORE_MIB} MiB, not {self.object_store_mib}"
            )
        if "://" in self.address:
            raise UsageError(
                f"the cluster address {self.address} is that of a dashboard; a driver needs "
                "HOST:PORT of the head, or use `everview submit --address URL`"
            )

    def resolved_address(self) -> str:
        """`local`, `auto` or HOST:PORT. A dashboard's URL in RAY_ADDRESS is meant for `submit`."""
        if self.address:
            return self.address
        given = os.environ.get("RAY_ADDRESS", "")
        return given if given and "://" not in given else "local"
