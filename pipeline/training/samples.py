"""A sheet of pictures that shows what a model can do: one row a held-out scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everview.models.scene_model import SceneModel
from everview.pipeline.training.held_out import HeldOut, fixed_episode, known
from everview.pipeline.training.precision import mixed_precision, uncompiled

INPUTS_SHOWN = 3


@torch.no_grad()
def write_samples(
    model: SceneModel, held_out: HeldOut, path: Path, scenes: int = 3, chunks: int = 4
) -> Path:
    """A PNG of `scenes` scenes a world, in one set, or streamed in `chunks` chunks where the
    configuration measures streams.

    From left to right: inputs, the truth, the picture, the picture of the memory alone, the true
    and the predicted depth (near is bright).
    """
    was_training = model.training
    model.eval()
    rows: list[Tensor] = []
    _, schedule, measured = held_out.schedules()[-1]
    chunks = chunks if measured > 1 else 1
    with uncompiled(), mixed_precision(model.device):
        for world in held_out.scenes.values():
            pictures = []
            for bank in (True, False):
                episode = fixed_episode(world, held_out.config, chunks, bank)
                _, outputs = model.forward(episode, schedule)
                pictures.append(known(outputs.targets.rgb))
            inputs, truth = known(episode.inputs.images), known(episode.targets.images)
            true_depth = episode.gauge.depth_to_model(known(episode.targets.depth))
            log_depth = known(outputs.targets.log_depth)
            for scene in range(min(scenes, len(truth))):
                target = scene % truth.shape[1]
                shown = inputs[scene, :: max(1, inputs.shape[1] // INPUTS_SHOWN)][:INPUTS_SHOWN]
                depth = log_depth[scene, target].exp()
                columns = [*shown, truth[scene, target]]
                columns += [picture[scene, target] for picture in pictures]
                columns += [as_grey(true_depth[scene, target]), as_grey(depth)]
                rows.append(torch.cat([column.float() for column in columns], -1))
    model.train(was_training)
    sheet = (torch.cat(rows, -2).clamp(0, 1) * 255).round().byte()
    Image.fromarray(np.ascontiguousarray(sheet.permute(1, 2, 0).cpu().numpy())).save(path)
    return path


def as_grey(depth: Tensor) -> Tensor:
    """Depth [H, W] in gauge units as [3, H, W], 1 / (1 + d); black where unknown."""
    grey = torch.where(depth > 0, 1 / (1 + depth.float()), 0.0)
    return grey.expand(3, *grey.shape)
