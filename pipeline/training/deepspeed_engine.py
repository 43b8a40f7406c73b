"""DeepSpeed under the training step: ZeRO divides state, gradients and weights among ranks.

Stage 1 divides the optimiser's state, 2 the gradients too, 3 the weights too; the state may lie in
host memory. The update is the project's own (`sharded_optimiser`): losses and weights are those of
one process, to rounding. Stage 0 divides nothing and is the plain optimiser behind DeepSpeed's
averaging.

What DeepSpeed is not used for: its bfloat16 mode turns every weight into bfloat16, the geometry's
too, where this model keeps float32 weights and multiplies in bfloat16; its checkpoints are pickles
that only the same number of ranks can read; its clipping doesn't know refused steps. With stage 3
the weights are whole between the forward and the end of the backward pass of a micro-batch, not
layer by layer: layers are read outside their own calls. Steps can't be captured as CUDA graphs.

The one file that imports deepspeed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from everview.models.scene_model import SceneModel
from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.training.averaging import model_with
from everview.pipeline.training.config import OptimiserConfig, ParallelConfig
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.pieces import piece_name
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.sharded_optimiser import ShardedOptimiser, Stretch
from everview.pipeline.training.step import Objective
from everview.pipeline.training.update_rules import Verdict


class DeepSpeedUpdater:
    """An `Updater` on a DeepSpeed engine; `engine` takes the objective's place in a step."""

    def __init__(
        self,
        objective: Objective,
        config: OptimiserConfig,
        parallel: ParallelConfig,
        ranks: Ranks,
        micro_batches: int,
    ) -> None:
        """micro_batches: of every step. Raises EnvironmentUnfit without the deepspeed package."""
        deepspeed = _import(objective.model.device)
        assert parallel.zero is not None
        self.ranks, self.stage = ranks, parallel.zero
        self._model, self._count = objective.model, 0
        self._deepspeed = deepspeed
        _as_vectors(objective.model)
        self._optimiser = (
            ShardedOptimiser(objective.model, config, ranks)
            if self.stage
            else _WholeOptimiser(objective.model, config)
        )
        self.engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=self._optimiser,
            config=_settings(parallel, micro_batches),
            dist_init_required=False,
        )
        if self.stage == 3:
            # in use from the objective's call to the end of its backward pass
            for parameter in objective.model.parameters():
                deepspeed.zero.register_external_parameter(objective, parameter)
        if isinstance(self._optimiser, ShardedOptimiser):
            self._held = self._flat()
            self._stretches = self._layout(self._optimiser.names)
            self._optimiser.divide(self._stretches, self._held)

    def backward(self, loss: Tensor, of: int = 1) -> None:
        """See Updater; DeepSpeed divides by the number of micro-batches itself."""
        self.engine.backward(loss)
        self._count += 1
        if self._count < of:
            self.engine.step()  # counts a micro-batch and changes nothing

    def step(self, factor: float | Tensor) -> Verdict:
        """See Updater."""
        self._count = 0
        self._optimiser.factor, self._optimiser.verdict = factor, None
        self.engine.step()
        # DeepSpeed drops a step whose gradient isn't finite before it asks the optimiser
        zero = torch.zeros((), device=self._model.device)
        verdict = self._optimiser.verdict or Verdict(zero + torch.nan, zero, zero)
        return Verdict(*(value.to(zero.device) for value in verdict))

    def drop(self) -> None:
        """See Updater."""
        self._count = 0
        self.engine.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """See Updater."""
        if not isinstance(self._optimiser, ShardedOptimiser):
            return self.ranks.dealt(self._optimiser.rules.state())
        scalars = self._optimiser.scalars() if self.ranks.leads else {}
        return {**self._optimiser.state_pieces(), **scalars}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See Updater."""
        if isinstance(self._optimiser, ShardedOptimiser):
            self._optimiser.load_pieces(state)
        else:
            self._optimiser.rules.load_state(state)

    def weights(self) -> dict[str, Tensor]:
        """See Updater: pieces of the parameters, and the buffers."""
        if not isinstance(self._optimiser, ShardedOptimiser):
            return self.ranks.dealt(self._model.state_dict())
        own = {
            piece_name(s.name, s.offset): self._held.data[s.place : s.place + s.length]
            for s in self._stretches[self.ranks.rank]
        }
        names = set(self._optimiser.shapes)
        rest = {name: t for name, t in self._model.state_dict().items() if name not in names}
        return {**own, **(rest if self.ranks.leads else {})}

    @torch.no_grad()
    def whole(self) -> SceneModel:
        """See Updater; a copy: DeepSpeed's hooks would take weights away between two layers."""
        theirs = dict(self._model.named_parameters())
        gathered: AbstractContextManager[Any] = nullcontext()
        if self.stage == 3:
            gathered = self._deepspeed.zero.GatheredParameters(list(theirs.values()))
        with gathered:
            return model_with(theirs, self._model)

    def result(self) -> SceneModel:
        """See Updater."""
        kept = self._optimiser
        means = kept.averages() if isinstance(kept, ShardedOptimiser) else kept.rules.averages()
        return model_with(means, self._model) if means else self.whole()

    def _flat(self) -> Tensor:
        """This rank's float32 weights as DeepSpeed's one group and one sub-group hold them."""
        zero = self.engine.optimizer
        groups = (
            zero.fp32_partitioned_groups_flat
            if self.stage == 3
            else zero.single_partition_of_fp32_groups
        )
        (held,) = groups
        return held

    def _layout(self, names: Mapping[int, str]) -> list[list[Stretch]]:
        """What every rank holds: parts of every parameter (stage 3), or of all in a row."""
        zero, ranks = self.engine.optimizer, range(self.ranks.size)
        if self.stage == 3:
            (parameters,) = zero.fp16_groups
            return [_parts_of_each(parameters, names, rank) for rank in ranks]
        (parameters,) = zero.bit16_groups
        size, ends = self._held.numel(), 0
        layout: list[list[Stretch]] = [[] for _ in ranks]
        for parameter in parameters:
            first, ends = ends, ends + parameter.numel()
            for rank in range(first // size, (ends - 1) // size + 1):
                start, stop = max(first, rank * size), min(ends, (rank + 1) * size)
                layout[rank].append(
                    Stretch(names[id(parameter)], start - first, start - rank * size, stop - start)
                )
        return layout


class _WholeOptimiser(torch.optim.Optimizer):
    """The plain update as a client's optimiser, on gradients that DeepSpeed has averaged."""

    def __init__(self, model: Any, config: OptimiserConfig) -> None:
        super().__init__(list(model.parameters()), {"lr": 1.0})
        self.rules = Optimiser(model, config)
        self.factor: float | Tensor = 1.0
        self.verdict: Verdict | None = None

    def step(self, closure: Any = None) -> None:
        self.verdict = self.rules.step(self.factor)


def _parts_of_each(parameters: Sequence[Any], names: Mapping[int, str], rank: int) -> list[Stretch]:
    """ZeRO 3: equal parts of every parameter, the last ones filled up."""
    stretches, place = [], 0
    for parameter in parameters:
        each = parameter.partition_numel()
        length = min(each, parameter.ds_numel - rank * each)
        if length > 0:
            stretches.append(Stretch(names[id(parameter)], rank * each, place, length))
        place += each
    return stretches


def _as_vectors(model: nn.Module) -> None:
    """Turn parameters without dimensions, which DeepSpeed 0.19.8 fails to broadcast, into vectors
    of one element."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 0:
                module._parameters[name] = nn.Parameter(parameter.data.view(1))


def _import(device: torch.device) -> Any:
    if device.type == "cpu":  # or DeepSpeed looks for a GPU's tools
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise EnvironmentUnfit(
            f"--parallel.zero needs the deepspeed package, which can't be imported ({error})"
        ) from error
    return deepspeed


def _settings(parallel: ParallelConfig, micro_batches: int) -> dict[str, Any]:
    everything = 10**12  # one sub-group, so that one optimiser step sees all of a rank's stretch
    zero: dict[str, Any] = {"stage": parallel.zero, "sub_group_size": everything}
    if parallel.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    elif parallel.zero in (1, 2):  # it would fetch a norm that nobody reads: the host must not wait
        zero["compute_grad_norm"] = False
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        # it waits for the device twice a step: the next step's launches are no longer hidden
        "timers": {"throughput": {"enabled": False}},
    }
