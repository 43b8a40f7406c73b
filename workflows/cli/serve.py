"""`everview serve --ingest`: a socket that frames are pushed to, a reconstruction out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tyro

from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.config import StreamConfig
from everview.workflows.cli.arguments import Switch, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.stream import StreamFlags, streamed


@dataclass(frozen=True, kw_only=True)
class Arguments(StreamFlags, StreamConfig):
    """Take frames over a websocket and absorb them as `everview stream` does a capture.

    It binds loopback unless --host says otherwise and always asks for a token, which is in
    DIR/ingest.json beside the address (or is what EVERVIEW_INGEST_TOKEN says). The sender is told
    what took effect and what survives a crash; after one, the same command goes on and the sender
    is told from where. The stream ends when the sender says so or is silent for --idle-s.
    """

    ingest: Switch = False
    """take frames, in the messages of `datasets/formats/frame_message.py`"""
    host: str = "127.0.0.1"
    """address to listen at"""
    port: int = 0
    """port to listen at (0: a free one, which DIR/ingest.json names)"""
    capture: tyro.conf.Suppress[str] = "ingest://"
    watch: tyro.conf.Suppress[bool] = False


def run(arguments: Arguments) -> Outcome:
    if not arguments.ingest:
        raise UsageError("`everview serve` takes frames so far: say --ingest")
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: 0 to 65535")
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    config = part_of(arguments, StreamConfig)
    return streamed(arguments, replace(config, capture=f"ingest://{host}:{arguments.port}"))
