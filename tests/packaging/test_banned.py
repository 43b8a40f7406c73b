"""Words that must not be in the tree: unsafe calls, and traces of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "models", "datasets", "pipeline", "workflows")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the five rooms, with where it is."""
    found = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


CALLS = calls()


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_torch_load_reads_weights_only() -> None:
    loads = [(at, call) for at, call in CALLS if ast.unparse(call.func) == "torch.load"]
    assert [at for at, call in loads if not is_true(keyword(call, "weights_only"))] == []


def test_yaml_is_read_safely() -> None:
    unsafe = {"yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all"}
    assert [at for at, call in CALLS if ast.unparse(call.func) in unsafe] == []


def test_numpy_never_unpickles() -> None:
    assert [at for at, call in CALLS if is_true(keyword(call, "allow_pickle"))] == []


def test_no_call_goes_through_a_shell_or_evaluates_text() -> None:
    banned = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput"}
    wrong = [at for at, call in CALLS if ast.unparse(call.func) in banned]
    wrong += [at for at, call in CALLS if is_true(keyword(call, "shell"))]
    assert wrong == []


@pytest.mark.parametrize(
    "module", ["pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"]
)
def test_nothing_is_pickled(module: str) -> None:
    pattern = re.compile(rf"^\s*(import {module}\b|from {module}\b)", re.MULTILINE)
    wrong = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py" and pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_no_tracked_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    # Spelt in pieces so that this file doesn't find itself.
    words = re.compile(
        "|".join(
            [
                r"index" + r"-url",
                r"https?://[^ )]*/" + r"simple\b",
                r"files\.python" + r"hosted",
                r"(?<![\w.])/" + r"work/",
                r"(?<![\w.])/" + r"root/",
                r"(?<![\w.])/" + r"home/\w",
            ]
        )
    )
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in words.finditer(text)]
    assert wrong == []


def test_no_tracked_file_is_larger_than_sixteen_mib() -> None:
    large = [str(path) for path in tracked() if path.stat().st_size > 16 * 2**20]
    assert large == []
