"""The lock: every package pinned and hashed, no index named, torch where the project pins it."""

from __future__ import annotations

import re
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
ENTRIES = LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
PACKAGES = [line for line in ENTRIES if line and not line.lstrip().startswith("#")]


def test_every_package_has_one_version_and_a_hash() -> None:
    wrong = [
        line[:60] for line in PACKAGES if not re.match(r"[\w.\[\]-]+==\S+ .*--hash=sha256:", line)
    ]
    names = [line.partition("==")[0] for line in PACKAGES]
    assert wrong == []
    assert len(names) == len(set(names))


def test_the_lock_names_no_address() -> None:
    assert [line for line in LOCK.read_text().splitlines() if "://" in line or "-url" in line] == []


def test_torch_and_torchvision_are_the_pair_that_was_tested() -> None:
    versions = dict(re.match(r"([\w.-]+)==(\S+)", line).groups() for line in PACKAGES)  # type: ignore[union-attr]
    assert (versions["torch"], versions["torchvision"]) == ("2.14.1", "0.29.1")
