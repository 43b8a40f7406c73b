"""The report in real Chromium: nothing on the console, every picture there, hostile names inert."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everview.pipeline.report import write_report
from tests.pipeline.viewing.browser import find_chromium

pytestmark = pytest.mark.browser

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--virtual-time-budget=4000", "--enable-logging=stderr")  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> str:
    return find_chromium()


def visit(chromium: str, page: Path, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    return subprocess.run(
        [chromium, *FLAGS, profile, *flags, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def console(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize("kind", ["streamed", "trained"])
def test_a_report_opens_without_complaint_and_shows_every_picture(
    chromium, kind, request, tmp_path
):
    page = write_report(request.getfixturevalue(kind))
    done = visit(chromium, page, tmp_path, "--dump-dom")
    assert console(done) == []
    root = re.search(r"<html[^>]*>", done.stdout)
    assert root is not None
    assert 'class="js"' in root.group()
    assert 'data-broken-images="0"' in root.group()
    assert int(re.search(r'data-images="(\d+)"', root.group()).group(1)) >= 1


def test_a_hostile_name_stays_text(chromium, streamed, tmp_path):
    done = visit(chromium, write_report(streamed), tmp_path, "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    assert "&lt;script&gt;" in title.group(1)
    assert done.stdout.count("<script") == 1


def test_a_script_that_got_in_would_be_stopped_by_the_policy(chromium, streamed, tmp_path):
    """The second line of defence: markup injected behind the escaping's back does not run."""
    page = write_report(streamed)
    text = page.read_text("utf-8")
    attack = "<script>document.documentElement.dataset.owned = 1</script>"
    page.write_text(text.replace("<main>", "<main>" + attack), "utf-8")
    done = visit(chromium, page, tmp_path, "--dump-dom")
    assert "data-owned" not in done.stdout.split(">", 2)[1]
    assert any("Content Security Policy" in line for line in console(done))


def test_the_pictures_are_on_the_screen(chromium, streamed, tmp_path):
    """Between the cards' white, the colours of the four held-out views."""
    shot = tmp_path / "shot.png"
    visit(
        chromium,
        write_report(streamed),
        tmp_path,
        f"--screenshot={shot}",
        "--window-size=1200,2400",
    )
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    saturation = pixels.max(-1) - pixels.min(-1)
    assert (saturation > 100).mean() > 0.05
