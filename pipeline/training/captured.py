"""The training step as a CUDA graph: captured once for every form it takes, then replayed.

A step launches thousands of kernels, and launching them one by one takes the host longer than
running them takes the device. A graph is one launch. It repeats what it recorded, so whatever
differs between two steps lies in tensors that stay where they are and are filled before a replay:
the episode, the loss weights, the learning rate's factor. Whatever decides which kernels run (the
shapes, the chunks, the schedule, the terms of the loss) is a form of its own, with its own graph.

The sequence of updates is that of the plain step: a form's first episodes are trained on as usual,
which also compiles and tunes what is left to, then one is recorded, which changes nothing, and
replayed. If recording fails, the run says so and goes on with the plain step. Until all forms are
recorded a run needs the memory of two steps: the graphs', and a plain one's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from everview.models.episode import Episode
from everview.models.graphs import GraphRecorder, described, twin
from everview.models.schedule import Schedule
from everview.models.state import all_tensors, map_tensors, named_tensors
from everview.pipeline.training.losses import LossWeights
from everview.pipeline.training.step import StepResult

EAGER_USES = 2
"""Steps of a form before it is recorded: the first compiles, the second finds all as it will be."""


class Step(Protocol):
    """`training_step` with a model, an optimiser and a perceptual distance given."""

    def __call__(
        self,
        episode: Episode,
        schedule: Schedule,
        weights: LossWeights,
        rate_factor: float | Tensor,
    ) -> StepResult:
        """Train on one episode."""
        ...


@dataclass
class Form:
    """One form of the step: its inputs, which stay in place, and its graph once recorded."""

    episode: Episode
    weights: dict[str, Tensor]
    rate_factor: Tensor
    uses: int = 0
    replay: Callable[[], None] | None = None
    names: tuple[str, ...] = ()
    """names of the losses"""
    packed: Tensor | None = None
    """the losses, the gradient's norm and whether the step was accepted, as replays leave them"""
    tokens: int = 0

    def fill(self, episode: Episode, weights: LossWeights, rate_factor: float | Tensor) -> None:
        """Copy a step's inputs in. Numbers travel as arguments of kernels: the host never waits."""
        for ours, theirs in zip(all_tensors(self.episode), all_tensors(episode), strict=True):
            ours.copy_(theirs)
        for name, weight in self.weights.items():
            weight.fill_(weights[name])
        self.rate_factor.fill_(rate_factor)

    def record(self, result: StepResult) -> None:
        """Keep where the graph leaves a step's result."""
        self.names = tuple(result.losses)
        scalars = (*result.losses.values(), result.gradient_norm, result.accepted)
        self.packed = torch.stack([scalar.float() for scalar in scalars])
        self.tokens = result.tokens

    def result(self) -> StepResult:
        """The last replay's result, in memory of its own: the graph's is written again."""
        assert self.packed is not None
        *losses, norm, accepted = self.packed.clone().unbind()
        return StepResult(
            dict(zip(self.names, losses, strict=True)), norm, accepted, tokens=self.tokens
        )


@dataclass
class CapturedStep:
    """A `Step` that replays `step` as CUDA graphs; everything must be on one GPU.

    say: told in one line when recording fails, or when there is no room for it. alone: no other
    rank takes part; if one does, a plain step that fails on this one can't be taken again.
    """

    step: Step
    model: nn.Module
    say: Callable[[str], None]
    alone: bool = True
    failure: str | None = None
    """why the plain step runs instead, if it does"""
    _forms: dict[Hashable, Form] = field(default_factory=dict)
    _inputs: dict[Hashable, Episode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parameters = list(self.model.parameters())
        self._device = self._parameters[0].device
        self._recorder = GraphRecorder(self._device)

    def __call__(
        self,
        episode: Episode,
        schedule: Schedule,
        weights: LossWeights,
        rate_factor: float | Tensor,
    ) -> StepResult:
        """Train on one episode: plainly, by recording and replaying, or by replaying."""
        if self.failure is not None:
            return self.step(episode, schedule, weights, rate_factor)
        form = self._form(episode, schedule, weights)
        form.fill(episode, weights, rate_factor)
        if form.replay is None:
            recording = form.uses == EAGER_USES
            untouched = self._versions()
            try:
                if not recording:
                    form.uses += 1
                    return self._eagerly(form, schedule)
                form.replay = self._captured(form, schedule)
            except Exception as error:  # or there isn't room for a plain step beside the graphs
                if not recording and (not self.alone or self._versions() != untouched):
                    raise
                self._give_up(error)
        if form.replay is None:  # out of the handler, which keeps what the failed step allocated
            return self.step(episode, schedule, weights, rate_factor)
        form.replay()
        # replays write to the weights behind autograd's back; their versions tell who has seen them
        torch.autograd.graph.increment_version(self._parameters)
        return form.result()

    def _form(self, episode: Episode, schedule: Schedule, weights: LossWeights) -> Form:
        layout = tuple(
            (name, tensor.shape, tensor.stride(), tensor.dtype)
            for name, tensor in named_tensors(episode)
        )
        key = (layout, episode.chunk_views, schedule, tuple(weights))
        if key not in self._forms:
            if layout not in self._inputs:
                self._inputs[layout] = map_tensors(twin, episode)
            inputs = replace(self._inputs[layout], chunk_views=episode.chunk_views)
            zero = torch.zeros((), device=self._device)
            scalars = {name: zero.clone() for name in weights}
            self._forms[key] = Form(inputs, scalars, zero)
        return self._forms[key]

    def _eagerly(self, form: Form, schedule: Schedule) -> StepResult:
        """A plain step, where the graph will be recorded."""
        return self._recorder.eagerly(
            lambda: self.step(form.episode, schedule, form.weights, form.rate_factor)
        )

    def _captured(self, form: Form, schedule: Schedule) -> Callable[[], None]:
        """Record one step; nothing is executed.

        No gradient is left over from before, so they live and die in the graph's memory. Autocast
        is entered and left inside the step: its cache of half-precision weights is recorded with
        it, made anew by every replay, and nobody else sees it.
        """
        for parameter in self._parameters:
            parameter.grad = None
        replay, _ = self._recorder.record(
            lambda: form.record(self.step(form.episode, schedule, form.weights, form.rate_factor))
        )
        return replay

    def _versions(self) -> list[int]:
        """How often each weight was written to."""
        return [parameter._version for parameter in self._parameters]

    def _give_up(self, error: Exception) -> None:
        """Back to where the plain step can go on; recording has executed nothing."""
        for parameter in self._parameters:
            parameter.grad = None
        with self._recorder.settled():
            self.failure = described(error)
            self._forms.clear()
            self._inputs.clear()
        self.say(f"the training step can't be captured; going on without: {self.failure}")
