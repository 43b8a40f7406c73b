"""The record of GPU tests, written by the run itself."""

from __future__ import annotations

from types import SimpleNamespace

from tests.conftest import gpu_results


def _report(name: str, outcome: str, when: str = "call", mark: str = "gpu") -> SimpleNamespace:
    skipped = outcome == "skipped"
    return SimpleNamespace(
        nodeid=name, outcome=outcome, when=when, keywords={mark: 1}, skipped=skipped
    )


def test_a_run_replaces_what_it_ran_and_keeps_the_rest() -> None:
    before = {
        "a": {"result": "failed", "date": "2026-01-01", "card": "old"},
        "b": {"result": "passed", "date": "2026-01-01", "card": "old"},
    }
    reports = [
        _report("a", "passed"),
        _report("b", "skipped"),
        _report("c", "passed", mark="slow"),
        _report("d", "passed", when="setup"),
    ]
    after = gpu_results(before, reports, "H100", "2026-02-02")
    assert after == {
        "a": {"result": "passed", "date": "2026-02-02", "card": "H100"},
        "b": before["b"],
    }
