"""A websocket that frames are pushed to; `ingest_protocol` says what is spoken on it.

It binds loopback unless told otherwise and asks for a token everywhere, compared in constant time
before the connection is upgraded. Pages of a browser are refused (they send an Origin). Sizes are
checked before anything is decoded; a message that can't be used is refused, named and counted.
One sender at a time: a new connection with the token takes the place of the old one.
"""

from __future__ import annotations

import hmac
import http
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from everview.datasets.captures import CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.frame_message import FrameMessage, open_message
from everview.pipeline.errors import EnvironmentUnfit, UsageError
from everview.pipeline.runs.atomic import replacing
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.config import SourceOptions
from everview.pipeline.streaming.sources.conversation import Conversation, Received
from everview.pipeline.streaming.sources.door import Door
from everview.pipeline.streaming.sources.ingest_protocol import (
    PATH,
    SILENT,
    VERSION,
    WINDOW,
    Hello,
    Limits,
    read_hello,
    read_text,
)
from everview.pipeline.streaming.sources.kept import PassingSource
from everview.pipeline.streaming.sources.skip_list import SkipList
from everview.pipeline.streaming.sources.source import Put

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import Server, ServerConnection

log = logging.getLogger(__name__)

ADDRESS_FILE = "ingest.json"
TOKEN_VARIABLE = "EVERVIEW_INGEST_TOKEN"
DEFAULT_HOST = "127.0.0.1"

_HELLO_S = 10.0
_MOST_BAD = 100
_LEAVE_S = 10.0


class IngestSource(PassingSource):
    """Frames numbered by their sender. `index` is the sender's number.

    The address and the token are in RUN/ingest.json, readable by its owner alone, while the run is
    unfinished; the token comes from EVERVIEW_INGEST_TOKEN if that is set.
    """

    def __init__(self, url: str, options: SourceOptions, limits: Limits | None = None) -> None:
        """url: ingest://HOST:PORT, both optional; port 0 (the default) takes a free one."""
        self.host, self.port = _address(url)
        self.url = url
        self._options, self._limits = options, limits or Limits()
        self.info = CaptureInfo(url, "websocket", "up_to_scale", None, True)
        self._token = ""
        self._server: Server | None = None
        self._hello: Hello | None = None
        self._put: Put | None = None
        self._received = Received()
        self._saved = 0
        self._skipped = SkipList()
        self._conversation: Conversation | None = None
        self._changed, self._order = threading.Condition(), threading.Lock()
        self._is_ended = self._is_stopped = self._is_left = self._is_complete = False
        self._busy = 0
        self._heard_at = time.monotonic()

    # --- the session's side ---

    def begin(self, run: Path, say: Callable[[str], None]) -> None:
        self._address_file = run / ADDRESS_FILE
        self._token = _token(self._address_file)
        self._serve()
        self._write_address(f"ws://{_in_url(self.host)}:{self.port}{PATH}")
        say(
            f"frames are awaited at ws://{_in_url(self.host)}:{self.port}{PATH}; the token is in "
            f"{self._address_file}"
        )
        with self._changed:
            self._heard_at = time.monotonic()
            while self._hello is None and not self._is_idle():
                self._changed.wait(0.2)
            hello = self._hello
        if hello is None:
            raise DataError(f"nobody sent a hello to {self.url} in {self._options.idle_s:g} s")
        self.can_wait = not hello.live
        self.info = CaptureInfo(
            self.url, "websocket", hello.scale, None, True, has_depth=hello.depth, has_time=True,
            notes=(f"sent by {hello.name}", "live" if hello.live else "waits for the model"),
        )  # fmt: skip
        self.keep_in(run)

    def deliver(self, put: Put) -> None:
        with self._changed:
            self._put, self._heard_at = put, time.monotonic()
            self._changed.notify_all()
            while not self._is_over and not self._is_idle():
                self._changed.wait(0.2)
            self._put = None

    def _is_idle(self) -> bool:
        """Whether nobody has said anything for long; a message at work on is no silence."""
        is_silent = time.monotonic() - self._heard_at > self._options.idle_s
        return is_silent and not self._busy

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def resume(self, cursor: dict[str, Any]) -> None:
        if cursor.get("source") != self.identity():
            raise DataError(f"the run was streaming another source than {self.url}")
        self._saved = int(cursor["next"])
        self._received = Received(self._saved)
        self._skipped = SkipList(cursor["skipped"])

    def identity(self) -> str:
        return "ingest"

    @property
    def skipped(self) -> list[Skip]:
        return self._skipped.skips

    def took(self, arrival: Arrival, effect: str) -> None:
        if (talk := self._conversation) is None:
            return
        if arrival.frame is None:
            talk.say("refused", sequence=arrival.sequence, reason=arrival.problem)
        else:
            talk.say("ack", sequence=arrival.sequence, effect=effect)

    def saved(self, cursor: dict[str, Any]) -> None:
        self._saved = max(self._saved, int(cursor["next"]))
        if (talk := self._conversation) is not None:
            talk.say("saved", next=self._saved)

    def close(self, is_complete: bool) -> None:
        with self._changed:
            self._is_stopped, self._is_left, self._is_complete = True, True, is_complete
            if (talk := self._conversation) is not None:
                talk.say("finished", complete=is_complete)
            self._changed.notify_all()
        if talk is not None:
            talk.leave(_LEAVE_S)
        if self._server is not None:
            self._server.shutdown()
        if is_complete:
            self._address_file.unlink(missing_ok=True)
        super().close(is_complete)

    # --- the sender's side: every connection has a thread of its own ---

    def _serve(self) -> None:
        try:
            from websockets.sync.server import serve
        except ImportError:
            raise EnvironmentUnfit("--ingest needs the package `websockets`: install it") from None
        try:
            self._door = Door(self.host, self.port)
        except OSError as error:
            raise EnvironmentUnfit(
                f"{self.url} can't be listened at: {error.strerror}; choose another --port"
            ) from None
        server = serve(
            self._talk, sock=self._door, process_request=self._admit, compression=None,
            max_size=self._limits.message_bytes, max_queue=2, ping_interval=None,
            server_header=None, logger=SILENT,
        )  # fmt: skip
        self._server, self.port = server, self._door.getsockname()[1]
        threading.Thread(target=server.serve_forever, name="everview-ingest", daemon=True).start()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """None to go on; otherwise the answer that refuses the connection."""
        given = ", ".join(request.headers.get_all("Authorization"))  # two of them are none of ours
        expected = f"Bearer {self._token}".encode()
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a token is needed\n")
        if "Origin" in request.headers:
            return connection.respond(http.HTTPStatus.FORBIDDEN, "not from a page\n")
        if request.path != PATH:
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"frames go to {PATH}\n")
        self._door.let_in(connection.socket)
        return None

    def _talk(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        talk = Conversation(connection)
        try:
            hello = read_hello(connection.recv(_HELLO_S))
            if not self._take_over(talk, hello):
                return
            limits = {"message_bytes": self._limits.message_bytes, "pixels": self._limits.pixels}
            talk.say(
                "welcome", version=VERSION, next=self._received.next, window=WINDOW, limits=limits
            )  # fmt: skip
            self._listen(talk)
        except DataError as error:
            talk.say("refused", sequence=None, reason=str(error))
        except (ConnectionClosed, TimeoutError, OSError):
            pass  # the sender comes again, or doesn't
        except Exception as error:
            log.error("a sender was left: %s: %s", type(error).__name__, error)
        finally:
            talk.leave(_LEAVE_S)

    def _take_over(self, talk: Conversation, hello: Hello) -> bool:
        """Become the one conversation; wait until the session is ready, or takes no frames any
        more. False when the run is closed, which was said, or another took over meanwhile."""
        with self._changed:
            if self._is_left:
                talk.say("finished", complete=self._is_complete)
                return False
            first = self._hello or hello
            if (first.scale, first.depth) != (hello.scale, hello.depth):
                raise DataError("the frames have another scale or depth than those before")
            self._hello, self._heard_at = first, time.monotonic()
            before, self._conversation = self._conversation, talk
            self._changed.notify_all()
        if before is not None:
            before.abandon()
        with self._changed:
            while self._put is None and not self._is_over and self._conversation is talk:
                self._changed.wait(0.2)
            return self._conversation is talk and not self._is_left

    @property
    def _is_over(self) -> bool:
        return self._is_ended or self._is_stopped

    def _listen(self, talk: Conversation) -> None:
        bad = 0
        while not self._is_over:
            message = talk.connection.recv()
            with self._changed:
                self._busy += 1
            try:
                if isinstance(message, str):
                    if read_text(message)["type"] != "end":
                        raise DataError("only frames and an end are expected after the hello")
                    break
                is_good = self._take(talk, message)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._heard_at = time.monotonic()
            bad = 0 if is_good else bad + 1
            if bad >= _MOST_BAD:
                raise DataError(f"{bad} messages one after the other could not be used")
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._wait_for_goodbye(talk)

    def _wait_for_goodbye(self, talk: Conversation) -> None:
        """Until `close`, which says it when everything is written, has closed the connection. What
        still comes is read and left, so that the sender is not stuck with it and hears that."""
        while self._conversation is talk:
            with suppress(TimeoutError):
                talk.connection.recv(0.2)

    def _take(self, talk: Conversation, data: bytes) -> bool:
        arrived = time.monotonic()
        try:
            message = open_message(data)
            self._received.check(message.sequence)
        except DataError as error:  # nobody knows which frame that was
            self._skipped.add("a message", str(error))
            talk.say("refused", sequence=None, reason=str(error))
            return False
        frame, problem = _decoded(message, self._limits.pixels)
        if problem is not None:
            self._skipped.add(f"frame {message.sequence}", problem)
        # one step, however long `put` waits: no cursor passes over a frame on its way to the queue
        with self._order:
            put = self._put
            if put is not None:
                cursor = {
                    "source": self.identity(),
                    "next": self._received.add(message.sequence),
                    "skipped": self._skipped.rows,
                }
                put(Arrival(message.sequence, frame, arrived, problem, cursor))
        return problem is None

    def _write_address(self, url: str) -> None:
        # whole or not at all: senders read it as soon as it is there
        with replacing(self._address_file) as temporary:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
                json.dump({"url": url, "token": self._token}, file)


def _decoded(message: FrameMessage, max_pixels: int) -> tuple[Frame | None, str | None]:
    try:
        return message.frame(max_pixels), None
    except DataError as error:
        return None, str(error)


def _token(address_file: Path) -> str:
    """From the environment, from the attempt that is continued, or a new one."""
    given = os.environ.get(TOKEN_VARIABLE)
    if given is not None:
        if len(given) < 16 or not given.isascii() or not given.isprintable():
            raise UsageError(f"{TOKEN_VARIABLE} needs at least 16 printable ASCII characters")
        return given
    try:
        earlier = json.loads(address_file.read_text("utf-8"))["token"]
        if isinstance(earlier, str) and len(earlier) >= 16:
            return earlier
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return secrets.token_urlsafe(24)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port or 0
    except ValueError:
        raise UsageError(f"{url}: the port is not a number from 0 to 65535") from None
    if parts.scheme != "ingest" or parts.path.strip("/") or parts.query or parts.username:
        raise UsageError(f"{url} is not ingest://HOST:PORT")
    return parts.hostname or DEFAULT_HOST, port


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
