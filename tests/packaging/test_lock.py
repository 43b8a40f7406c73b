"""The locks: every package pinned and hashed, no index named, torch where the project pins it.

`requirements.lock` is installed first; `requirements-from-source.lock` holds what has no wheel
and needs the rest to be there while it is built.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [ROOT / "requirements.lock", ROOT / "requirements-from-source.lock"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def entries(lock: Path) -> list[str]:
    """A line a package: name, version, marker, hashes."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def versions(lock: Path) -> dict[str, str]:
    return dict(re.match(r"([\w.-]+)==(\S+)", line).groups() for line in entries(lock))  # type: ignore[union-attr, misc]


PACKAGES = [line for lock in LOCKS for line in entries(lock)]


def test_every_package_has_one_version_and_a_hash() -> None:
    wrong = [
        line[:60] for line in PACKAGES if not re.match(r"[\w.\[\]-]+==\S+ .*--hash=sha256:", line)
    ]
    names = [line.partition("==")[0] for line in PACKAGES]
    assert wrong == []
    assert len(names) == len(set(names))


def test_the_locks_name_no_address() -> None:
    text = "\n".join(lock.read_text(encoding="utf-8") for lock in LOCKS)
    assert [line for line in text.splitlines() if "://" in line or "-url" in line] == []


def test_torch_and_torchvision_are_the_pair_that_was_tested() -> None:
    locked = versions(LOCKS[0])
    assert (locked["torch"], locked["torchvision"]) == ("2.14.1", "0.29.1")


def test_ray_and_deepspeed_are_installed_at_the_versions_of_the_cluster_extra() -> None:
    locked = versions(LOCKS[0]) | versions(LOCKS[1])
    pins = [pin.split("==") for pin in PROJECT["project"]["optional-dependencies"]["cluster"]]
    wanted = {name.partition("[")[0]: version for name, version in pins}
    assert {name: locked[name] for name in wanted} == wanted


def test_what_is_built_from_source_finds_its_dependencies_in_the_first_lock() -> None:
    (metadata,) = PROJECT["tool"]["uv"]["dependency-metadata"]
    assert versions(LOCKS[1]) == {metadata["name"]: metadata["version"]}
    names = {re.match(r"[\w-]+", need).group() for need in metadata["requires-dist"]}  # type: ignore[union-attr]
    assert names <= set(versions(LOCKS[0]))


def test_trackers_that_are_services_are_extras_only() -> None:
    locked = versions(LOCKS[0])
    assert "tensorboard" in locked
    assert not {"wandb", "mlflow", "mlflow-skinny"} & set(locked)
