"""What a cluster's nodes are and run: a small job that `everview doctor --cluster` submits.

Run as `python -m everview.pipeline.cluster.examination` on the head; prints one JSON line.
"""

from __future__ import annotations

import json
from typing import Any

MARK = "everview-cluster: "  # the line with the answer, among whatever else Ray prints


def describe_here() -> dict[str, Any]:
    """Of the node this runs on: versions, the digest of the code, addresses ports listen at."""
    import importlib.metadata
    import platform

    from everview.pipeline.cluster.shipping import code_digest, running_code

    return {
        "python": platform.python_version(),
        "ray": importlib.metadata.version("ray"),
        "torch": importlib.metadata.version("torch"),
        "code": code_digest(running_code()),
        "listens_everywhere": _ray_ports_on_all_interfaces(),
    }


def _ray_ports_on_all_interfaces() -> list[int] | None:
    """TCP ports that processes of Ray hold open on every interface; None if it can't be told."""
    import psutil

    ports = set()
    try:
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "/ray/" not in line and not line.startswith("ray::"):
                continue
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.ip in (
                    "0.0.0.0",
                    "::",
                ):
                    ports.add(connection.laddr.port)
    except psutil.Error:
        return None
    return sorted(ports)


def main() -> None:
    """Ask every living node; a node that doesn't answer within a minute is said to be silent."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from everview.pipeline.cluster.connect import cluster

    with cluster() as found:
        ask = ray.remote(num_cpus=0)(describe_here)
        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked[ask.options(scheduling_strategy=here, max_retries=0).remote()] = node
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=60.0)
        nodes = []
        for answer, node in asked.items():
            facts: dict[str, Any] = {"address": node["NodeManagerAddress"]}
            facts |= {key: node["Resources"].get(key.upper(), 0.0) for key in ("cpu", "gpu")}
            try:
                facts |= ray.get(answer) if answer in ready else {"silent": "no answer in 60 s"}
            except ray.exceptions.RayError as error:
                facts["silent"] = str(error).strip().splitlines()[-1]
            nodes.append(facts)
        print(MARK + json.dumps({"cpus": found.cpus, "gpus": found.gpus, "nodes": nodes}))


if __name__ == "__main__":
    main()
