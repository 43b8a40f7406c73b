"""The other end of an ingest socket: a program's frames to a session that may die and come back.

    python -m everview.pipeline.streaming.sources.sending CAPTURE RUN

pushes a capture to the session whose run directory is RUN (or `--address FILE`, a copy of its
ingest.json). `send_frames` does the same for anything that can begin at a given number again.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.formats.frame_message import frame_message
from everview.datasets.opening import open_capture
from everview.pipeline.errors import EverviewError, InputRejected, TryAgain, exit_code_of
from everview.pipeline.streaming.sources.ingest_protocol import SILENT, VERSION, Hello, read_text

_ANSWER_S = 30.0
_SILENCE_S = 600.0
_MOST_REFUSED = 1000


@dataclass(frozen=True)
class Address:
    """Where frames go. url: ws://HOST:PORT/ingest."""

    url: str
    token: str = field(repr=False)

    @staticmethod
    def read(file: Path) -> Address:
        """From a run's ingest.json. Raises InputRejected when there is none."""
        try:
            content = json.loads(file.read_text("utf-8"))
            return Address(str(content["url"]), str(content["token"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputRejected(f"{file} holds no address of a session that takes frames") from None


@dataclass
class Answers:
    """What the server has said so far. refused: the first thousand, and num_refused how many there
    were. saved: frames before it survive a crash of the server."""

    effects: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[int | None, str]] = field(default_factory=list)
    num_refused: int = 0
    saved: int = 0
    is_complete: bool | None = None


class Sender:
    """One connection. `send` waits while too many frames are unanswered; `finish` for the end.

    Raises TryAgain when the connection is gone: make a new one, it says where to go on. When
    `answers.is_complete` is True, the run needs no more frames; it may be so from the beginning.
    """

    def __init__(self, address: Address, hello: Hello, timeout_s: float = _ANSWER_S) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self._gone = (WebSocketException, OSError, TimeoutError)
        self.answers, self._timeout_s = Answers(), timeout_s
        self._unanswered: set[int] = set()
        self._nameless = 0
        self._heard_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._is_gone = False
        self._open = ExitStack()
        try:
            self._connection = self._open.enter_context(
                connect(
                    address.url, additional_headers={"Authorization": f"Bearer {address.token}"},
                    compression=None, ping_interval=None, proxy=None, open_timeout=timeout_s,
                    logger=SILENT,
                )
            )  # fmt: skip
        except self._gone as error:
            raise TryAgain(f"{address.url} can't be reached: {error}") from None
        try:
            self._connection.send(hello.text())
            welcome = read_text(self._connection.recv(timeout_s))
        except self._gone as error:
            self.close()
            raise TryAgain(f"{address.url} gave no welcome: {error}") from None
        if welcome["type"] == "finished":
            self._hear(welcome)
            self._is_gone, self.next = True, 0
            self.close()
            if not self.answers.is_complete:
                raise TryAgain(f"{address.url} takes nothing more before it is started again")
            return
        if welcome["type"] != "welcome" or welcome.get("version") != VERSION:
            self.close()
            raise InputRejected(f"{address.url}: {welcome.get('reason') or 'no welcome'}")
        self.next = int(welcome["next"])
        self._window = int(welcome["window"])
        self._message_bytes = int(welcome["limits"]["message_bytes"])
        self._thread = threading.Thread(target=self._read, name="everview-acks", daemon=True)
        self._thread.start()

    def send(self, sequence: int, frame: Frame, quality: int | None = None) -> None:
        """Send one frame; quality as in `frame_message`. Raises DataError when it is too large."""
        if self._is_over:
            raise TryAgain("the server takes nothing more on this connection")
        message = frame_message(sequence, frame, quality)
        if len(message) > self._message_bytes:
            raise DataError(
                f"frame {sequence} takes {len(message)} bytes, more than the server's limit of "
                f"{self._message_bytes}; send it smaller or with a --quality"
            )
        with self._changed:
            since = time.monotonic()
            while not self._is_over and self._num_unanswered >= self._window:
                if time.monotonic() - max(since, self._heard_at) > _SILENCE_S:
                    raise TryAgain(f"the server gave no answer for {_SILENCE_S:g} s")
                self._changed.wait(0.5)
            if self._is_over:
                raise TryAgain("the server takes nothing more on this connection")
            self._unanswered.add(sequence)
        try:
            self._connection.send(message)
        except self._gone:
            raise TryAgain("the connection is gone") from None

    def finish(self, timeout_s: float) -> Answers:
        """Say that nothing more comes; wait until everything is written."""
        if not self._is_over:
            with suppress(*self._gone):  # who reads finds that too, and what was said last
                self._connection.send(json.dumps({"type": "end"}))
        until = time.monotonic() + timeout_s
        with self._changed:
            while self.answers.is_complete is None and time.monotonic() < until:
                self._check()
                self._changed.wait(0.5)
            if self.answers.is_complete is None:
                raise TryAgain(f"the server had not finished after {timeout_s:g} s")
        return self.answers

    @property
    def _is_over(self) -> bool:
        return self._is_gone or self.answers.is_complete is not None

    @property
    def _num_unanswered(self) -> int:
        return len(self._unanswered) - self._nameless

    def _check(self) -> None:
        if self._is_gone and self.answers.is_complete is None:
            raise TryAgain("the connection is gone")

    def _read(self) -> None:
        with suppress(*self._gone, DataError):
            for message in self._connection:
                with self._changed:
                    self._heard_at = time.monotonic()
                    self._hear(read_text(message))
                    self._changed.notify_all()
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()

    def _hear(self, said: dict[str, Any]) -> None:
        answers, kind = self.answers, said["type"]
        if kind == "ack":
            effect = str(said.get("effect"))
            answers.effects[effect] = answers.effects.get(effect, 0) + 1
        elif kind == "refused":
            answers.num_refused += 1
            if len(answers.refused) < _MOST_REFUSED:
                answers.refused.append((said.get("sequence"), str(said.get("reason"))))
        elif kind == "saved":
            answers.saved = int(said.get("next", 0))
        elif kind == "finished":
            answers.is_complete = bool(said.get("complete"))
        if kind == "refused" and said.get("sequence") is None:
            self._nameless += 1  # one of those on their way, nobody knows which
        elif kind in ("ack", "refused"):
            self._unanswered.discard(said.get("sequence", -1))

    def close(self) -> None:
        """Leave without a word; what the server had said by then is in `answers`."""
        self._open.close()
        if self._thread is not None:
            self._thread.join(self._timeout_s)

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def send_frames(
    frames_from: Callable[[int], Iterator[Frame]],
    address: Callable[[], Address],
    hello: Hello,
    *,
    quality: int | None = None,
    patience_s: float = 120.0,
    finish_s: float = 3600.0,
) -> Answers:
    """Send every frame, numbered by its index, and wait for the end of the run.

    frames_from: the frames from an index on; called again after the server was lost, with what it
    still needs. address: asked before every connection. Raises TryAgain when the server stays away
    for `patience_s`.
    """
    for attempt in count():
        sender = _connected(address, hello, patience_s, is_first=attempt == 0)
        with sender, suppress(TryAgain):
            for frame in frames_from(sender.next):
                sender.send(frame.index, frame, quality)
            return sender.finish(finish_s)
        if sender.answers.is_complete:
            return sender.answers
    raise AssertionError


def _connected(
    address: Callable[[], Address], hello: Hello, patience_s: float, is_first: bool
) -> Sender:
    until = time.monotonic() + patience_s
    while True:
        try:
            return Sender(address(), hello)
        except (TryAgain, InputRejected) as error:
            if time.monotonic() > until or (is_first and isinstance(error, InputRejected)):
                raise
            time.sleep(0.2)


def capture_frames(source: str) -> tuple[Hello, Callable[[int], Iterator[Frame]]]:
    """A capture's hello, and its frames from an index on."""
    info = open_capture(source).info

    def frames_from(first: int) -> Iterator[Frame]:
        return (frame for frame in open_capture(source) if frame.index >= first)

    return Hello(Path(source).name, info.scale, info.has_depth), frames_from


def main() -> None:
    """Push a capture to a session."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("capture", help="folder, file or procedural:// URL")
    parser.add_argument("run", type=Path, help="the session's run directory, or its ingest.json")
    parser.add_argument("--quality", type=int, help="JPEG quality; without it, lossless PNG")
    words = parser.parse_args()
    file = words.run / "ingest.json" if words.run.is_dir() else words.run
    try:
        hello, frames_from = capture_frames(words.capture)
        answers = send_frames(frames_from, lambda: Address.read(file), hello, quality=words.quality)
    except (EverviewError, DataError) as error:
        parser.exit(exit_code_of(error), f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; the same command goes on from what the session has\n")
    effects = ", ".join(f"{number} {effect}" for effect, number in answers.effects.items())
    print(f"{effects}; {answers.num_refused} refused; complete: {answers.is_complete}")


if __name__ == "__main__":
    main()
