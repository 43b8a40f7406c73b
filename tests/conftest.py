"""What every test shares: where the example captures lie, and the rule about skipping."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IN_CI = os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The example captures; skips the test where they are not at hand."""
    place = Path(os.environ.get("EVERVIEW_DATA", ROOT.parent / "shared" / "data"))
    place = place if place.is_absolute() else ROOT / place
    if not place.is_dir():
        pytest.skip(f"no example captures at {place} (EVERVIEW_DATA)")
    return place


def pytest_configure(config: pytest.Config) -> None:
    # Two workers share two cores: more threads than cores only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true only GPU tests may be skipped: a machine that can't run a test fails it."""
    report = yield
    may_skip = item.get_closest_marker("gpu") or hasattr(report, "wasxfail")
    if IN_CI and report.skipped and not may_skip:
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"skipped, and only GPU tests may be with CI=true: {_reason(report)}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return told.removeprefix("Skipped: ")


def gpu_results(
    before: dict[str, dict[str, str]], reports: list[pytest.TestReport], card: str, day: str
) -> dict[str, dict[str, str]]:
    """The record of GPU tests after a run: each test's last result, its date and the card."""
    ran = [r for r in reports if r.when == "call" and "gpu" in r.keywords and not r.skipped]
    now = {r.nodeid: {"result": r.outcome, "date": day, "card": card} for r in ran}
    return dict(sorted({**before, **now}.items()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What ran on a GPU is written down at once: a run that is killed loses nothing."""
    ran = report.when == "call" and "gpu" in report.keywords and not report.skipped
    if not ran or "PYTEST_XDIST_WORKER" in os.environ:
        return
    import torch

    path = ROOT / "tests" / "gpu_results.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    day = datetime.date.today().isoformat()
    after = gpu_results(before, [report], torch.cuda.get_device_name(), day)
    path.write_text(json.dumps(after, indent=1) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last words of a run: what was skipped and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("skipped, and why")
    if not skipped:
        terminalreporter.write_line("nothing")
    for reason, count in Counter(map(_reason, skipped)).most_common():
        terminalreporter.write_line(f"{count:4d}  {reason}")
