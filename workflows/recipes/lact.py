"""The published LaCT formulation and recipe on our data: what ours has to beat on the same card.

Formulation (arXiv 2505.23884, section 5 and its release): all three fast matrices written at full
step, by Muon; no frame bank, no depth; rays by their Pluecker coordinates alone; one direct colour
head. Recipe: all inputs as one set, 8 inputs and 8 targets, AdamW (0.9, 0.95) at 4e-4 with decay
0.05, warm-up, then down to nothing. Its LPIPS is left out: after minutes it costs PSNR.

Two things differ, both in its favour: attention in an image knows rows and columns, and colour and
rays have norms of their own.
"""

from __future__ import annotations

from dataclasses import replace

from everview.models.config import base312m
from everview.pipeline.training.config import LossConfig, OptimiserConfig, TrainConfig
from everview.pipeline.training.learning_rate import RateSchedule, constant
from everview.workflows.recipes.first_light import (
    FEW_CHUNKS,
    fine_sweep,
    first_light,
    with_chunks,
)


def lact() -> TrainConfig:
    """Ten layers at 384, 33M parameters: twenty minutes on the data of `first_light`."""
    ours = first_light()
    nothing = constant(0.0)
    return replace(
        ours,
        name="lact",
        model=replace(base312m(), stack="WTF" * 10, dim=384, foot_code=False),
        data=replace(with_chunks(ours.data, (1,)), memory_share=nothing),
        rate=RateSchedule(warm_up_steps=400, cooldown=0.9),
        optimiser=OptimiserConfig(hidden="adamw", adamw_rate=4e-4, weight_decay=0.05),
        loss=LossConfig(
            direct=nothing,
            depth=nothing,
            input_depth=nothing,
            confidence=nothing,
            charbonnier=nothing,
        ),
        evaluation=replace(ours.evaluation, scenes=16, chunks=(1,), every_s=1e9),
        commit_every_s=200,
    )


def beside_lact() -> TrainConfig:
    """What stands beside it: `first_light` with the model of `fine_sweep`, the same scenes and
    minutes."""
    ours = first_light()
    return replace(
        ours,
        name="beside_lact",
        model=fine_sweep().model,
        data=with_chunks(ours.data, FEW_CHUNKS),
        evaluation=replace(ours.evaluation, scenes=16, chunks=FEW_CHUNKS, every_s=1e9),
        commit_every_s=200,
    )


def lact_small() -> TrainConfig:
    """The same at 256, as wide as ours: more steps in the same time."""
    wide = lact()
    return replace(wide, name="lact_small", model=replace(wide.model, dim=256))
