"""What is said over an ingest socket besides frames: a handful of JSON objects as text messages.

    sender    {"type": "hello", "version": 1, "name": "phone", "scale": "metric",
               "depth": true, "live": false}
    server    {"type": "welcome", "version": 1, "next": 0, "window": 32,
               "limits": {"message_bytes": .., "pixels": ..}}
    sender    frames, each one binary message (`datasets.formats.frame_message`)
    server    {"type": "ack", "sequence": 12, "effect": "accepted"}     it took effect, and which
              {"type": "refused", "sequence": 13, "reason": "..."}    it never will (null: unknown)
              {"type": "saved", "next": 9}        everything before 9 survives a crash of the server
    sender    {"type": "end"}                     nothing more comes
    server    {"type": "finished", "complete": true}      everything is written; it closes

The connection is `ws://HOST:PORT/ingest` with the header `Authorization: Bearer TOKEN`. `next` in
`welcome` is the number to go on from: after a crash, or on a new connection. Sending a frame twice
changes nothing. Who comes while everything is written is welcome, and waits for `finished`; who
comes later still hears `finished` in place of `welcome`. `finished` may come at any time: nothing
more is taken, and a `complete` run needs nothing more. A sender has at most `window` frames on
their way that were neither acknowledged nor refused. `effect` is the verdict on the frame:
accepted, rectified, rejected and why, held out, duplicate, late; or waiting, for its turn after a
number that is missing (what becomes of it then is in frames.parquet). `live` says that the sender
can't wait: a full queue then loses the oldest frame, which is refused as dropped; otherwise the
server reads on when there is room.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Final, get_args

from everview.datasets.captures import Scale
from everview.datasets.errors import DataError, printable
from everview.datasets.guards import parse_json

# What the library says of connections that break is said by us, in a sentence.
SILENT = logging.getLogger("everview.ingest.connections")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False

VERSION = 1
PATH = "/ingest"
WINDOW = 32
MAX_TEXT = 2**16
_SCALES: Final = get_args(Scale)


@dataclass(frozen=True)
class Limits:
    """What one message may hold, checked before anything of it is decoded."""

    message_bytes: int = 32 * 2**20
    pixels: int = 16_000_000


@dataclass(frozen=True)
class Hello:
    """What a sender says about its frames. scale: the unit of its cameras' world."""

    name: str = "socket"
    scale: Scale = "up_to_scale"
    depth: bool = False
    live: bool = False

    def text(self) -> str:
        """As a message."""
        return to_text(
            "hello", version=VERSION, name=self.name, scale=self.scale, depth=self.depth,
            live=self.live,
        )  # fmt: skip


def read_hello(message: str | bytes) -> Hello:
    """A sender's first message. Raises DataError that says what is wrong with it."""
    said = read_text(message)
    if said["type"] != "hello" or said.get("version") != VERSION:
        raise DataError(f"the first message is not a hello of version {VERSION}")
    scale, name = said.get("scale", "up_to_scale"), said.get("name", "socket")
    if scale not in _SCALES:
        raise DataError(f"scale {str(scale)[:40]!r} is none of {', '.join(_SCALES)}")
    if not isinstance(name, str):
        raise DataError("the name in a hello is not text")
    flags = [said.get(key, False) for key in ("depth", "live")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise DataError("depth and live in a hello are true or false")
    return Hello(printable(name)[:100], scale, *flags)


def read_text(message: str | bytes) -> dict[str, Any]:
    """A text message. Raises DataError for anything but a small object with a type."""
    if not isinstance(message, str) or len(message) > MAX_TEXT:
        raise DataError("a text message was expected")
    said = parse_json(message, "a message")
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        raise DataError("a message is not an object with a type")
    return said


def to_text(kind: str, **values: Any) -> str:
    """A text message."""
    return json.dumps({"type": kind, **values}, allow_nan=False)
