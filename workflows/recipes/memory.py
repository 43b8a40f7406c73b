"""The memory alone, and the bank after it (the campaign log, entry 19).

With the bank in sight a memory learns slowly: a quarter to 0.6 of the targets ask it, and the rest
need it little. The bank learns fast, in a thousand steps. So `memory_first` trains without a bank,
where a step costs half, and `memory_then_bank` goes on from its weights with one; twenty minutes
together, as `lact` has. The others change one thing each of `bank_off`: what does the memory need?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from everview.models.steps import ConstantStep
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant
from everview.workflows.recipes.ablations import bank_off
from everview.workflows.recipes.published import FINE_OFFSETS, first_light, with_bank

_CHUNKS = (1, 8)


def memory_first() -> TrainConfig:
    """`first_light` without its bank, eight minutes, uncooled: what `memory_then_bank` starts from.

    There is nothing to copy, so the picture is the direct one and its loss needs no second term.
    """
    whole = first_light()
    (shape,) = whole.data.shapes
    return replace(
        whole,
        name="memory_first",
        budget=Budget(seconds=480),
        model=replace(bank_off().model, stack=whole.model.stack),
        data=replace(
            whole.data,
            shapes=(replace(shape, chunks=_CHUNKS),),
            stored_share=constant(0.2),
            memory_share=constant(1.0),
        ),
        rate=RateSchedule(cooldown=0.0),
        loss=replace(
            whole.loss,
            direct=constant(0.0),
            charbonnier=constant(0.0),
            perceptual=constant(0.0),
        ),
        evaluation=replace(whole.evaluation, scenes=16, chunks=_CHUNKS, every_s=1e9),
        commit_every_s=150,
    )


def memory_then_bank() -> TrainConfig:
    """`memory_first` gone on with for twelve minutes, with the bank and its fine sweep, cooled."""
    before = memory_first()
    whole = first_light()
    return replace(
        before,
        name="memory_then_bank",
        budget=Budget(seconds=720),
        start_from="memory_first",
        model=with_bank(whole.model, fine_offsets=FINE_OFFSETS),
        data=replace(
            before.data, stored_share=Ramp(0.2, 0.4, 0.3, 0.6), memory_share=constant(0.3)
        ),
        rate=RateSchedule(warm_up_steps=150, cooldown=0.6),
        loss=replace(
            whole.loss,
            direct=constant(0.3),
            charbonnier=Ramp(0.0, 0.1, 0.5, 0.6),
            perceptual=Ramp(0.0, 0.08, 0.5, 0.6),
        ),
        seed=1,
    )


def _alone(name: str, **changes: Any) -> TrainConfig:
    return replace(bank_off(), name=name, **changes)


def _alone_with(name: str, **changes: Any) -> TrainConfig:
    return _alone(name, model=replace(bank_off().model, **changes))


def alone_writes_all_three() -> TrainConfig:
    """Every chunk writes all three fast matrices, not w1 alone."""
    return _alone_with("alone_writes_all_three", memory_writes=("w0", "w1", "w2"))


def alone_step_one() -> TrainConfig:
    """Every write at full size (LaCT)."""
    return _alone_with("alone_step_one", step=ConstantStep(1.0))


def alone_wide() -> TrainConfig:
    """384 wide instead of 256."""
    return _alone_with("alone_wide", dim=384)


def alone_deep() -> TrainConfig:
    """Ten blocks instead of four."""
    return _alone_with("alone_deep", stack="WTF" * 10)


def alone_no_foot_code() -> TrainConfig:
    """Rays by their Pluecker coordinates alone."""
    return _alone_with("alone_no_foot_code", foot_code=False)


def alone_one_set() -> TrainConfig:
    """All inputs as one set in every step."""
    data = bank_off().data
    (shape,) = data.shapes
    return _alone("alone_one_set", data=replace(data, shapes=(replace(shape, chunks=(1,)),)))


def alone_adamw() -> TrainConfig:
    """AdamW for the hidden matrices too."""
    return _alone("alone_adamw", optimiser=replace(bank_off().optimiser, hidden="adamw"))


def alone_half_rate() -> TrainConfig:
    """Muon at half of its rate."""
    optimiser = bank_off().optimiser
    return _alone(
        "alone_half_rate", optimiser=replace(optimiser, muon_rate=0.5 * optimiser.muon_rate)
    )


def alone_no_depth() -> TrainConfig:
    """No depth in the loss."""
    loss = replace(bank_off().loss, depth=constant(0.0), input_depth=constant(0.0))
    return _alone("alone_no_depth", loss=loss)


ALONE: tuple[Callable[[], TrainConfig], ...] = (
    alone_writes_all_three,
    alone_step_one,
    alone_wide,
    alone_deep,
    alone_no_foot_code,
    alone_one_set,
    alone_adamw,
    alone_half_rate,
    alone_no_depth,
)
MEMORY: tuple[Callable[[], TrainConfig], ...] = (memory_first, memory_then_bank, *ALONE)
