"""Queries and writes as CUDA graphs: recorded once for every form they take, then replayed.

Rendering one view launches over a thousand kernels, and launching them one by one takes the host
longer than running them takes the device; a graph is one launch. A form is everything that decides
which kernels run, and on which memory: sizes and types of all inputs (those of the state too),
heads, the layers, where the model's weights lie, its blocks as compiled, the caller's autocast. Its
inputs lie in memory of its own, which is filled before every replay. A view that was frozen later
is swapped in by copying its tensors: while they have the same sizes nothing is recorded again.
Results are copies, which later calls leave alone.

A form's first uses run plainly, which compiles and tunes what is left to; then it is recorded. Few
forms are kept, those used last. `answering` and `writing` give what a device is served best by.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.graphs import GraphRecorder, described, twin
from everview.models.queries import Outputs, Query, View
from everview.models.scene_model import SceneModel
from everview.models.schedule import Schedule
from everview.models.state import all_tensors, map_tensors

log = logging.getLogger("everview.models")

EAGER_USES = 2
"""Uses of a form before it is recorded: the first compiles, the second finds all as it will be."""
FORMS_KEPT = 4


class CaptureError(RuntimeError):
    """Something that can't be recorded as a CUDA graph; what and where is in the message."""


class Recorder(Protocol):
    """What records and replays: `everview.models.graphs.GraphRecorder`."""

    def eagerly(self, run: Callable[[], Any]) -> Any:
        """Run plainly, where it will be recorded."""
        ...

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """What replays the run, and the result that every replay writes anew."""
        ...

    def in_order(self) -> Any:
        """The context in which the shared memory may be used."""
        ...

    def settled(self) -> Any:
        """The context in which graphs may be dropped."""
        ...


class Answer(Protocol):
    """`SceneModel.query`, plain or captured."""

    def __call__(
        self, query: Query, view: View, heads: Collection[str] = ..., *, bank: bool = True
    ) -> Outputs:
        """Answer a query from a frozen state."""
        ...


class Write(Protocol):
    """`SceneModel.write`, plain or captured."""

    def __call__(
        self,
        images: Tensor,
        cameras: Cameras,
        time_s: Tensor,
        layers: tuple[Any, ...],
        steps_BU: Tensor,
        schedule: Schedule,
    ) -> tuple[Any, ...]:
        """The layers' states after a chunk."""
        ...


@dataclass
class _Form:
    """Inputs that stay in place, one value after another; and the graph once recorded."""

    inputs: tuple[Any, ...]
    shown: list[weakref.ref[View] | None]
    """the view that an input was last filled from"""
    uses: int = 0
    thread: int = 0
    """the one that ran it plainly last"""
    replay: Callable[[], None] | None = None
    result: Any = None

    @staticmethod
    def of(values: tuple[Any, ...], device: torch.device) -> _Form:
        return _Form(map_tensors(lambda t: twin(t, device), values), [None] * len(values))

    def fill(self, values: tuple[Any, ...]) -> None:
        """Copy in what changed; a view never does, so each is copied once."""
        for index, (ours, theirs) in enumerate(zip(self.inputs, values, strict=True)):
            shown = self.shown[index]
            if shown is not None and shown() is theirs:
                continue
            for room, tensor in zip(all_tensors(ours), all_tensors(theirs), strict=True):
                room.copy_(tensor)
            self.shown[index] = weakref.ref(theirs) if isinstance(theirs, View) else None


@dataclass
class Captured:
    """Functions of tensors, captured by form. One call at a time, from any thread.

    Raises CaptureError when a form can't be recorded; what the function itself raises comes
    through as it is.
    """

    device: torch.device
    recorder: Recorder
    most: int = FORMS_KEPT
    _forms: OrderedDict[Hashable, _Form] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_recorded(self) -> int:
        """Forms that have a graph."""
        return sum(form.replay is not None for form in self._forms.values())

    def call(
        self, function: Callable[..., Any], values: tuple[Any, ...], settings: Hashable
    ) -> Any:
        """function(*values), plainly, or recorded and replayed. settings: what else it depends on.

        The result is the caller's own. values: tensors in dataclasses and tuples.
        """
        kind = self.device.type
        autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        with self._lock, self.recorder.in_order():
            key = (signature(values), settings, autocast)
            form = self._forms.get(key) or _Form.of(values, self.device)
            form.fill(values)

            def run() -> Any:
                # casts that autocast keeps would be freed when the caller leaves it
                with torch.autocast(kind, autocast[1], autocast[0], cache_enabled=False):
                    return function(*form.inputs)

            if form.replay is None:
                thread = threading.get_ident()
                if form.uses < EAGER_USES:
                    result = self.recorder.eagerly(run)
                    form.uses, form.thread = form.uses + 1, thread
                    self._keep(key, form)
                    return result
                if form.thread != thread:  # handles of cuBLAS and cuDNN are a thread's own
                    self.recorder.eagerly(run)
                self._record(form, run)
            assert form.replay is not None
            form.replay()
            self._keep(key, form)
            return map_tensors(Tensor.clone, form.result)

    def _keep(self, key: Hashable, form: _Form) -> None:
        """As the form used last. Only after a use: what the function refuses takes no room."""
        while key not in self._forms and len(self._forms) >= self.most:
            with self.recorder.settled():
                self._forms.popitem(last=False)
        self._forms[key] = form
        self._forms.move_to_end(key)

    def _record(self, form: _Form, run: Callable[[], Any]) -> None:
        try:
            form.replay, form.result = self.recorder.record(run)
        except Exception as error:
            raise CaptureError(f"can't be captured as a CUDA graph: {described(error)}") from error


class _Weights:
    """What of a model graphs hold on to: where its tensors lie, and the code of its blocks.

    Asked at every call, hence without a walk through the model, whose modules stay the same ones.
    """

    def __init__(self, model: SceneModel) -> None:
        self._model, self._device = model, model.device
        tables = (t for module in model.modules() for t in (module._parameters, module._buffers))
        self._tables = [table for table in tables if table]

    def place(self) -> Hashable:
        """Another one after `to`, a replaced parameter or `.data`, or `compile_blocks`.

        Raises CaptureError when the model was moved off the device that it is captured on.
        """
        if self._model.device != self._device:
            moved = f"the model was moved from {self._device} to {self._model.device}"
            raise CaptureError(f"can't be captured any more: {moved}")
        tensors = [t for table in self._tables for t in table.values() if t is not None]
        return self._model._run, tuple([t.data_ptr() for t in tensors])


class CapturedQuery:
    """`SceneModel.query` by replaying graphs: an `Answer`. Its results are inference tensors."""

    def __init__(self, model: SceneModel, recorder: Recorder | None = None) -> None:
        """recorder: one on the model's GPU unless given."""
        self.model = model
        self.captured = Captured(model.device, recorder or GraphRecorder(model.device))
        self._weights = _Weights(model)

    def __call__(
        self,
        query: Query,
        view: View,
        heads: Collection[str] = ("rgb", "depth", "confidence"),
        *,
        bank: bool = True,
    ) -> Outputs:
        """As `SceneModel.query`; raises CaptureError."""
        asked = tuple(heads)

        def answer(query: Query, view: View) -> Outputs:
            return self.model.query(query, view, asked, bank=bank)

        with torch.inference_mode():
            settings = (asked, bank, self._weights.place())
            return self.captured.call(answer, (query, view), settings)


class CapturedWrite:
    """`SceneModel.write` by replaying graphs: a `Write`, for `observe`. Without gradients."""

    def __init__(self, model: SceneModel, recorder: Recorder | None = None) -> None:
        """recorder: one on the model's GPU unless given."""
        self.model = model
        self.captured = Captured(model.device, recorder or GraphRecorder(model.device))
        self._weights = _Weights(model)

    def __call__(
        self,
        images: Tensor,
        cameras: Cameras,
        time_s: Tensor,
        layers: tuple[Any, ...],
        steps_BU: Tensor,
        schedule: Schedule,
    ) -> tuple[Any, ...]:
        """As `SceneModel.write`; raises CaptureError."""

        def write(images: Any, cameras: Any, time_s: Any, layers: Any, steps: Any) -> Any:
            return self.model.write(images, cameras, time_s, layers, steps, schedule)

        values = (images, cameras, time_s, layers, steps_BU)
        with torch.inference_mode(False), torch.no_grad():
            return self.captured.call(write, values, (schedule, self._weights.place()))


class _OrPlain:
    """Captured as long as that works; then plainly, and the log says once why."""

    def __init__(self, what: str, captured: Callable[..., Any], plain: Callable[..., Any]) -> None:
        self.what, self.captured, self.plain = what, captured, plain
        self.failure: str | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.failure is None:
            try:
                return self.captured(*args, **kwargs)
            except CaptureError as error:
                self.failure = str(error)
                log.warning("%s %s; going on without", self.what, self.failure)
        return self.plain(*args, **kwargs)


def answering(model: SceneModel) -> Answer:
    """Captured queries on a GPU, plain ones elsewhere."""
    if model.device.type != "cuda":
        return model.query
    return _OrPlain("queries", CapturedQuery(model), model.query)


def writing(model: SceneModel) -> Write:
    """Captured writes on a GPU, plain ones elsewhere."""
    if model.device.type != "cuda":
        return model.write
    return _OrPlain("writes", CapturedWrite(model), model.write)


def signature(value: Any) -> Hashable:
    """What decides the kernels of a function of `value`: sizes and types of tensors, all else as
    it is (a module stands for itself)."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = tuple(signature(getattr(value, f.name)) for f in dataclasses.fields(value))
        return type(value), fields
    if isinstance(value, tuple):
        return type(value), tuple(signature(part) for part in value)
    return value
