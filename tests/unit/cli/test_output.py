from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
import yaml

from schemas.resources import KINDS as APPLIED
from services.cli.exits import ExitCode, Stop
from services.cli.kinds import KINDS, kind_named, kinds_named
from services.cli.options import reflowed
from services.cli.render import as_yaml, fitted, plain_rows, show_documents
from services.cli.text import duration, money, one_line, safe, seconds_text
from services.cli.toolcalls import parse_name


def test_columns_are_aligned_and_nothing_is_cut() -> None:
    rows = plain_rows(("NAME", "STATUS"), [("a", "Ready"), ("a-long-name", ""), ("b", "x" * 200)])
    assert rows[:3] == ["NAME          STATUS", "a             Ready", "a-long-name"]
    assert rows[3] == "b             " + "x" * 200


def test_on_a_narrow_terminal_only_free_text_is_cut() -> None:
    header = ("NAME", "PHASE", "PREVIEW", "OUTPUT")
    row = ("helper-task-x7", "FinalAnswer", "p" * 40, "o" * 80)
    assert fitted(header, [row], 200) == [14, 11, 40, 80]
    assert fitted(header, [row], 100) == [14, 11, 33, 33]
    assert fitted(header, [row], 20) == [14, 11, 12, 12]


@pytest.mark.parametrize(
    "text", ["one line", "two\nlines", "ends\n", "trailing \nspace", "tab\t\nx", "  indented\nx", "\n", "é 🎉\nx", ""]
)
def test_yaml_reads_back_as_it_was(text: str) -> None:
    document = {"a": {"b": [text, 1, True, None]}}
    assert yaml.safe_load(as_yaml(document)) == document


def test_a_text_of_several_lines_is_a_block_in_yaml() -> None:
    assert as_yaml({"a": "one\ntwo\n"}) == "a: |\n  one\n  two\n"


def test_one_document_is_itself_and_several_are_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    show_documents([{"a": 1}], "json", single=True)
    show_documents([{"a": 1}], "yaml", single=False)
    assert capsys.readouterr().out == '{\n  "a": 1\n}\napiVersion: holdfast.dev/v1\nkind: List\nitems:\n- a: 1\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-5, "0s"), (59, "59s"), (60, "1m"), (250, "4m10s"), (7380, "2h3m"), (3601, "1h"), (432_000, "5d")],
)
def test_spans_are_told_in_their_two_largest_units(seconds: int, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12ms"), (1.26, "1.3s"), (125.0, "2m5s")])
def test_short_times_are_told_exactly_enough(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [("0", "$0.00"), ("1.5", "$1.50"), ("0.00042", "$0.00042")])
def test_small_amounts_are_not_rounded_away(amount: str, text: str) -> None:
    assert money(Decimal(amount)) == text


def test_what_a_model_says_cannot_drive_the_terminal() -> None:
    assert safe("a\x1b[31mb\r\nc\x07\u009b") == "a\ufffd[31mb\nc\ufffd\ufffd"
    assert one_line("a\n\n b\tc", 5) == "a b c"
    assert one_line("a longer text", 8) == "a longe…"


def test_every_kind_has_as_many_names_as_it_needs_and_none_twice() -> None:
    names = [name for info in KINDS for name in info.names]
    assert len(names) == len(set(names))
    assert kind_named("Agents").kind == "Agent"
    assert [info.kind for info in kinds_named("agents,LLM")] == ["Agent", "LLM"]
    assert {info.kind for info in kinds_named("all")} == {*APPLIED, "Task"}


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(Stop, match="did you mean agent") as caught:
        kind_named("agnet")
    assert caught.value.code == ExitCode.USAGE


def test_a_tool_calls_name_is_taken_apart_at_its_end() -> None:
    assert parse_name("a-r1-tc-02-r12-tc-03") == ("a-r1-tc-02", "r12", 3)
    assert parse_name("a-tc-03") is None


def test_help_keeps_examples_and_joins_the_lines_of_a_paragraph() -> None:
    assert (
        reflowed("One\ntwo.\n\n  first example\n  second\n\nLast.") == "One two.\n\n  first example\n  second\n\nLast."
    )
