"""Benchmarks as programs."""

import pytest

from everview.pipeline.benchmarks.command import command, markdown
from everview.pipeline.errors import InputRejected


def test_an_error_is_one_sentence_and_the_exit_code_of_a_verb(capsys):
    def main() -> int:
        raise InputRejected("no such thing: give another")

    with pytest.raises(SystemExit) as ended:
        command("walk", main)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "walk: no such thing: give another\n"


def test_a_table_has_its_columns_above_a_rule():
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
