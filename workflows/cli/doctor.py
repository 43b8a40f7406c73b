"""`everview doctor`: the state of this machine, by trying each part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from everview.workflows.cli.arguments import CommonFlags
from everview.workflows.cli.outcome import Outcome, table


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Check this machine: code, versions, device, codecs, browser, disk, memory, data, weights.

    Exit code 4 when something that everything needs is missing, else 0; what is optional is
    listed with what to do about it.
    """


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.runs import RunDirectory, library_versions, write_json
    from everview.workflows.doctor import examine

    findings = examine()
    unfit = [finding.name for finding in findings if finding.state == "unfit"]
    versions = library_versions()
    rows = [(f.state, f.name, f.detail + (f" -> {f.advice}" if f.advice else "")) for f in findings]
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    verdict = f"unfit: {', '.join(unfit)}" if unfit else "fit: everything that is needed works"
    result = {
        "fit": not unfit,
        "unfit": unfit,
        "checks": [asdict(finding) for finding in findings],
        "versions": versions,
    }
    if arguments.out is not None:
        with RunDirectory.open(arguments.out, "doctor", arguments, fresh=arguments.fresh) as run:
            write_json(run.path / "doctor.json", result)
    text = f"{table(rows)}\n\n{installed}\n\n{verdict}"
    return Outcome(result, text, run=arguments.out, exit_code=4 if unfit else 0)
