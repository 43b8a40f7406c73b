"""The memory alone, and the bank after it (the campaign log, entry 19).

With the bank in sight a memory learns slowly: a part of the targets asks it, and the rest need it
little. The bank learns fast: in a thousand steps the picture is within 2 dB of where it ends. So
`memory_first` trains without a bank, where steps are cheaper, and `memory_then_bank` goes on from
its weights with one; twenty minutes together, as `lact` has, on the same scenes in the same shares.
The others change one thing each of `bank_off`: what does the memory need?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from everview.models.steps import ConstantStep
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant
from everview.workflows.recipes.ablations import bank_off
from everview.workflows.recipes.lact import lact
from everview.workflows.recipes.published import FINE_OFFSETS, first_light, with_bank

_CHUNKS = (1, 8)


def memory_first() -> TrainConfig:
    """`first_light` without its bank, eight minutes, uncooled: what `memory_then_bank` starts from.

    There is nothing to copy, so the picture is the direct one and its loss needs no second term;
    what sharpens waits for the second leg. Two numbers of chunks, which compile in half the time.
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
            stored_share=constant(whole.data.stored_share.value(0.0)),
            memory_share=constant(1.0),  # under which name the curve has its error
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
    """`memory_first` gone on with for twelve minutes, with the bank and its fine sweep, cooled.

    What its tokens say of depth was learned over fixed depths and is now added to an opinion over
    each view's own; they have to learn that anew.
    """
    before = memory_first()
    whole = first_light()
    return replace(
        before,
        name="memory_then_bank",
        budget=Budget(seconds=720),
        start_from="memory_first",
        model=with_bank(whole.model, fine_offsets=FINE_OFFSETS),
        data=replace(
            before.data,
            stored_share=Ramp(0.15, 0.3, 1 / 6, 0.5),  # `first_light`'s, from 40 % of it on
            memory_share=constant(0.3),
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
    """The published optimiser: AdamW for the hidden matrices too, at half of the rate."""
    return _alone("alone_adamw", optimiser=lact().optimiser)


def alone_long_cooldown() -> TrainConfig:
    """The rate falls over nine tenths of the run, as the published recipe's does."""
    return _alone("alone_long_cooldown", rate=replace(bank_off().rate, cooldown=0.9))


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
    alone_long_cooldown,
    alone_half_rate,
    alone_no_depth,
)
MEMORY: tuple[Callable[[], TrainConfig], ...] = (memory_first, memory_then_bank, *ALONE)
