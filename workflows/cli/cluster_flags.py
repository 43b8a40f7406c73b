"""The flags by which `submit` and `jobs` find a cluster: those of `ray job`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from everview.workflows.cli.arguments import CommonFlags

if TYPE_CHECKING:
    from everview.pipeline.cluster.jobs import Jobs


@dataclass(frozen=True, kw_only=True)
class ClusterFlags(CommonFlags):
    """Where the cluster's dashboard is, and how its certificate is checked."""

    address: str = ""
    """URL of the cluster's dashboard; default RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else
    http://127.0.0.1:8265"""
    verify: str = "true"
    """true, false, or a file of certificates to check an https:// dashboard with"""

    def verification(self) -> bool | str:
        return {"true": True, "false": False}.get(self.verify.lower(), self.verify)

    def connect(self) -> Jobs:
        """The jobs of that cluster. Raises EnvironmentUnfit for one without a token."""
        from everview.pipeline.cluster.jobs import Jobs, dashboard_address

        return Jobs(dashboard_address(self.address), verify=self.verification())
