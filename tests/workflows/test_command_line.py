"""The program's promises: help, exit codes, one sentence per error, one JSON value on stdout.

Real: the program, in its own process where what it imports or prints matters. Nothing is faked.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everview.workflows.cli.main import main
from everview.workflows.cli.verbs import VERBS

HEAVY = ("torch", "ray", "scipy", "PIL", "av", "open3d", "deepspeed", "pyarrow")
PROGRAM = [sys.executable, "-c", "from everview.workflows.cli.main import main; main()"]
# A suite that runs in the background has Ctrl-C ignored, and what it starts inherits that.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
# Verbs that want a word before their flags are asked about.
SUBJECTS = {
    "inspect": ("x",),
    "stream": ("x",),
    "render": ("x",),
    "adapt": ("x",),
    "export": ("x",),
    "view": ("x",),
    "train": ("tiny",),
    "report": ("x",),
}
names = pytest.mark.parametrize("name", [verb.name for verb in VERBS])


def everview(*words: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    return subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, timeout=120, check=False
    )


def said(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, run in this process."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(words)
    told = capfd.readouterr()
    assert isinstance(leaving.value.code, int)
    return leaving.value.code, told.out, told.err


EVERY_HELP = """
import json, sys
from everview.workflows.cli.main import main
first, found = set(), {}
for name in sys.argv[1:]:
    try:
        main([name, "--help"])
    except SystemExit:
        pass
    now = {module.partition(".")[0] for module in sys.modules}
    found[name], first = sorted(now - first), now
print("\\n" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def modules_by_help() -> dict[str, list[str]]:
    """What each verb's --help imports, one after another in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", EVERY_HELP, *(verb.name for verb in VERBS)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_help_lists_every_verb_with_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capfd, "--help")
    assert code == 0
    lines = out.splitlines()
    for verb in VERBS:
        assert any(line.split()[:1] == [verb.name] and verb.summary in line for line in lines)
    assert max(map(len, lines)) <= 88


def test_no_words_show_the_help_and_are_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capfd)
    assert (code, out[:6]) == (2, "usage:")


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert everview("--version").stdout.strip() == f"everview {version('everview')}"


@names
def test_help_of_a_verb_imports_nothing_heavy(
    name: str, modules_by_help: dict[str, list[str]]
) -> None:
    """This is what keeps `--help` under a second; timing it would only test the machine."""
    assert set(modules_by_help[name]) & set(HEAVY) == set()


@names
def test_a_misspelt_flag_is_exit_2_and_names_the_nearest(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capfd, name, *SUBJECTS.get(name, ()), "--quite")
    assert code == 2
    assert "--quiet" in err
    assert "Traceback" not in err


def test_a_misspelt_verb_is_exit_2_and_names_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capfd, "inspekt", "x")
    assert code == 2
    assert err == "everview inspekt: there is no verb `inspekt`; did you mean `inspect`?\n"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "is empty"),
        (lambda folder: folder.write_bytes(b""), "capture"),
        (lambda folder: folder.write_bytes(b"\x00" * 4096), "capture"),
    ],
    ids=["missing", "empty-folder", "empty-file", "noise"],
)
def test_a_bad_capture_is_exit_3_and_one_sentence(
    make: Callable[[Path], object], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "capture"
    make(place)
    code, out, err = said(capfd, "inspect", str(place))
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert str(place) in err
    assert says in err


def test_an_error_with_json_is_one_value_on_stdout(tmp_path: Path) -> None:
    done = everview("inspect", str(tmp_path / "nothing"), "--json")
    value = json.loads(done.stdout)
    assert value["exit_status"] == done.returncode == 3
    assert "does not exist" in value["error"]


def test_debug_shows_the_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capfd, "inspect", str(tmp_path / "nothing"), "--debug")
    assert code == 3
    assert "Traceback" in err


def test_fresh_without_out_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capfd, "inspect", "x", "--fresh")
    assert code == 2
    assert "--out" in err


def test_doctor_finds_the_test_machine_fit() -> None:
    done = everview("doctor", "--json")
    value = json.loads(done.stdout)
    assert done.returncode == value["exit_status"] == 0, value
    assert value["fit"] is True
    assert {"code", "torch", "device", "video", "disk"} <= {c["name"] for c in value["checks"]}
    assert value["versions"]["torch"]


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [(signal.SIGINT, 130, "everview inspect: interrupted\n"), (signal.SIGTERM, 143, "")],
    ids=["ctrl-c", "terminated"],
)
def test_an_interrupted_verb_says_so_in_its_exit_code_and_its_run(
    number: signal.Signals, code: int, last: str, tmp_path: Path
) -> None:
    endless = "procedural://orbit?seed=1&frames=100000&size=16"
    with subprocess.Popen(
        [
            *PROGRAM[:2],
            INTERRUPTIBLE + PROGRAM[2],
            "inspect",
            endless,
            "--out",
            str(tmp_path / "run"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any("frames decoded" in line for line in process.stderr)
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith(last)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_status"]) == ("interrupted", code)


def test_output_has_no_colour_when_it_is_not_a_terminal() -> None:
    """A finished command's, with its progress, and that of a wrong one."""
    for words, code in (("procedural://orbit?seed=1&frames=2&size=16", 0), ("--inptus", 2)):
        done = everview("inspect", words)
        assert done.returncode == code, done.stderr
        assert "\x1b[" not in done.stdout + done.stderr
