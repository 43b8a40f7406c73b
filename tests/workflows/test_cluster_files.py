"""The cluster files that can't be run here: Ray's schema for its own, typed checks for the rest."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from everview.workflows.cli.submit import parse_words

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows" / "cluster"
TRAIN = "train tiny --out"


def read(name: str) -> dict[str, Any]:
    (document,) = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    return read("cluster.yaml")


def test_rays_schema_accepts_the_launchers_file(launched: dict[str, Any]) -> None:
    """As `ray up` does it: defaults filled in, then the bundled schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(copy.deepcopy(launched))
    validate_config(filled)
    wrong = copy.deepcopy(filled) | {"max_worker": 3}
    with pytest.raises(Exception, match="max_worker"):
        validate_config(wrong)


def test_workers_are_spot_and_scale_to_nothing(launched: dict[str, Any]) -> None:
    worker = launched["available_node_types"]["gpu_spot"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["min_workers"] == 0 < worker["max_workers"] <= launched["max_workers"]


def test_every_ray_start_has_a_token_and_a_dashboard_on_loopback(launched: dict[str, Any]) -> None:
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in launched[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in launched["file_mounts"]


def test_containers_of_the_launcher_reach_no_credentials(launched: dict[str, Any]) -> None:
    for node in launched["available_node_types"].values():
        options = node["node_config"]["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)


# The fields of KubeRay's API (ray.io/v1, 1.6) and of Kubernetes' pods that the files set, with
# their types. A field that isn't listed fails: Kubernetes drops what it doesn't know in silence.
CONTAINER = {
    "name": str, "image": str, "ports": [{"name": str, "containerPort": int}],
    "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
    "resources": {"requests": {"cpu": str, "memory": str},
                  "limits": {"cpu": str, "memory": str, "nvidia.com/gpu": str}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}  # fmt: skip
POD = {
    "automountServiceAccountToken": bool, "terminationGracePeriodSeconds": int,
    "nodeSelector": {"everview/spot": str},
    "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
    "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int,
                        "seccompProfile": {"type": str}},
    "containers": [CONTAINER],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str},
                 "emptyDir": {"medium": str, "sizeLimit": str}}],
}  # fmt: skip
PARAMETERS = {"num-cpus": str, "disable-usage-stats": str}
CLUSTER = {
    "rayVersion": str, "authOptions": {"mode": str, "secretName": str},
    "enableInTreeAutoscaling": bool, "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"serviceType": str, "rayStartParams": PARAMETERS, "template": {"spec": POD}},
    "workerGroupSpecs": [{"groupName": str, "replicas": int, "minReplicas": int,
                          "maxReplicas": int, "rayStartParams": PARAMETERS,
                          "template": {"spec": POD}}],
}  # fmt: skip
JOB = {
    "entrypoint": str, "submissionMode": str, "backoffLimit": int,
    "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int,
    "rayClusterSpec": CLUSTER,
}  # fmt: skip
KINDS = {"kuberay-cluster.yaml": ("RayCluster", CLUSTER), "kuberay-job.yaml": ("RayJob", JOB)}


def misfits(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Places in `value` that `shape` doesn't allow."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} is no mapping"
            return
        for key, below in value.items():
            if key not in shape:
                yield f"{where}.{key} is unknown"
            else:
                yield from misfits(below, shape[key], f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            yield f"{where} is no list with something in it"
            return
        for place, below in enumerate(value):
            yield from misfits(below, shape[0], f"{where}[{place}]")
    elif type(value) is not shape:
        yield f"{where} is {value!r}, no {shape.__name__}"


def clusters(name: str) -> dict[str, Any]:
    spec = read(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> list[dict[str, Any]]:
    cluster = clusters(name)
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", KINDS)
def test_every_field_for_kuberay_is_known_and_of_its_type(name: str) -> None:
    kind, shape = KINDS[name]
    document = read(name)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    assert list(misfits(document["spec"], shape, "spec")) == []


def test_a_misspelt_or_mistyped_field_would_be_found() -> None:
    spec = read("kuberay-job.yaml")["spec"]
    assert list(misfits(spec | {"backofLimit": 1}, JOB, "spec")) == ["spec.backofLimit is unknown"]
    assert list(misfits(spec | {"backoffLimit": "1"}, JOB, "spec")) != []


@pytest.mark.parametrize("name", KINDS)
def test_the_token_comes_from_a_secret_and_ray_is_the_locked_one(name: str) -> None:
    cluster = clusters(name)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "everview-token"}
    assert f"\nray=={cluster['rayVersion']} " in (ROOT / "requirements.lock").read_text()
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


@pytest.mark.parametrize("name", KINDS)
def test_no_container_runs_as_root_or_gains_rights(name: str) -> None:
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        mounted = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted


def test_all_of_them_describe_the_same_run() -> None:
    """README, RayJob and compose: the words of one command, which this program accepts."""
    job = read("kuberay-job.yaml")["spec"]["entrypoint"]
    assert job.startswith(f"python -m everview.workflows.cli {TRAIN} ")
    words = job.removeprefix("python -m everview.workflows.cli ").split()
    assert parse_words(words, "everview submit").words == tuple(words)
    for place in (FOLDER / "README.md", ROOT / "docker" / "compose.yaml"):
        assert f"everview submit {TRAIN} " in place.read_text()
    assert f"everview {TRAIN} " in (FOLDER / "README.md").read_text()
