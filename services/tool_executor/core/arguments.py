"""The arguments of a call: parsed, and checked against the tool's schema, with words that a model can act on.

The schema comes from outside. References leave the schema's document never; regular expressions are not run, because
one can be made to take for ever (the tool's server applies its own); and a check takes a bounded number of steps. A
schema that cannot be used for any of these reasons checks nothing: the server is the last judge of its arguments.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from services.runtime.json_schema import Unusable, problems


class BadArguments(ValueError):
    """Arguments that the tool would not take. The text says what is wrong and what would be right."""


def parse(arguments: str) -> dict[str, Any]:
    """The arguments as the model wrote them; nothing at all means none. Raises `BadArguments`."""
    if not arguments.strip():
        return {}
    try:
        value: Any = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadArguments(f"The arguments are not valid JSON: {error}. They must be one JSON object.") from error
    if not isinstance(value, dict):
        raise BadArguments(f"The arguments are {_kind(value)}; they must be one JSON object.")
    return cast("dict[str, Any]", value)


def check(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Raises `BadArguments` if `arguments` do not fit `schema`."""
    try:
        found = problems(schema, arguments)
    except Unusable:
        return
    if found:
        raise BadArguments("The arguments do not fit the tool's schema:\n" + "\n".join(found))


def unusable(schema: dict[str, Any]) -> str:
    """Why `schema` cannot check anything, or nothing."""
    try:
        problems(schema, {})
    except Unusable as error:
        return str(error)
    return ""


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case _:
            return "an array"
