"""The report as text: what it shows, what it refuses, and that it asks nobody for anything."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from everview.pipeline.errors import InputRejected
from everview.pipeline.report import embedding, report_run, write_report
from everview.pipeline.report.charts import Series, line_chart, number, round_ticks
from everview.pipeline.runs import RunDirectory


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self._inside = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside in ("script", "style"):
            self.raw[self._inside] = self.raw.get(self._inside, "") + data
        else:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def test_a_stream_shows_views_cameras_charts_scores_and_facts(streamed):
    page = Page(write_report(streamed))
    for words in ("Held-out views", "Scores beside the floors", "Camera path", "Over the stream",
                  "from above", "from the side", "Latency", "Memory", "Retention", "Foreseen",
                  "21.50", "nearest input copied", "Configuration", "Versions"):  # fmt: skip
        assert words in page.text, words
    assert "Training" not in page.text
    # truth, rendered, memory, depth, and an error map made from the first two: four views
    assert len(page.all("img")) == 4 * 5
    frusta = [p for p in page.all("path") if "frustum" in (p.get("class") or "")]
    assert len(frusta) == 2 * 32
    assert sum("held_out" in str(p["class"]) for p in frusta) == 2 * 4


def test_a_training_run_shows_its_curves(trained):
    page = Page(write_report(trained))
    for words in ("Training", "Loss", "Learning rate", "Held-out scenes", "set/room", "Samples"):
        assert words in page.text, words
    assert "Held-out views" not in page.text
    assert max(len(p["d"]) for p in page.all("path")) < 20_000


def test_names_that_are_markup_stay_text(streamed):
    path = write_report(streamed)
    page = Page(path)
    assert len(page.all("script")) == 1
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert "onerror=alert(1)" in page.text
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_the_page_loads_nothing_and_allows_only_itself(streamed):
    path = write_report(streamed)
    page = Page(path)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for element in ("style", "script"):
        digest = hashlib.sha256(page.raw[element].encode()).digest()
        assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    for _, attributes in page.elements:
        for name in ("src", "href", "poster", "srcset", "action", "style"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (name, value)
    assert not re.search(r"url\(|@import", page.raw["style"])


def test_damaged_and_linked_pictures_are_left_out_and_named(streamed, tmp_path):
    (streamed / "views" / "00008_truth.png").write_bytes(b"\x89PNG not at all")
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(secret)
    link = streamed / "views" / "00016_truth.png"
    link.unlink()
    link.symlink_to(secret)
    page = Page(write_report(streamed))
    assert "00008_truth.png" in page.text
    assert "could not be read" in page.text
    assert len(page.all("img")) == 4 * 5 - 2 * 2


def test_a_page_that_would_grow_too_large_says_what_it_left_out(streamed, monkeypatch):
    small = functools.partial(embedding.Budget, left=30_000)
    monkeypatch.setattr("everview.pipeline.report.writing.Budget", small)
    path = write_report(streamed)
    assert "pictures are left out" in Page(path).text
    assert path.stat().st_size < 200_000


def test_a_failed_run_says_so_first(tmp_path):
    with pytest.raises(RuntimeError), RunDirectory.open(tmp_path, "stream", {"capture": "fox"}):
        raise RuntimeError("the camera fell")
    assert "This run failed: RuntimeError: the camera fell" in Page(write_report(tmp_path)).text


def test_what_is_no_run_is_rejected_in_one_sentence(tmp_path):
    with pytest.raises(InputRejected, match="holds no run"):
        report_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"program": "everview", "verb": "stream",
                                                   "config": [1], "host": 3}))  # fmt: skip
    with pytest.raises(InputRejected, match="values that a run never does"):
        report_run(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_report_can_go_elsewhere(streamed, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    assert report_run(streamed, there) == there / "report.html"
    assert report_run(streamed, tmp_path / "page.html").exists()
    assert not (streamed / "report.html").exists()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_cover_the_range_with_round_numbers(low, span, count):
    ticks = round_ticks(low, low + span, count)
    assert ticks[0] <= low + 1e-6 * max(abs(low), span)
    assert ticks[-1] >= low + span - 1e-6 * max(abs(low), span)
    assert len(ticks) <= count + 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.49857, "0.499"), (96.48, "96.5"), (1116.4, "1116"), (23456.7, "23,457"),
     (0.00002, "2e-05"), (float("nan"), "-")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_long_curve_is_thinned_and_unknown_points_are_left_out():
    x = list(range(10_000))
    y = [None if i % 7 == 0 else float(i % 50) for i in x]
    chart = line_chart("t", [Series("s", x, y)], "frame", "ms")
    assert chart is not None
    assert len(json.loads(chart.points)) <= 400
    assert line_chart("t", [Series("s", [1], [2.0])], "frame", "ms") is None
