"""`--config`: the same keys as the flags, checked, overridden by the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tyro

from everview.pipeline.errors import UsageError
from everview.workflows.cli.arguments import CommonFlags, parse


@dataclass(frozen=True)
class Inner:
    """A nested part."""

    learning_rate: float = 0.1
    is_on: bool = True


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """A verb."""

    capture: tyro.conf.Positional[str]
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


def parsed(tmp_path: Path, text: str, *words: str) -> Arguments:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return parse(Arguments, ["--config", str(file), *words], prog="everview verb")


def test_a_file_sets_nested_keys_lists_switches_and_the_positional(tmp_path: Path) -> None:
    text = "capture: fox\nsizes: [3, 4, 5]\nfresh: true\ninner: {learning_rate: 2e-3, is_on: false}"
    got = parsed(tmp_path, text)
    assert got == Arguments(
        capture="fox", sizes=(3, 4, 5), fresh=True, inner=Inner(learning_rate=2e-3, is_on=False)
    )


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    got = parsed(
        tmp_path, "capture: fox\ninner: {learning_rate: 2}", "cat", "--inner.learning-rate", "3"
    )
    assert (got.capture, got.inner.learning_rate) == ("cat", 3.0)


def test_a_run_json_repeats_its_configuration(tmp_path: Path) -> None:
    text = '{"program": "everview", "verb": "verb", "config": {"capture": "fox", "sizes": [9]}}'
    assert parsed(tmp_path, text) == Arguments(capture="fox", sizes=(9,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sises: [1]", "did you mean `sizes`"),
        ("inner: {lerning_rate: 1}", "did you mean `inner.learning_rate`"),
        ("- a\n- b", "list"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("sizes: {a: 1}", "one value"),
    ],
)
def test_a_file_that_does_not_fit_is_a_usage_error_with_a_hint(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        parsed(tmp_path, text, "fox")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml can't be read"):
        parse(Arguments, ["--config", str(tmp_path / "nowhere.yaml")], prog="everview verb")


def test_a_wrong_type_in_a_file_is_exit_2(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as leaving:
        parsed(tmp_path, "inner: {learning_rate: fast}", "fox")
    assert leaving.value.code == 2
