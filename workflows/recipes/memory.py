"""The memory alone, and the bank after it (the campaign log, entry 19).

With the bank in sight a memory learns slowly: a part of the targets asks it, and the rest need it
little. The bank learns fast: a thousand steps, cooled, come within 1 dB of what `first_light` ends
with (entries 4 and 5). So `memory_first` trains without a bank, where steps are cheaper, and
`memory_then_bank` goes on from its weights with one; twenty minutes together, as `lact` has, on the
same scenes in the same shares. In miniature it gained nothing (entry 21), so the others come first:
they change one thing each of `bank_off`, and ask what a memory needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant
from everview.workflows.recipes.ablations import (
    bank_off,
    no_depth,
    no_foot_code,
    single_chunk,
    step_one,
    writes_all_three,
)
from everview.workflows.recipes.first_light import (
    FEW_CHUNKS,
    fine_sweep,
    first_light,
    with_chunks,
    without_bank,
)
from everview.workflows.recipes.lact import lact


def memory_first() -> TrainConfig:
    """`first_light` without its bank, eight minutes, uncooled: what `memory_then_bank` starts from.

    There is nothing to copy, so the picture is the direct one and its loss needs no second term;
    what sharpens waits for the second leg. Two numbers of chunks, which compile in half the time.
    """
    whole = first_light()
    return replace(
        whole,
        name="memory_first",
        budget=Budget(seconds=480),
        model=without_bank(whole.model),
        data=replace(
            with_chunks(whole.data, FEW_CHUNKS),
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
        evaluation=replace(whole.evaluation, scenes=16, chunks=FEW_CHUNKS, every_s=1e9),
        commit_every_s=150,
    )


def memory_then_bank() -> TrainConfig:
    """`memory_first` gone on with for twelve minutes, with the bank and its fine sweep, cooled.

    What its tokens say of depth was learned over fixed depths and is now added to an opinion over
    each view's own; they have to learn that anew.
    """
    before, later = memory_first(), fine_sweep()
    return replace(
        before,
        name="memory_then_bank",
        budget=Budget(seconds=720),
        start_from="memory_first",
        model=later.model,
        data=replace(
            before.data,
            stored_share=Ramp(0.15, 0.3, 1 / 6, 0.5),  # `first_light`'s, from 40 % of it on
            memory_share=constant(0.3),
        ),
        rate=RateSchedule(warm_up_steps=150, cooldown=0.6),
        loss=later.loss,
        seed=1,
    )


def _alone(ablation: TrainConfig) -> TrainConfig:
    """An ablation of `ablation_base` as one of `bank_off`."""
    name = f"alone_{ablation.name}"
    return replace(ablation, name=name, model=without_bank(ablation.model))


def alone_writes_all_three() -> TrainConfig:
    """Every chunk writes all three fast matrices, not w1 alone."""
    return _alone(writes_all_three())


def alone_step_one() -> TrainConfig:
    """Every write at full size (LaCT)."""
    return _alone(step_one())


def alone_no_foot_code() -> TrainConfig:
    """Rays by their Pluecker coordinates alone."""
    return _alone(no_foot_code())


def alone_single_chunk() -> TrainConfig:
    """All inputs as one set in every step."""
    return _alone(single_chunk())


def alone_no_depth() -> TrainConfig:
    """No depth in the loss."""
    return _alone(no_depth())


def alone_wide() -> TrainConfig:
    """384 wide instead of 256."""
    base = bank_off()
    return replace(base, name="alone_wide", model=replace(base.model, dim=384))


def alone_deep() -> TrainConfig:
    """Ten blocks instead of four."""
    base = bank_off()
    return replace(base, name="alone_deep", model=replace(base.model, stack="WTF" * 10))


def alone_adamw() -> TrainConfig:
    """The published optimiser: AdamW for the hidden matrices too, at half of the rate."""
    return replace(bank_off(), name="alone_adamw", optimiser=lact().optimiser)


def alone_long_cooldown() -> TrainConfig:
    """The rate falls over nine tenths of the run, as the published recipe's does."""
    base = bank_off()
    return replace(base, name="alone_long_cooldown", rate=replace(base.rate, cooldown=0.9))


def alone_half_rate() -> TrainConfig:
    """Muon at half of its rate."""
    base = bank_off()
    optimiser = replace(base.optimiser, muon_rate=0.5 * base.optimiser.muon_rate)
    return replace(base, name="alone_half_rate", optimiser=optimiser)


ALONE: tuple[Callable[[], TrainConfig], ...] = (
    alone_writes_all_three,
    alone_step_one,
    alone_wide,
    alone_deep,
    alone_no_foot_code,
    alone_single_chunk,
    alone_adamw,
    alone_long_cooldown,
    alone_half_rate,
    alone_no_depth,
)
MEMORY: tuple[Callable[[], TrainConfig], ...] = (memory_first, memory_then_bank, *ALONE)
