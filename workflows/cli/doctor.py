"""`everview doctor`: the state of this machine or of a cluster, by trying each part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from everview.pipeline.errors import UsageError
from everview.workflows.cli.arguments import Switch
from everview.workflows.cli.cluster_flags import ClusterFlags
from everview.workflows.cli.outcome import Outcome, table

if TYPE_CHECKING:
    from everview.workflows.doctor import Finding


@dataclass(frozen=True, kw_only=True)
class Arguments(ClusterFlags):
    """Check this machine: code, versions, device, codecs, browser, disk, memory, data, weights.

    With --cluster, check a Ray cluster instead: that strangers are turned away, its versions, its
    nodes, that they run the code of this machine, what listens where. Exit code 4 when something
    that everything needs is missing or wrong, else 0; what is optional is listed with what to do
    about it.
    """

    cluster: Switch = False
    """check the cluster at --address"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.runs import RunDirectory, library_versions, write_json

    if arguments.address and not arguments.cluster:
        raise UsageError("--address is for `everview doctor --cluster`")
    findings = _findings(arguments)
    unfit = [finding.name for finding in findings if finding.state == "unfit"]
    versions = library_versions()
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    verdict = f"unfit: {', '.join(unfit)}" if unfit else "fit: everything that is needed works"
    result: dict[str, Any] = {
        "fit": not unfit,
        "unfit": unfit,
        "checks": [asdict(finding) for finding in findings],
        "versions": versions,
    }
    if arguments.out is not None:
        with RunDirectory.open(arguments.out, "doctor", arguments, fresh=arguments.fresh) as run:
            write_json(run.path / "doctor.json", result)
    rows = [(f.state, f.name, f.detail + (f" -> {f.advice}" if f.advice else "")) for f in findings]
    parts = [table(rows), "" if arguments.cluster else installed, verdict]
    text = "\n\n".join(part for part in parts if part)
    return Outcome(result, text, run=arguments.out, exit_code=4 if unfit else 0)


def _findings(arguments: Arguments) -> list[Finding]:
    if not arguments.cluster:
        from everview.workflows.doctor import examine

        return examine()
    from everview.pipeline.cluster.jobs import dashboard_address
    from everview.workflows.doctor.cluster_checks import examine_cluster

    return examine_cluster(dashboard_address(arguments.address), arguments.verification())
