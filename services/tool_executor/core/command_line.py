"""From what a model wrote to the arguments of a program, without a shell: split, never expanded.

A command line is split as a shell would split it. What only a shell can do (a pipe, a redirect, a second command, the
output of another command) is refused with words: it would otherwise reach the program as an odd argument.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_QUOTED = re.compile(r"""\\.|'[^']*'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
_OPERATOR = re.compile(r"[|&;<>()\n`]")
_INSERTED = re.compile(r"`|\$\(")
_NAMES = {"|": "a pipe", "<": "a redirect", ">": "a redirect", "`": "a command inside of a command", "\n": "a new line"}
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")


class NoArguments(ValueError):
    """What the model wrote cannot become the arguments of a program. The text says why."""


def split(line: str) -> list[str]:
    """The words of a command line, if they need no shell. Raises `NoArguments`."""
    inside = "".join(re.sub(r"\\.", "", found[1] or "") for found in _QUOTED.finditer(line))
    operator = _OPERATOR.search(_QUOTED.sub("", line.strip())) or _INSERTED.search(inside)
    if operator:
        what = _NAMES.get(operator[0], repr(operator[0]))
        raise NoArguments(
            f"There is {what} in the command, and this tool runs one program without a shell. Give the program's "
            "arguments alone; put what is meant as it stands into single quotes."
        )
    try:
        return shlex.split(line)
    except ValueError as error:
        raise NoArguments(f"The command cannot be split into words: {error}.") from error


def with_prefix(prefix: Sequence[str], words: Sequence[str]) -> list[str]:
    """The whole command: a model may or may not have repeated the program that it was told about."""
    return list(words) if list(words[: len(prefix)]) == list(prefix) else [*prefix, *words]


def places(element: str) -> list[str]:
    """The names of the arguments that an element of a command holds places for."""
    return _PLACE.findall(element)


def fill(template: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The command with values in its places: each stays one element, whatever is in it.

    An element whose value was not given is left out. Raises `NoArguments` for a value that the program would take for
    one of its options, unless a `--` before it says that no more of them follow.
    """
    filled: list[str] = []
    for element in template:
        names = places(element)
        if any(values.get(name) is None for name in names):
            continue
        text = _PLACE.sub(lambda found: _text(values[found[1]]), element)
        if text.startswith("-") and _PLACE.match(element) and "--" not in filled and _may_be_option(values[names[0]]):
            raise NoArguments(
                f"{names[0]} begins with '-', and the program would take it for an option. Another value is needed."
            )
        filled.append(text)
    return filled


def _may_be_option(value: Any) -> bool:
    return isinstance(value, str)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if "\0" in text:
        raise NoArguments("An argument holds a NUL character, which no program can be given.")
    return text
