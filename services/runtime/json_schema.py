"""JSON checked against a schema that comes from outside, in a bounded number of steps.

References leave the schema's document never; regular expressions are not run, because one can be made to take for
ever; and a check takes a bounded number of steps. A schema that cannot be used for any of these reasons is `Unusable`,
and whoever asks decides what follows. Pure: no clock, no input or output. It imports a library of some megabytes.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import attrs
import msgspec
from jsonschema import Draft202012Validator, exceptions, validators
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from referencing import Registry

STEPS_MAX = 20_000
"""Keywords that one check may look at."""
FLAW_STEPS_MAX = 100_000
"""The same for a schema that is itself looked at: its dialect's own schema has many keywords."""
PROBLEMS_MAX = 5
"""Problems named at once."""
PROBLEM_LENGTH_MAX = 400
SCHEMA_LENGTH_MAX = 1_000
_NOT_RUN = ("pattern", "patternProperties", "unevaluatedProperties")
"""Keywords that run regular expressions."""

_NOTHING_ELSE: Registry[Any] = Registry()
"""References are looked up in the schema itself and in the dialects' own schemas, and nowhere else."""
_extend: Callable[..., Any] = validators.extend  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped
_best_match: Callable[..., ValidationError | None] = exceptions.best_match  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped

_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class Unusable(Exception):
    """The schema cannot be used to check anything."""


class _Steps:
    """Counts the keywords that one check looks at. A check never yields to another, so one counter serves all."""

    taken = 0
    allowed = STEPS_MAX


def problems(schema: dict[str, Any], value: Any, *, steps_max: int = STEPS_MAX) -> list[str]:
    """What keeps `value` from fitting `schema`, a few at most, in words that a model can act on; raises `Unusable`."""
    _Steps.taken, _Steps.allowed = 0, steps_max
    try:
        kind = _bounded(validators.validator_for(schema, default=Draft202012Validator))
        validator = kind(schema, registry=_NOTHING_ELSE)
        found = [_deepest(error) for error in itertools.islice(validator.iter_errors(value), PROBLEMS_MAX)]
    except RecursionError as error:
        raise Unusable("its references go round in a circle") from error
    except Unusable:
        raise
    except Exception as error:  # a foreign schema fails in any way it likes: unknown types, references, wrong values
        raise Unusable(f"{type(error).__name__}: {error}"[:PROBLEM_LENGTH_MAX]) from error
    return [_say(error) for error in sorted(found, key=lambda error: error.json_path)]


def flaw_of(schema: dict[str, Any]) -> str:
    """Why nothing can be checked against `schema`, or nothing: it is no JSON Schema, or cannot be used."""
    if not isinstance(schema.get("$schema", ""), str):
        return "its $schema is not a string"
    try:
        meta = validators.validator_for(schema, default=Draft202012Validator).META_SCHEMA
        found = problems(cast("dict[str, Any]", meta), schema, steps_max=FLAW_STEPS_MAX)
        if not found:
            problems(schema, {})
    except Unusable as error:
        return str(error)
    return "it is no JSON Schema:\n" + "\n".join(found) if found else ""


@cache
def _bounded(kind: type[Validator]) -> Any:
    """A class of validators with every keyword counted and those left out that run regular expressions."""
    keywords: dict[str, _Keyword] = {}
    for name, keyword in kind.VALIDATORS.items():
        keywords[name] = _never if name in _NOT_RUN else _counted(name, keyword)
    bounded = _extend(kind, validators=keywords)
    bounded.evolve = attrs.evolve  # the original changes to another class where a schema names another dialect inside
    return bounded


def _never(_validator: Any, _value: Any, _instance: Any, _schema: Any) -> None:
    return None


def _counted(name: str, keyword: _Keyword) -> _Keyword:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        _Steps.taken += 1
        if _Steps.taken > _Steps.allowed:
            raise Unusable(f"checking it takes more than {_Steps.allowed} steps")
        if name == "additionalProperties" and "patternProperties" in schema:
            return None
        return keyword(validator, value, instance, schema)

    return counted


def _deepest(error: ValidationError) -> ValidationError:
    """What is most likely meant, if a schema offers alternatives."""
    return _best_match(iter([error])) or error


def _say(error: ValidationError) -> str:
    text = f"- at {error.json_path}: {_cut(error.message, PROBLEM_LENGTH_MAX)}"
    schema: Any = error.schema
    if isinstance(schema, dict):
        text += _near(error)
        text += f"\n  the schema there: {_cut(_json(schema), SCHEMA_LENGTH_MAX)}"
    return text


def _near(error: ValidationError) -> str:
    """Properties whose names are near to those that are not expected."""
    if error.validator != "additionalProperties":
        return ""
    schema, instance = cast("dict[str, Any]", error.schema), cast("dict[str, Any]", error.instance)
    known = [str(name) for name in schema.get("properties", ())]
    hints = [
        f"{near[0]!r} instead of {name!r}"
        for name in instance
        if name not in known and (near := difflib.get_close_matches(name, known, n=1))
    ]
    return f"; perhaps {', '.join(hints)}" if hints else ""


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return "(too deep to show)"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
