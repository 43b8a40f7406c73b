"""Paired ablations of `first_light`: one change each, everything else and every seed the same.

They run cooled, for equally many steps; the baseline of every comparison is `ablation_base`, and
`other_seed` says how much of a difference is chance. Four blocks instead of ten, as six more are
worth little to the picture (the campaign log, entry 16), and two numbers of chunks, which compile
in half the time. Entries 5, 8 and 9 of the log had ten, and 1 to 8 chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from everview.models.steps import ConstantStep
from everview.pipeline.training.config import Augmentation, EpisodeShape, SceneFeature, TrainConfig
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant
from everview.workflows.recipes.first_light import (
    FEW_CHUNKS,
    first_light,
    with_chunks,
    without_bank,
)


def ablation_base() -> TrainConfig:
    """`first_light`, short: what the ablations are compared with."""
    base = first_light()
    return replace(
        base,
        name="ablation_base",
        budget=Budget(steps=1000),
        model=replace(base.model, stack="WTF" * 4),
        data=with_chunks(base.data, FEW_CHUNKS),
        rate=RateSchedule(warm_up_steps=100),
        loss=replace(base.loss, perceptual=constant(0.0)),
        evaluation=replace(
            base.evaluation, scenes=16, chunks=FEW_CHUNKS, streams=(16,), every_s=1e9
        ),
        commit_every_s=1e9,
    )


def other_seed() -> TrainConfig:
    """The base with other weights, scenes and episodes: what differs by chance."""
    return replace(ablation_base(), name="other_seed", seed=1)


def _data(name: str, **changes: Any) -> TrainConfig:
    base = ablation_base()
    return replace(base, name=name, data=replace(base.data, **changes))


def memory_share_constant() -> TrainConfig:
    """A third of the targets asked of the memory alone, throughout."""
    return _data("memory_share_constant", memory_share=constant(0.3))


def strong_augmentation() -> TrainConfig:
    """The gauge turned by any angle and scaled by up to two, in every episode."""
    return _data("strong_augmentation", augmentation=Augmentation())


def long_warm_up() -> TrainConfig:
    """A warm-up over half the run."""
    base = ablation_base()
    return replace(base, name="long_warm_up", rate=replace(base.rate, warm_up_steps=500))


def short_cooldown() -> TrainConfig:
    """The rate falls over the last tenth alone."""
    base = ablation_base()
    return replace(base, name="short_cooldown", rate=replace(base.rate, cooldown=0.1))


def _model(name: str, **changes: Any) -> TrainConfig:
    base = ablation_base()
    return replace(base, name=name, model=replace(base.model, **changes))


def writes_all_three() -> TrainConfig:
    """Every chunk writes all three fast matrices instead of the last alone."""
    return _model("writes_all_three", memory_writes=("w0", "w1", "w2"))


def step_one() -> TrainConfig:
    """Every write at full size (LaCT) instead of 1/sqrt(chunks)."""
    return _model("step_one", step=ConstantStep(1.0))


def window_over_time() -> TrainConfig:
    """Every second W sees the last 6 and the first 2 frames instead of its own image."""
    return _model("window_over_time", stack="WTFSTF" * 2)


def window_for_memory() -> TrainConfig:
    """Every second T sees those frames instead; every W stays."""
    return _model("window_for_memory", stack="WTFWSF" * 2)


def shifted() -> TrainConfig:
    """`window_over_time`, and a chunk's tokens read the memory as it was before the chunk; frames
    of a chunk see each other through the window alone."""
    base = window_over_time()
    return replace(
        base,
        name="shifted",
        data=replace(base.data, schedules=(("shifted", 1.0),)),
        evaluation=replace(base.evaluation, causal="shifted"),
    )


def no_foot_code() -> TrainConfig:
    """Rays by their Pluecker coordinates alone, in the memory and in queries."""
    return _model("no_foot_code", foot_code=False)


def bank_off() -> TrainConfig:
    """No frame bank: the picture comes from the memory alone."""
    base = ablation_base()
    return replace(base, name="bank_off", model=without_bank(base.model))


def adamw() -> TrainConfig:
    """AdamW for the hidden matrices too."""
    base = ablation_base()
    return replace(base, name="adamw", optimiser=replace(base.optimiser, hidden="adamw"))


def _loss(name: str, **changes: Any) -> TrainConfig:
    base = ablation_base()
    return replace(base, name=name, loss=replace(base.loss, **changes))


def no_depth() -> TrainConfig:
    """No depth in the loss."""
    return _loss("no_depth", depth=constant(0.0), input_depth=constant(0.0))


def squared_error() -> TrainConfig:
    """Squared error of the picture to the end, without Charbonnier."""
    return _loss("squared_error", charbonnier=constant(0.0))


def charbonnier_throughout() -> TrainConfig:
    """Charbonnier from the first step, not from the middle."""
    return _loss("charbonnier_throughout", charbonnier=constant(0.1))


def perceptual_late() -> TrainConfig:
    """LPIPS for the last third; all others go without, as it needs AlexNet."""
    return _loss("perceptual_late", perceptual=Ramp(0.0, 0.05, 0.65, 0.7))


def few_targets() -> TrainConfig:
    """More scenes and fewer targets a step: 20 x (8 + 4), about the same tokens."""
    return _data("few_targets", shapes=(EpisodeShape(20, 8, 4, FEW_CHUNKS),))


def many_targets() -> TrainConfig:
    """Fewer scenes and more targets a step: 12 x (8 + 12), about the same tokens."""
    return _data("many_targets", shapes=(EpisodeShape(12, 8, 12, FEW_CHUNKS),))


def small_views_first() -> TrainConfig:
    """Four times the scenes at 64 px for the first 40 % of the run, about the same tokens."""
    early = EpisodeShape(64, 8, 8, FEW_CHUNKS, end=0.4, size=64)
    late = EpisodeShape(16, 8, 8, FEW_CHUNKS, start=0.4)
    return _data("small_views_first", shapes=(early, late))


def averaged() -> TrainConfig:
    """Measured and published is a running mean of the weights, over about 100 steps."""
    base = ablation_base()
    return replace(base, name="averaged", optimiser=replace(base.optimiser, average_decay=0.99))


def single_chunk() -> TrainConfig:
    """All inputs in one chunk, as the set schedule; measured on streams too."""
    return _data("single_chunk", shapes=(EpisodeShape(16, 8, 8, (1,)),))


def _left_out(name: str, feature: SceneFeature) -> TrainConfig:
    worlds = ablation_base().data.worlds
    return _data(name, worlds=tuple(replace(world, without=(feature,)) for world in worlds))


def no_cuts() -> TrainConfig:
    """No boolean cuts in the training scenes; the held-out ones keep them."""
    return _left_out("no_cuts", "boolean_cuts")


def no_rooms() -> TrainConfig:
    """Objects and tables alone in training; the held-out worlds keep rooms."""
    worlds = ablation_base().data.worlds
    kept = (replace(w, share=0.0) if w.name == "room" else w for w in worlds)
    return _data("no_rooms", worlds=tuple(kept))


def no_height_fields() -> TrainConfig:
    """Smooth bodies for displaced ones in the training scenes; the held-out ones keep them."""
    return _left_out("no_height_fields", "height_fields")


def no_textures() -> TrainConfig:
    """Every surface of one colour in the training scenes; the held-out ones keep textures."""
    return _left_out("no_textures", "textures")


def no_lights() -> TrainConfig:
    """Surfaces show their own colour in the training scenes; the held-out ones keep lights."""
    return _left_out("no_lights", "lights")


ABLATIONS: tuple[Callable[[], TrainConfig], ...] = (
    ablation_base,
    other_seed,
    memory_share_constant,
    strong_augmentation,
    long_warm_up,
    short_cooldown,
    writes_all_three,
    step_one,
    window_over_time,
    window_for_memory,
    shifted,
    no_foot_code,
    bank_off,
    adamw,
    no_depth,
    squared_error,
    charbonnier_throughout,
    perceptual_late,
    few_targets,
    many_targets,
    small_views_first,
    averaged,
    single_chunk,
    no_cuts,
    no_height_fields,
    no_textures,
    no_lights,
    no_rooms,
)
