"""Whose turn it is to record, and what waits for what: on a pretended GPU that refuses as one does.

What is recorded on a GPU: tests/models/test_captured_gpu.py.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from everview.models.graphs import GraphRecorder


class Stream:
    """Notes what it was made to wait for."""

    def __init__(self) -> None:
        self.awaited: list[object] = []
        self.wait_stream = self.wait_event = self.awaited.append

    def record_event(self) -> object:
        return object()


class Device:
    """Can't be waited for while a stream is captured, and captures one at a time."""

    def __init__(self) -> None:
        self.capturing = False
        self.modes: list[str] = []
        self.current = Stream()

    def synchronize(self, device: object = None) -> None:
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")

    @contextmanager
    def graph(
        self, graph: object, pool: object, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        self.synchronize()
        self.modes.append(capture_error_mode)
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    card = Device()
    pretended = {
        "synchronize": card.synchronize,
        "graph": card.graph,
        "current_stream": lambda _=None: card.current,
        "set_stream": lambda _: None,
        "stream": nullcontext,
        "device": nullcontext,
        "Stream": Stream,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: (0, 1),
    }
    for name, stand_in in pretended.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return card


def recorder() -> GraphRecorder:
    return GraphRecorder(torch.device("cuda"))


def _records(other: GraphRecorder, found: list[bool]) -> None:
    other.record(lambda: found.append(gc.isenabled()))


def _drops(other: GraphRecorder, found: list[bool]) -> None:
    with other.settled():
        found.append(False)


def _tunes(other: GraphRecorder, found: list[bool]) -> None:
    other.eagerly(torch.cuda.synchronize)
    found.append(False)


@pytest.mark.parametrize("act", [_records, _drops, _tunes])
def test_another_thread_waits_while_one_records(
    act: Callable[[GraphRecorder, list[bool]], None], device: Device
) -> None:
    collecting: list[bool] = []
    other = threading.Thread(target=act, args=(recorder(), collecting))

    def run() -> str:
        other.start()
        other.join(0.2)  # enough for it to get in the way, if it could
        assert not collecting
        assert not gc.isenabled()
        return "recorded"

    assert recorder().record(run)[1] == "recorded"
    other.join()
    assert collecting == [False], "it went on, and nothing was collected while it recorded"
    assert gc.isenabled()
    assert set(device.modes) == {"thread_local"}


def test_after_a_failed_recording_the_next_thread_has_its_turn(device: Device) -> None:
    def run() -> None:
        raise ValueError("not recorded")

    with pytest.raises(ValueError, match="not recorded"):
        recorder().record(run)
    other = threading.Thread(target=_drops, args=(recorder(), done := []))
    other.start()
    other.join()
    assert done
    assert gc.isenabled()


def test_after_an_error_streams_still_wait_for_what_was_begun(device: Device) -> None:
    shared = recorder()

    def run() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), shared.in_order():
        shared.eagerly(run)
    assert device.current.awaited == [shared._stream]
    device.current = later = Stream()
    with shared.in_order():
        assert len(later.awaited) == 1
