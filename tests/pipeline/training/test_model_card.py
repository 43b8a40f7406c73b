"""A card says what went into the weights, and what didn't."""

from __future__ import annotations

from dataclasses import replace

from everview.pipeline.training.config import World
from everview.pipeline.training.model_card import model_card
from everview.workflows.recipes.first_light import tiny

FACTS = {
    "step": 10,
    "tokens": 2_000_000,
    "minutes": 1.5,
    "device": "CPU",
    "ranks": 1,
    "parameters": 800_000,
    "held_out_psnr": {"set/rgb": 20.0, "set/memory_rgb": 15.0},
}


def card_of(*worlds: World) -> str:
    return model_card(replace(tiny(), data=replace(tiny().data, worlds=worlds)), FACTS)


def test_it_names_what_all_or_some_of_the_worlds_go_without() -> None:
    assert "the held-out scenes have them" not in card_of(World("orbit"), World("room"))
    bare = World("orbit", without=("boolean_cuts", "lights"))
    card = card_of(bare, World("room", without=("lights",)))
    assert "No lights in them; the held-out scenes have them." in card
    assert "No boolean cuts in some of them; the held-out scenes have them." in card
    unused = World("tabletop", share=0.0)
    assert "No boolean cuts in them;" in card_of(bare, unused)


def test_it_gives_shares_budget_and_device() -> None:
    card = card_of(World("orbit", share=3.0), World("room", trajectory="video", share=1.0))
    assert "orbit 75%, room-video 25%" in card
    assert "10 steps, 2 M tokens, 1.5 minutes on one CPU; 0.8 M parameters" in card
    shared = model_card(tiny(), {**FACTS, "ranks": 2})
    assert "1.5 minutes on 2 ranks, CPU each; 0.8 M parameters" in shared


def test_a_trunk_that_nothing_was_measured_of_has_no_table() -> None:
    assert "Held-out" in model_card(tiny(), FACTS)
    bare = model_card(tiny(), {**FACTS, "held_out_psnr": {}})
    assert "Held-out" not in bare
    assert not [line for line in bare.splitlines() if line.startswith("|")]
