"""The images and the compose file, which no engine here can build: the rules that they keep."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
KNOWN = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "HEALTHCHECK", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of each logical line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            found[rest.split(" AS ")[1]] = []
        if found:
            found[list(found)[-1]].append((name, rest))
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} <= KNOWN


def test_what_is_copied_exists_and_the_ignore_file_lets_it_in() -> None:
    ignore = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    copied = [
        word
        for name, rest in instructions()
        if name == "COPY" and "--from=" not in rest
        for word in shlex.split(rest)[:-1]
    ]
    assert "requirements.lock" in copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert sorted(copied) == sorted(allowed), "the ignore file lets in what is copied, no more"
    assert ignore[1] == "*"
    assert not any(fnmatch("docker/token", pattern) for pattern in allowed)


def test_base_images_are_pinned_and_stages_exist() -> None:
    names = list(stages())
    for stage in stages().values():
        base = stage[0][1].split(" AS ")[0]
        if "${DEVICE}" in base:
            assert {base.replace("${DEVICE}", device) for device in ("cpu", "gpu")} <= set(names)
        else:
            assert re.fullmatch(r"[\w./-]+:[\w.-]*\d+\.\d+\.\d+[\w.-]*", base), base
    for name, rest in instructions():
        if "--from=" in rest:
            assert re.search(r"--from=(\S+)", rest).group(1) in names, (name, rest)  # type: ignore[union-attr]


def test_the_image_runs_as_nobody_in_particular_and_is_watched() -> None:
    last = stages()["everview"]
    assert [rest for name, rest in last if name == "USER"] == ["1000:1000"]
    assert "HEALTHCHECK" in [name for name, _ in last]
    after_user = [name for name, _ in last][[name for name, _ in last].index("USER") :]
    assert "RUN" not in after_user
    assert not any("sudo" in rest or "chmod 777" in rest for _, rest in instructions())


def test_packages_come_from_the_locks_with_their_hashes() -> None:
    installs = [part for name, rest in instructions() if name == "RUN" for part in rest.split("&&")]
    from_index = [part for part in installs if "pip install" in part and "-r " in part]
    assert len(from_index) == 2
    assert all("--require-hashes" in part for part in from_index)
    others = [part for part in installs if "pip install" in part and "-r " not in part]
    assert all("--no-deps" in part for part in others)


def test_no_secret_is_in_an_image() -> None:
    values = [rest for name, rest in instructions() if name in ("ARG", "ENV")]
    assert not any(re.search(r"TOKEN=|PASSWORD|SECRET|KEY=", value) for value in values)


def test_compose_knows_no_other_keys_than_these(compose: dict[str, Any]) -> None:
    """Compose refuses unknown keys; this is the part of its schema that the file uses."""
    service = {
        "image", "user", "read_only", "init", "cap_drop", "security_opt", "restart", "shm_size",
        "stop_grace_period", "pids_limit", "mem_limit", "cpus", "environment", "secrets",
        "networks", "volumes", "tmpfs", "hostname", "command", "ports", "healthcheck",
        "depends_on", "deploy",
    }  # fmt: skip
    top = {"name", "services", "networks", "volumes", "secrets"}
    assert {key for key in compose if not key.startswith("x-")} == top
    for name, each in compose["services"].items():
        assert set(each) <= service, name
        assert set(each["healthcheck"]) == {
            "test",
            "interval",
            "timeout",
            "retries",
            "start_period",
        }
        assert {secret for secret in each["secrets"]} <= set(compose["secrets"])
        assert set(each["networks"]) <= set(compose["networks"])
        assert {volume.partition(":")[0] for volume in each["volumes"]} <= set(compose["volumes"])


def test_every_node_has_the_token_from_a_file_and_no_rights(compose: dict[str, Any]) -> None:
    assert compose["secrets"] == {"token": {"file": "./token"}}
    assert "/docker/token" in (ROOT / ".gitignore").read_text().splitlines()
    for each in compose["services"].values():
        assert each["environment"]["RAY_AUTH_MODE"] == "token"
        assert each["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/token"
        assert each["user"] == "1000:1000"
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in each["security_opt"]


def test_nothing_of_compose_is_open_beyond_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for each in compose["services"].values() for port in each.get("ports", [])]
    assert ports == ["127.0.0.1:8265:8265"]
    assert compose["networks"]["nodes"] == {"internal": True}
    assert compose["services"]["worker"]["networks"] == ["nodes"]


def test_workers_wait_for_a_healthy_head_and_join_it(compose: dict[str, Any]) -> None:
    worker, head = compose["services"]["worker"], compose["services"]["head"]
    assert worker["depends_on"] == {"head": {"condition": "service_healthy"}}
    assert "--address=head:6379" in worker["command"]
    assert "--port=6379" in head["command"]
    assert worker["deploy"]["replicas"] == 2
