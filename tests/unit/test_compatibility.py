"""What docs/compatibility.md promises: that the tests which hold it exist, and that no case is left out."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
CASES = {
    "T": {*range(1, 27)} - {6, 20},
    "C": {*range(1, 12), 14, 15, 16},
    "A": {1, 2, 3, 5},
    "L": {1, 2},
    "M": {1, 2, 3, 4},
    "P": {1, 3, 4},
    "S": {*range(1, 7), 9},
    "E": {1},
    "X": {*range(1, 19)} - {15, 17},
}
"""The predecessor's cases. Numbers that are missing were of its inner workings."""
ROW = re.compile(r"^\| (?P<what>[^|]+?) \| (?P<verdict>[^|]+?) \| (?P<words>[^|]+?) \| (?P<tests>[^|]+?) \|$")
TEST = re.compile(r"`(tests/[\w/.]+\.py)::(test_\w+)`")


class Row:
    """One behaviour."""

    def __init__(self, match: re.Match[str]) -> None:
        self.what, self.verdict = match["what"], match["verdict"]
        self.words = match["words"]
        self.tests = TEST.findall(match["tests"])


def rows() -> Iterator[Row]:
    """The rows of all tables, without their heads."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        match = ROW.match(line)
        if match is not None and match["words"] != "what":
            yield Row(match)


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """The names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.what)
def test_what_is_said_is_held_by_tests_that_exist(row: Row) -> None:
    assert row.verdict in ("same", "better", "not offered")
    assert row.tests, "no test is named"
    for path, name in row.tests:
        assert (ROOT / path).is_file(), path
        assert name in names_in(path), f"{path} has no {name}"


def test_every_case_is_spoken_of_once() -> None:
    wanted = [f"{family}{number}" for family, numbers in CASES.items() for number in sorted(numbers)]
    assert [row.what for row in rows() if re.fullmatch(r"[A-Z]\d+", row.what)] == wanted


def test_a_row_is_a_row() -> None:
    """A table whose lines are not read would hold anything."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    heads = [line for line in lines if line.endswith("| what | held by |")]
    assert len(lines) - len(heads) == len(list(rows()))
