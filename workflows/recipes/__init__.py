"""Recipes: functions that return a complete training configuration."""

from everview.workflows.recipes.registry import RECIPES, find_recipe

__all__ = ["RECIPES", "find_recipe"]
