"""The command for moving things: rows with and without a span, of the same views, on record."""

import json

import pytest
import torch

from everview.models.config import BankConfig, ModelConfig
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.pipeline.benchmarks.moving import COLUMNS, Moving, main


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(7)
    bank = BankConfig(capacity=6, hypotheses=4, features=8, groups=2, refine_channels=8)
    config = ModelConfig(stack="WTF", dim=32, attention_head_dim=32, bank=bank)
    model = SceneModel(config).eval().requires_grad_(False)
    return save_weights(model, tmp_path / "random", "random", bits=32)


def test_a_stream_of_moving_things_is_on_record_with_and_without_a_span(tmp_path, capsys, weights):
    out = tmp_path / "moving.json"
    words = "--worlds orbit --seeds 1 --frames 200 --size 16 --span 0 64 --device cpu"
    assert main([*words.split(), "--weights", str(weights), "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    one, several = told["rows"]
    assert (one["span"], one["segments"], one["disk_mib"], one["seam_ms"]) == (0, 1, 0, 0)
    assert (several["span"], several["segments"]) == (64, 3)  # views: 64, 8 + 56, 8 + 55
    assert several["disk_mib"] > 0
    assert several["seam_ms"] > 0
    assert one["first"]["picture_db"] != several["first"]["picture_db"]
    for row in (one, several):
        assert row["lost_db"] == row["first_then"]["picture_db"] - row["last"]["picture_db"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert printed[0].count(" | ") == len(COLUMNS) - 1


def test_crossed_views_are_of_moments_from_where_the_camera_was_at_others():
    moving = Moving.of("procedural://orbit?seed=1&frames=200&size=16&dynamic=true")
    for place, view in enumerate(moving.crossed):
        frame = moving.frames[view.index]
        assert view.time_s == frame.time_s
        aside = moving.frames[view.index + (-40, -20, -10, 10, 20, 40)[place % 6]]
        assert (view.camera.c2w_cv == aside.camera.c2w_cv).all()
        assert (view.image != frame.image).any()


def test_streams_too_short_to_have_two_ends_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--frames", "199"])
    assert "at least 200" in capsys.readouterr().err
