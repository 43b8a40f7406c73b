"""From nothing once more, by what single changes were worth (the campaign log, entry 24).

Twenty minutes of `beside_lact` end where four stages of the `base` of then ended after 39, so what
comes next is a better start, not a fifth stage.
"""

from __future__ import annotations

from dataclasses import replace

from everview.pipeline.training.config import EpisodeShape, TrainConfig
from everview.pipeline.training.learning_rate import Ramp, constant
from everview.workflows.recipes.first_light import FEW_CHUNKS, with_bank
from everview.workflows.recipes.lact import beside_lact

_SMALL_UNTIL = 0.35
"""a little under the 0.4 of `small_views_first`: LPIPS and the cooldown need what is left"""


def second_light() -> TrainConfig:
    """`beside_lact` with four times the scenes at 64 px at first, fewer targets, a window over time
    in place of every second memory, Charbonnier from the first step; and for what people look at,
    more scans, and in the end as much LPIPS as `fine_sweep` has.

    A scene of the later steps is seen as often as one of `beside_lact` (`reuse` counts by the
    shape of the most scenes): 1.7 new scenes a step instead of 1.3.
    """
    before = beside_lact()
    late = EpisodeShape(20, 8, 4, FEW_CHUNKS, start=_SMALL_UNTIL)
    early = replace(late, scenes=4 * late.scenes, start=0.0, end=_SMALL_UNTIL, size=64)
    return replace(
        before,
        name="second_light",
        model=replace(before.model, stack="WTFWSF" * 5),
        data=replace(
            before.data,
            shapes=(early, late),
            reuse=before.data.reuse * early.scenes / late.scenes,
            stored_share=Ramp(0.15, 0.4, _SMALL_UNTIL, 0.7),
        ),
        loss=replace(before.loss, charbonnier=constant(0.1), perceptual=Ramp(0.0, 0.08, 0.65, 0.7)),
        evaluation=replace(before.evaluation, streams=(16,)),
    )


def wide_pixels() -> TrainConfig:
    """`second_light` with six blocks instead of ten, and wider networks at pixels: blocks are worth
    little to the picture (entry 16), and its errors lie at outlines (entry 11)."""
    before = second_light()
    model = replace(before.model, stack="WTFWSF" * 3)
    return replace(
        before,
        name="wide_pixels",
        model=with_bank(model, fine_channels=96, refine_channels=64),
    )


def third_light() -> TrainConfig:
    """`second_light`'s ten blocks with `wide_pixels`' networks: ten were better on scans, six with
    wide networks on most else (the campaign log, entry 26). All eight inputs are compared, and the
    memory is asked as often at first as at last, as `memory_share_constant` has it (with 0.3)."""
    before = wide_pixels()
    return replace(
        before,
        name="third_light",
        model=with_bank(replace(before.model, stack=second_light().model.stack), compared=8),
        data=replace(before.data, memory_share=constant(0.25)),
    )
