"""The checks of `everview doctor --cluster`: is it closed to strangers, and does it run our code?

What is asked from outside is asked without a token first. The rest is asked on the nodes, by a
job that brings the code along as `everview submit` does.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from everview.pipeline.cluster.examination import MARK
from everview.pipeline.cluster.jobs import JobFailed, JobRequest, Jobs
from everview.pipeline.cluster.probing import answer_to_a_stranger
from everview.pipeline.cluster.shipping import ShippedCode, shipped_code
from everview.pipeline.errors import EverviewError
from everview.workflows.doctor.checks import Finding

_CLOSED = (401, 403)
_OPEN_ADVICE = (
    "anyone who reaches it runs code on it: start it with RAY_AUTH_MODE=token and a token"
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def examine_cluster(address: str, verify: bool | str = True) -> list[Finding]:
    """Every check in order. Nothing is sent to a cluster that strangers can use."""
    try:
        findings = [check_strangers(address, verify), check_transport(address)]
    except EverviewError as error:
        return [Finding("strangers", "unfit", str(error), "give --address of a running cluster")]
    if any(finding.state == "unfit" for finding in findings):
        return findings
    try:
        jobs = Jobs(address, verify=verify)
        code = shipped_code()
        answer = ask_the_nodes(jobs, code)
    except EverviewError as error:
        return [*findings, Finding("job", "unfit", str(error), "see `everview jobs list`")]
    return [
        *findings,
        Finding("job", "ok", "a job with the code of this machine ran and answered"),
        check_nodes(answer),
        check_versions(answer),
        check_code(answer, code),
        check_ports(answer),
    ]


def check_strangers(address: str, verify: bool | str = True) -> Finding:
    """GET and POST on the jobs without a token: 401 or 403, or the cluster is open."""
    asked = {
        method: answer_to_a_stranger(f"{address}/api/jobs/", method, verify)
        for method in ("GET", "POST")
    }
    detail = ", ".join(f"{method} answers {status}" for method, status in asked.items())
    detail = f"{address} without a token: {detail}"
    if all(status in _CLOSED for status in asked.values()):
        return Finding("strangers", "ok", detail)
    return Finding("strangers", "unfit", detail, _OPEN_ADVICE)


def check_transport(address: str) -> Finding:
    """The token travels with every request: in the clear over http, unless it stays here."""
    parts = urlsplit(address)
    if parts.scheme == "https" or parts.hostname in _LOOPBACK:
        how = "https" if parts.scheme == "https" else "loopback"
        return Finding("transport", "ok", f"the token travels by {how}")
    return Finding(
        "transport",
        "absent",
        f"the token travels to {parts.hostname} unencrypted",
        "reach the dashboard through SSH (ssh -L 8265:localhost:8265 HEAD) or https",
    )


def ask_the_nodes(jobs: Jobs, code: ShippedCode) -> dict[str, Any]:
    """What `pipeline.cluster.examination` prints on the cluster. Raises JobFailed without it."""
    words = ("python", "-m", "everview.pipeline.cluster.examination")
    printed: list[str] = []
    request = JobRequest(words, runtime_env={"py_modules": list(code.py_modules)})
    job = jobs.follow(jobs.submit(request), printed.append)
    text = "".join(printed)
    line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
    if line is None:
        last = (text.strip().splitlines() or [job.message])[-1]
        raise JobFailed(f"the cluster ran no job of ours ({job.status.lower()}): {last[-300:]}", 1)
    answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
    return answer


def check_nodes(answer: dict[str, Any]) -> Finding:
    nodes = answer["nodes"]
    detail = f"{len(nodes)} nodes, {answer['cpus']:g} CPUs, {answer['gpus']:g} GPUs"
    silent = [f"{node['address']}: {node['silent']}" for node in nodes if "silent" in node]
    if silent:
        return Finding("nodes", "unfit", f"{detail}; {'; '.join(silent)}", "look at these nodes")
    return Finding("nodes", "ok", detail)


def check_versions(answer: dict[str, Any]) -> Finding:
    """Python (minor) and Ray as here; Ray from 2.52, the first with tokens."""
    import importlib.metadata
    import platform

    ours = {name: importlib.metadata.version(name) for name in ("ray", "torch")}
    ours["python"] = platform.python_version()
    wrong = []
    for node in _answering(answer):
        for name, mine in ours.items():
            theirs, parts = node[name], 2 if name == "python" else 3
            if _numbers(theirs, parts) != _numbers(mine, parts):
                wrong.append(f"{node['address']} has {name} {theirs}, this machine {mine}")
    if any(_numbers(node["ray"], 2) < (2, 52) for node in _answering(answer)):
        return Finding("versions", "unfit", "; ".join(wrong), "Ray before 2.52 knows no tokens")
    if wrong:
        return Finding("versions", "absent", "; ".join(wrong), "install from requirements.lock")
    return Finding("versions", "ok", ", ".join(f"{k} {v}" for k, v in ours.items()))


def check_code(answer: dict[str, Any], code: ShippedCode) -> Finding:
    """The code that workers import in a job is the code of this machine, file by file."""
    other = [node["address"] for node in _answering(answer) if node["code"] != code.digest]
    if other:
        return Finding(
            "code", "unfit", f"other code than here on {', '.join(other)}",
            "something on the workers' path comes before what the job brings",
        )  # fmt: skip
    return Finding("code", "ok", f"every node runs the code of this machine ({code.digest[:12]})")


def check_ports(answer: dict[str, Any]) -> Finding:
    """Whether Ray's processes listen on every interface; a firewall can't be seen from inside."""
    heard = {node["address"]: node["listens_everywhere"] for node in _answering(answer)}
    wide = {address: ports for address, ports in heard.items() if ports}
    if not wide and None not in heard.values():
        return Finding("ports", "ok", "no process of Ray listens on all interfaces")
    said = "; ".join(f"{a}: {len(p)} ports on all interfaces" for a, p in wide.items())
    unknown = ", ".join(address for address, ports in heard.items() if ports is None)
    said += f"{'; ' if said else ''}can't be told on {unknown}" if unknown else ""
    return Finding(
        "ports", "absent", f"{said} (whether a firewall is in front can't be told from inside)",
        "let only the nodes reach each other: a security group, a network policy, or loopback",
    )  # fmt: skip


def _answering(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in answer["nodes"] if "silent" not in node]


def _numbers(version: str, parts: int) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:parts])
