"""The fault matrix says what held; one of its rows is tried here, all of them by its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everview.workflows.faults.__main__ import ROWS, Result, Row, main, table, tried, write
from everview.workflows.faults.bad_line import ABSENT, Fault, Line
from everview.workflows.faults.trial import Unmet


def test_every_row_has_a_number_of_its_own():
    numbers = [row.number for row in ROWS]
    assert len(set(numbers)) == len(numbers)


def test_a_row_that_is_not_met_is_told_with_its_seed(tmp_path, capsys):
    def run(seed: int, folder: Path) -> float:
        if seed == 2:
            raise Unmet("the curve differs")
        return 1.5 * seed

    result = tried(Row("0", "none", "nothing", run, 3), range(1, 4), tmp_path / "row")
    assert result.failed == {2: "the curve differs"}
    assert result.cells() == ("0", "none", "nothing", "2/3", "3.0 / 4.5")
    assert "row 0, seed 2: NOT MET: the curve differs" in capsys.readouterr().err
    assert "| 0 | none | nothing | 2/3 | 3.0 / 4.5 |" in table([result])


def test_a_matrix_run_in_parts_keeps_the_rows_of_the_other_parts(tmp_path):
    out = tmp_path / "faults.json"
    for number, seconds in (("7", 1.0), ("2", 2.0), ("7", 3.0)):
        write(out, [Result(number, "fault", "must hold", [0], {}, [seconds])])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["number"], row["seconds"]) for row in rows] == [("2", [2.0]), ("7", [3.0])]


@pytest.mark.parametrize("seed", range(5))
def test_a_line_does_what_its_fault_says_and_the_same_again(seed):
    fault = Fault(("black", ABSENT), 0.05, duplicates=0.1, reorder=8)
    line = Line.of(fault, 64, seed)
    assert line == Line.of(fault, 64, seed)
    first = list(dict.fromkeys(line.numbers))
    absent = {number for number, kind in line.wrong.items() if kind == ABSENT}
    sent = [number for number in range(64) if number not in absent]
    assert sorted(first) == sent
    assert len(absent) == 3
    assert max(abs(first.index(number) - sent.index(number)) for number in sent) <= 8
    assert 0 < len(line.numbers) - len(first) <= 6
    late = Line.of(Fault(late=3), 64, seed).numbers
    after = {n: sum(other > n for other in late[: late.index(n)]) for n in late}
    assert sorted(after.values())[-4:-3] <= [8] < sorted(after.values())[-3:]


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_commits_ends_like_one_that_is_not(tmp_path):
    out = tmp_path / "faults.json"
    assert main(["--rows", "2", "--seeds", "1", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["seeds"] == [0]
    assert not row["failed"]
