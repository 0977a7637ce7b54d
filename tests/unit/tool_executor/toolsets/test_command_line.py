"""A model's arguments become a program's, and never anything else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.core.command_line import NoArguments, fill, places, split, with_prefix

ANY = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
"""What a program's argument can hold."""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  get  pods ", ["get", "pods"]),
        ("get pods\n", ["get", "pods"]),
        ("-n 'a b' \"c d\"", ["-n", "a b", "c d"]),
        ("--filter='x|y' \"a>b\" \\;", ["--filter=x|y", "a>b", ";"]),
        ("'$(id)' '`id`'", ["$(id)", "`id`"]),
        ("$HOME * ~ {a,b}", ["$HOME", "*", "~", "{a,b}"]),
        ('"a \\"q\\" b"', ['a "q" b']),
        ("''", [""]),
    ],
)
def test_a_line_is_split_and_nothing_in_it_is_expanded(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("get pods | head", "a pipe"),
        ("get pods > file", "a redirect"),
        ("cat < file", "a redirect"),
        ("a && b", "'&'"),
        ("a & ", "'&'"),
        ("a; b", "';'"),
        ("a\nb", "a new line"),
        ("(a)", "'('"),
        ("$(id)", "'('"),
        ("`id`", "a command inside of a command"),
        ('"$(id)"', "'$('"),
        ('"`id`"', "a command inside of a command"),
        ("'a' \"b\" | c", "a pipe"),
    ],
)
def test_what_only_a_shell_can_do_is_refused_with_words(line: str, what: str) -> None:
    with pytest.raises(NoArguments, match="without a shell") as caught:
        split(line)
    assert str(caught.value).startswith(f"There is {what} in the command")


@pytest.mark.parametrize("line", ["'open", '"open', "end\\"])
def test_a_line_that_does_not_end_is_refused(line: str) -> None:
    with pytest.raises(NoArguments, match="cannot be split"):
        split(line)


@given(st.lists(st.text(ANY, max_size=20), max_size=6))
def test_words_that_are_quoted_come_out_as_they_went_in(words: list[str]) -> None:
    assert split(shlex.join(words)) == words


@given(st.text(alphabet="ab '\"\\|&;<>()$`\n", max_size=12))
def test_whatever_is_accepted_is_what_a_shell_would_split_it_into(line: str) -> None:
    try:
        words = split(line)
    except NoArguments:
        return
    assert words == shlex.split(line)
    assert not set("|&;<>()") & set("".join(word for word in words if word in line.split()))


@pytest.mark.parametrize(
    ("prefix", "words", "whole"),
    [
        (["kubectl"], ["get", "pods"], ["kubectl", "get", "pods"]),
        (["kubectl"], ["kubectl", "get", "pods"], ["kubectl", "get", "pods"]),
        (["git", "log"], ["git", "log", "-1"], ["git", "log", "-1"]),
        (["git", "log"], ["git", "push"], ["git", "log", "git", "push"]),
        (["git", "log"], [], ["git", "log"]),
    ],
)
def test_a_model_may_repeat_the_program_or_not(prefix: list[str], words: list[str], whole: list[str]) -> None:
    assert with_prefix(prefix, words) == whole


@pytest.mark.parametrize(
    ("template", "values", "command"),
    [
        (("say", "{text}"), {"text": "a b; rm -rf / | $(x)"}, ["say", "a b; rm -rf / | $(x)"]),
        (("say", "{text}"), {"text": ""}, ["say", ""]),
        (("say", "--to={who}", "{n}"), {"who": "-x", "n": -3}, ["say", "--to=-x", "-3"]),
        (("say", "{text}", "--loud={loud}"), {"text": "x"}, ["say", "x"]),
        (("say", "{a}:{b}"), {"a": "1", "b": "2"}, ["say", "1:2"]),
        (("say", "{a}:{b}"), {"a": "1"}, ["say"]),
        (("say", "{text}"), {"text": "{other}", "other": "no"}, ["say", "{other}"]),
        (("say", "{flag}", "{some}"), {"flag": True, "some": ["a", 1]}, ["say", "true", '["a",1]']),
        (("say", "--", "{text}"), {"text": "-rf"}, ["say", "--", "-rf"]),
        (("awk", "{print}"), {}, ["awk"]),
        (("awk", "{ print }"), {}, ["awk", "{ print }"]),
    ],
)
def test_each_value_stays_one_argument(template: Sequence[str], values: Mapping[str, Any], command: list[str]) -> None:
    assert fill(template, values) == command


@pytest.mark.parametrize("template", [("git", "show", "{ref}"), ("x", "{ref}--", "y")])
def test_a_value_does_not_become_an_option(template: Sequence[str]) -> None:
    with pytest.raises(NoArguments, match="ref begins with '-'"):
        fill(template, {"ref": "--output=/etc/passwd"})


def test_a_nul_character_is_refused() -> None:
    with pytest.raises(NoArguments, match="NUL"):
        fill(("x", "{a}"), {"a": "b\0c"})


@given(st.text(ANY))
def test_a_value_never_makes_more_arguments(value: str) -> None:
    assert fill(("x", "--", "{a}", "end"), {"a": value}) == ["x", "--", value, "end"]


def test_the_places_of_a_command_are_found() -> None:
    assert places("--a={b}:{c_d}") == ["b", "c_d"]
    assert places("{ x } {1}") == []
