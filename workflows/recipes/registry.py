"""All recipes by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from everview.pipeline.errors import UsageError
from everview.pipeline.training.config import TrainConfig
from everview.workflows.recipes.ablations import ABLATIONS
from everview.workflows.recipes.continued import CONTINUED
from everview.workflows.recipes.first_light import (
    fine_sweep,
    first_light,
    six_compared,
    tiny,
)
from everview.workflows.recipes.lact import beside_lact, lact, lact_small
from everview.workflows.recipes.memory import MEMORY
from everview.workflows.recipes.published import base, base_cooled, base_further, small
from everview.workflows.recipes.second_light import second_light, third_light, wide_pixels

RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        tiny,
        small,
        first_light,
        six_compared,
        fine_sweep,
        base,
        base_further,
        base_cooled,
        lact,
        lact_small,
        beside_lact,
        second_light,
        wide_pixels,
        third_light,
        *CONTINUED,
        *ABLATIONS,
        *MEMORY,
    )
}


def find_recipe(name: str) -> Callable[[], TrainConfig]:
    """The recipe called `name`. Raises UsageError with the nearest name."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 1, 0.0)
    raise UsageError(f"no recipe is called '{name}': did you mean '{near[0]}'?")
