"""From nothing once more, by what single changes were worth (the campaign log, entry 24).

Twenty minutes of `beside_lact` end where four stages of `base` ended after 39, so what comes next
is a better start, not a fifth stage.
"""

from __future__ import annotations

from dataclasses import replace

from everview.pipeline.training.config import EpisodeShape, TrainConfig
from everview.pipeline.training.learning_rate import Ramp, constant
from everview.workflows.recipes.lact import beside_lact
from everview.workflows.recipes.published import FEW_CHUNKS, with_bank

_SMALL_UNTIL = 0.35


def second_light() -> TrainConfig:
    """`beside_lact` with four times the scenes at 64 px at first, fewer targets, a window over time
    in place of every second memory, Charbonnier from the first step; and more scans, and LPIPS as
    `base` had it, for what people look at."""
    before = beside_lact()
    early = EpisodeShape(80, 8, 4, FEW_CHUNKS, end=_SMALL_UNTIL, size=64)
    late = EpisodeShape(20, 8, 4, FEW_CHUNKS, start=_SMALL_UNTIL)
    return replace(
        before,
        name="second_light",
        model=replace(before.model, stack="WTFWSF" * 5),
        data=replace(
            before.data, shapes=(early, late), stored_share=Ramp(0.15, 0.4, _SMALL_UNTIL, 0.7)
        ),
        loss=replace(before.loss, charbonnier=constant(0.1), perceptual=Ramp(0.0, 0.08, 0.65, 0.7)),
        evaluation=replace(before.evaluation, streams=(16,)),
    )


def wide_pixels() -> TrainConfig:
    """`second_light` with six blocks instead of ten and wider networks at pixels: blocks are worth
    little to the picture (entry 16), and its errors lie at outlines (entry 11)."""
    before = second_light()
    model = replace(before.model, stack="WTFWSF" * 3)
    return replace(
        before,
        name="wide_pixels",
        model=with_bank(model, fine_channels=96, refine_channels=64),
    )
