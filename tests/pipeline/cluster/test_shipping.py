"""What is sent to a cluster is the wheel's contents."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from everview.pipeline.cluster.shipping import code_digest, running_code, shipped_code
from everview.pipeline.errors import InputRejected


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "everview" / "code"


def wheel(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


MEMBERS = {
    "everview/workflows/a.py": "A = 1\n",
    "everview-0.1.0.dist-info/METADATA": "Name: everview\n",
}


def test_a_wheel_is_unpacked_once_as_a_package_and_its_metadata(
    tmp_path: Path, cache: Path
) -> None:
    given = wheel(tmp_path / "everview-0.1.0-py3-none-any.whl", MEMBERS)
    code = shipped_code(given)
    assert (code.package / "workflows" / "a.py").read_text() == "A = 1\n"
    assert [Path(place).name for place in code.py_modules] == [
        "everview",
        "everview-0.1.0.dist-info",
    ]
    assert shipped_code(given) == code
    assert len(list(cache.iterdir())) == 1


def test_the_cache_holds_three_wheels(tmp_path: Path, cache: Path) -> None:
    for number in range(5):
        members = MEMBERS | {"everview/workflows/a.py": f"A = {number}\n"}
        newest = shipped_code(wheel(tmp_path / f"{number}.whl", members))
    assert len(list(cache.iterdir())) == 3
    assert newest.package.is_dir()


def test_what_is_no_wheel_of_everview_is_rejected(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputRejected, match="can't be read"):
        shipped_code(tmp_path / "absent.whl")
    (tmp_path / "text.whl").write_text("text")
    with pytest.raises(InputRejected, match="is no wheel"):
        shipped_code(tmp_path / "text.whl")
    with pytest.raises(InputRejected, match="no wheel of everview"):
        shipped_code(wheel(tmp_path / "other.whl", {"other/a.py": ""}))


def test_a_member_that_points_out_of_the_wheel_stays_inside(tmp_path: Path, cache: Path) -> None:
    shipped_code(wheel(tmp_path / "bad.whl", MEMBERS | {"../../escaped.py": "", "/abs.py": ""}))
    assert [path for path in tmp_path.rglob("escaped.py") if cache not in path.parents] == []


@pytest.mark.slow
def test_the_code_that_runs_here_is_the_code_that_is_sent(cache: Path) -> None:
    code = shipped_code()
    assert cache in code.package.parents or code.package == running_code()
    assert code.digest == code_digest(code.package) == code_digest(running_code())
