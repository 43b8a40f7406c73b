"""The numbers of the page stay bounded and survive what a killed stream leaves."""

from __future__ import annotations

import json

import numpy as np

from everview.pipeline.runs.frames import JOURNAL_NAME
from everview.pipeline.viewing.charts import counts_table
from everview.pipeline.viewing.history import MOST_POINTS, History, JournalTail


def test_a_history_of_a_hundred_thousand_frames_is_no_longer_than_one_of_a_thousand():
    history = History()
    history.add({"latency_ms": float(i), "gate": "accepted"} for i in range(100_000))
    places, values = history.curves["latency_ms"].arrays()
    assert MOST_POINTS <= len(values) < 2 * MOST_POINTS
    np.testing.assert_array_equal(places, values)
    assert places[0] == 0
    assert places[-1] > 99_000
    assert history.gate == {"accepted": 100_000}


def test_rows_that_are_being_written_are_read_once_they_are_whole(tmp_path):
    journal = tmp_path / JOURNAL_NAME
    tail = JournalTail(tmp_path)
    assert tail.new_rows() == ([], False)
    journal.write_text('{"id": 0}\n{"id": 1}\n{"id"')
    assert tail.new_rows() == ([{"id": 0}, {"id": 1}], False)
    with journal.open("a") as more:
        more.write(': 2}\nnot json\n{"id": 3}\n')
    assert tail.new_rows() == ([{"id": 2}, {"id": 3}], False)
    journal.write_text(json.dumps({"id": 7}) + "\n")
    assert tail.new_rows() == ([{"id": 7}], True)


def test_names_in_a_runs_files_stay_text():
    shown = counts_table({"<script>alert(1)</script>": 3, "accepted": 5, "none": 0})
    assert "<script" not in shown
    assert "accepted" in shown
    assert "none" not in shown
