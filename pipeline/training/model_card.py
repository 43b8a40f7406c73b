"""The card that goes with trained weights: data, budget, device and every number measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everview.pipeline.training.config import DataConfig, TrainConfig
from everview.pipeline.training.held_out import world_name


def model_card(config: TrainConfig, facts: Mapping[str, Any]) -> str:
    """Markdown. facts: `training_facts` of the run."""
    return "\n".join(
        [
            f"# {config.name}",
            "",
            f"Trained by `everview train {config.name}`, seed {config.seed}: {facts['step']} "
            f"steps, {facts['tokens'] / 1e6:.0f} M tokens, {facts['minutes']:.1f} minutes on "
            f"{_devices(facts)}; {facts['parameters'] / 1e6:.1f} M parameters.",
            "",
            "## Data",
            "",
            *_data(config),
            *_stages(config.data),
            *_held_out(config, facts["held_out_psnr"]),
            "",
        ]
    )


def _devices(facts: Mapping[str, Any]) -> str:
    ranks = facts["ranks"]
    return f"one {facts['device']}" if ranks == 1 else f"{ranks} ranks, {facts['device']} each"


def _data(config: TrainConfig) -> list[str]:
    total = sum(world.share for world in config.data.worlds)
    shares = ", ".join(f"{world_name(w)} {w.share / total:.0%}" for w in config.data.worlds)
    lines = [f"Procedural scenes, made while training: {shares}."]
    worlds = [world for world in config.data.worlds if world.share > 0]
    for feature in sorted({feature for world in worlds for feature in world.without}):
        which = "them" if all(feature in world.without for world in worlds) else "some of them"
        name = feature.replace("_", " ")
        lines.append(f"No {name} in {which}; the held-out scenes have them.")
    if config.data.shards:
        share = config.data.stored_share
        lines.append(
            f"Scenes from shards: {share.first:.0%} of all at first, {share.last:.0%} at last; of "
            "scanned objects every 8th name of the sorted list was never trained on."
        )
    return lines


def _stages(data: DataConfig) -> list[str]:
    """The curriculum, where there is one over resolution."""
    if {data.side(shape) for shape in data.shapes} == {data.size}:
        return []
    rows = [
        f"- {shape.start:.0%} to {shape.end:.0%} of the run: {shape.scenes} scenes of "
        f"{shape.inputs} inputs and {shape.targets} targets at {data.side(shape)} px"
        for shape in data.shapes
    ]
    return ["", "A step's episodes:", "", *rows]


def _held_out(config: TrainConfig, psnr: Mapping[str, float]) -> list[str]:
    """What was measured on them; nothing where nothing was, as of a trunk."""
    if not psnr:
        return []
    measured = config.evaluation
    return [
        "",
        "## Held-out procedural scenes",
        "",
        f"PSNR in dB at {config.data.side(measured)} px, {measured.inputs} inputs and "
        f"{measured.targets} targets, {measured.scenes} scenes a world whose seeds were never "
        "trained on. `causalN`: streamed in N chunks. Memory: without the frame bank.",
        *_averaging(config),
        "",
        *_table(psnr),
    ]


def _averaging(config: TrainConfig) -> list[str]:
    decay = config.optimiser.average_decay
    if decay is None:
        return []
    return [
        "",
        f"Measured, and the result of the run, is the running mean of the weights at a decay of "
        f"{decay:g} a step.",
    ]


def _table(psnr: Mapping[str, float]) -> list[str]:
    """World by schedule, `picture / memory alone`."""
    schedules = list(dict.fromkeys(name.split("/")[-2] for name in psnr))
    worlds = list(dict.fromkeys(name.split("/")[0] for name in psnr if name.count("/") == 2))
    rows = ["| world | " + " | ".join(schedules) + " |", "|---" * (len(schedules) + 1) + "|"]
    for label, prefix in [*((world, f"{world}/") for world in worlds), ("mean", "")]:
        cells = [
            f"{psnr[f'{prefix}{name}/rgb']:.2f} / {psnr[f'{prefix}{name}/memory_rgb']:.2f}"
            if f"{prefix}{name}/rgb" in psnr
            else ""
            for name in schedules
        ]
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    return rows
