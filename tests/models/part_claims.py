"""What holds of every part that queries use of the bank's frames, for models that have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from everview.models.captured import EAGER_USES, CapturedQuery
from everview.models.queries import Query, View
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.weight_files import load_model, save_weights
from tests.models.scenes import episode, orbit, streamed
from tests.models.standin_recorder import StandIn


def answers_of_a_stream_are_an_episodes(
    model: SceneModel, size: tuple[int, int], picture: str, atol: float
) -> None:
    """picture: the colour output that is compared; and pictures of another size than the bank's."""
    seen = episode((2, 1), size=size)
    _, outs = model(seen, CHUNK_CAUSAL)
    view = model.freeze(streamed(model, seen))
    answered = model.query(Query(seen.targets.cameras, time_s=seen.targets.time_s), view)
    expected = getattr(outs.targets, picture).clamp(0, 1)
    torch.testing.assert_close(getattr(answered, picture), expected, rtol=0, atol=atol)
    larger = Query(seen.targets.cameras.resized(40, 24))
    assert model.query(larger, view).rgb.shape[-2:] == (24, 40)


def views_are_answered_alone_as_together(model: SceneModel) -> None:
    seen = episode(targets=4)
    view = model.freeze(streamed(model, seen))
    together = model.query(Query(seen.targets.cameras), view).rgb
    alone = [model.query(Query(seen.targets.cameras[:, i : i + 1]), view).rgb for i in range(4)]
    torch.testing.assert_close(torch.cat(alone, 1), together, rtol=0, atol=1e-5)


def views_that_went_on_and_were_frozen_once(model: SceneModel) -> tuple[View, View]:
    """The last of a stream that froze after every chunk, and that of one that froze all at once,
    which show the same."""
    seen = episode((2, 1, 2), batch=1)
    asked, state = Query(seen.targets.cameras), model.init_state(1)
    start = 0
    for count in seen.chunk_views:
        chunk = seen.inputs[start : start + count]
        gauge = seen.gauge if start == 0 else None
        state = model.observe(chunk.images, chunk.cameras, chunk.time_s, state, gauge=gauge)
        view, start = model.freeze(state), start + count
    fresh = SceneModel(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    once = fresh.freeze(state)
    one, other = model.query(asked, view).rgb, fresh.query(asked, once).rgb
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    return view, once


def the_memory_alone_knows_nothing_of_it(model: SceneModel, plain: SceneModel) -> None:
    """plain: the same weights, less the part."""
    seen = episode()
    asked = Query(seen.targets.cameras)
    one, other = (
        m.query(asked, m.freeze(streamed(m, seen)), ("rgb", "memory_rgb")) for m in (model, plain)
    )
    assert torch.equal(one.memory_rgb, other.memory_rgb)
    assert not torch.allclose(one.rgb, other.rgb, atol=1e-3)
    alone = replace(seen, bank_mask=torch.zeros(2, 2, dtype=torch.bool))
    one, other = (m(alone, CHUNK_CAUSAL)[1] for m in (model, plain))
    assert torch.equal(one.targets.rgb, other.targets.rgb)
    assert torch.equal(one.targets.log_depth, other.targets.log_depth)


def weights_survive(model: SceneModel, folder: Path) -> None:
    """A file of 32 bits."""
    seen = episode()
    back = load_model(save_weights(model, folder, "", bits=32))
    assert back.config == model.config
    assert back.fingerprint == model.fingerprint
    shown = [m.render(seen.targets.cameras, streamed(m, seen)).rgb for m in (model, back)]
    assert torch.equal(*shown)


def captured_queries_show_the_view_they_are_given(model: SceneModel) -> None:
    views = [model.freeze(streamed(model, episode((3,), batch=1, seed=seed))) for seed in range(2)]
    answer, asked = CapturedQuery(model, StandIn()), Query(orbit(1, 1))
    for view in (views[0],) * (EAGER_USES + 2) + (views[1], views[0]):
        assert torch.equal(answer(asked, view).rgb, model.query(asked, view).rgb)
    assert answer.captured.num_recorded == 1
