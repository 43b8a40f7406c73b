"""A real Chromium, driven over its DevTools protocol: no driver, no other package."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

# WebGL is drawn in software, as on a machine without a GPU or a screen.
FLAGS = ("--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         "--remote-debugging-port=0", "--remote-allow-origins=*")  # fmt: skip
DEADLINE_S = 90.0


def find_chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if place := shutil.which(name):
            return place
    pytest.skip("no Chromium on this machine")


class Browser:
    """One page. Waiting is asking again until a deadline; every question waits for its answer."""

    def __init__(self, url: str, folder: Path, width: int, height: int):
        self._folder, self._numbers = folder, itertools.count(1)
        profile = f"--user-data-dir={folder / 'profile'}"
        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, profile, f"--window-size={width},{height}", url],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._opened = connect(self._devtools(), max_size=None, compression=None)
        self._connection = self._opened.__enter__()

    def _devtools(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{found[1]}/json", timeout=DEADLINE_S
                ) as answer:
                    pages = [each for each in json.load(answer) if each["type"] == "page"]
                return pages[0]["webSocketDebuggerUrl"]
        raise AssertionError("Chromium ended before it could be driven")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command; {} when it could not be carried out, as before a page is there."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._connection.recv(timeout=DEADLINE_S))
            if answer.get("id") == number:
                return answer.get("result", {})

    def ask(self, expression: str) -> Any:
        """The value of some JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("value")

    def until(self, question: Callable[[], Any]) -> Any:
        """Ask until the answer is true; each question takes the browser some milliseconds."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if answer := question():
                return answer
        raise AssertionError(f"not within {DEADLINE_S:.0f} s; see {self.shot('gave_up')[1]}")

    def shot(self, name: str) -> tuple[np.ndarray, Path]:
        """The screen as uint8 [H, W, 3], kept as a file."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        file = self._folder / f"{name}.png"
        file.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), file

    def drag(self, start: tuple[int, int], by: tuple[int, int], steps: int = 4) -> None:
        """Press, move in steps, release."""
        for step in range(steps + 2):
            kind = {0: "mousePressed", steps + 1: "mouseReleased"}.get(step, "mouseMoved")
            share = min(step, steps) / steps
            x, y = (a + share * b for a, b in zip(start, by, strict=True))
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                clickCount=1,
            )  # fmt: skip

    def press(self, key: str, code: int) -> None:
        """A key, where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call("Browser.close")
        self._opened.__exit__(None, None, None)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        assert self._process.stderr is not None
        self._process.stderr.close()
