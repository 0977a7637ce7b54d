"""What a final answer has to look like, said to a provider: a schema that it holds the model to, or an instruction.

A provider's schema language is a part of JSON Schema, and what is outside of it is an error there. So a schema is sent
as a rule only where every keyword of it is known to be taken; any other is said to the model in words. The gateway
checks the answer in either case.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from schemas.messages import Message, SystemMessage
from schemas.requests import ResponseFormat

DEPTH_MAX = 64
_ABOUT = frozenset({"description", "title"})
_SHAPE = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref"}
)
_NUMBERS = frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}  # both families
)


class Dialect(NamedTuple):
    """The part of JSON Schema that a family of providers takes as a rule."""

    keywords: frozenset[str]
    all_required: bool
    """Every property must be required."""
    recursion: bool
    min_items_max: int


OPENAI = Dialect(
    keywords=_ABOUT | _SHAPE | _NUMBERS | {"pattern", "format", "minItems", "maxItems"},
    all_required=True,
    recursion=True,
    min_items_max=10**9,
)
ANTHROPIC = Dialect(
    keywords=_ABOUT | _SHAPE | {"format", "minItems"}, all_required=False, recursion=False, min_items_max=1
)


def sent_schema(wanted: ResponseFormat) -> dict[str, Any]:
    """The schema without the note on its language, which is no rule."""
    return {name: value for name, value in wanted.schema.items() if name != "$schema"}


def is_object(wanted: ResponseFormat) -> bool:
    """Whether the answer is an object: what every provider's schema must describe at its root."""
    return wanted.schema.get("type") == "object"


def qualifies(wanted: ResponseFormat, dialect: Dialect) -> bool:
    """Whether a provider of this dialect holds the model to the schema, all of it."""
    schema = sent_schema(wanted)
    definitions = schema.pop("$defs", {})
    if not wanted.strict or schema.get("type") != "object" or not isinstance(definitions, dict):
        return False
    named: dict[str, Any] = msgspec.convert(definitions, dict[str, Any])
    return all(_fits(part, dialect, named, frozenset(), 0) for part in (schema, *named.values()))


def _fits(part: object, dialect: Dialect, named: Mapping[str, Any], inside: frozenset[str], depth: int) -> bool:
    if not isinstance(part, dict) or depth > DEPTH_MAX:
        return False
    schema = msgspec.convert(part, dict[str, Any])
    if not schema.keys() <= dialect.keywords or not _is_schema(schema) or not _leaf_fits(schema, dialect):
        return False
    if "$ref" in schema and not _ref_fits(schema["$ref"], dialect, named, inside, depth):
        return False
    if "object" in _types(schema) and not _object_fits(schema, dialect):
        return False
    return all(_fits(inner, dialect, named, inside, depth + 1) for inner in _inner(schema))


def _is_schema(schema: Mapping[str, Any]) -> bool:
    """Whether it says what is meant, and each keyword has a value of its kind."""
    lists = [schema[name] for name in ("required", "enum", "anyOf") if name in schema]
    return (
        not schema.keys().isdisjoint({"type", "anyOf", "$ref", "enum", "const"})
        and all(isinstance(value, list) for value in lists)
        and all(isinstance(name, str) for name in schema.get("required", ()))
        and isinstance(schema.get("properties", {}), dict)
        and all(isinstance(name, str) and name in _TYPES for name in (_types(schema) if "type" in schema else ()))
    )


def _types(schema: Mapping[str, Any]) -> tuple[object, ...]:
    named = schema.get("type")
    return tuple(msgspec.convert(named, list[Any])) if isinstance(named, list) else (named,)


def _leaf_fits(schema: Mapping[str, Any], dialect: Dialect) -> bool:
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    least = schema.get("minItems", 0)
    return (
        all(value is None or isinstance(value, str | int | float) for value in values)
        and ("format" not in schema or schema["format"] in tuple(_FORMATS))
        and (isinstance(least, int) and least <= dialect.min_items_max)
        and ("array" not in _types(schema) or "items" in schema)
    )


def _object_fits(schema: Mapping[str, Any], dialect: Dialect) -> bool:
    if schema.get("additionalProperties") is not False:
        return False
    return not dialect.all_required or set(schema.get("required", ())) == schema.get("properties", {}).keys()


def _ref_fits(ref: object, dialect: Dialect, named: Mapping[str, Any], inside: frozenset[str], depth: int) -> bool:
    if dialect.recursion and ref == "#":
        return True
    name = str(ref).removeprefix("#/$defs/")
    if name == ref or name not in named:
        return False
    if dialect.recursion:
        return True  # the definition itself is looked at once
    return name not in inside and _fits(named[name], dialect, named, inside | {name}, depth + 1)


def _inner(schema: Mapping[str, Any]) -> Iterable[object]:
    yield from schema.get("properties", {}).values()
    yield from schema.get("anyOf", ())
    if "items" in schema:
        yield schema["items"]


# --- in words ---------------------------------------------------------------------------

INSTRUCTION = (
    "Your final answer must be JSON and nothing else: no text before or after it, no code fence. It must fit this JSON "
    "Schema:\n{schema}"
)


def instruction(wanted: ResponseFormat) -> str:
    """The format in words for the model; the same bytes in every turn."""
    return INSTRUCTION.format(schema=json.dumps(sent_schema(wanted), ensure_ascii=False))


def with_instructions(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The conversation with more instructions: at the end of its first ones, or in front of everything."""
    if messages and isinstance(messages[0], SystemMessage):
        first = messages[0].content
        joined = f"{first}\n\n{text}" if first.strip() else text
        return (SystemMessage(content=joined), *messages[1:])
    return (SystemMessage(content=text), *messages)
