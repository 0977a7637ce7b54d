"""Tools and arguments as every provider accepts them."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.resources import ToolInfo

MALFORMED = "malformed_arguments"
"""The key under which arguments that are no JSON object are said back to a provider that takes objects only."""


def parameters_of(info: ToolInfo) -> dict[str, Any]:
    """A tool's schema: an object with properties, also where the server describes none."""
    schema = info.input_schema
    if schema.get("type") != "object":
        return {"type": "object", "properties": {}}
    return schema if isinstance(schema.get("properties"), dict) else {**schema, "properties": {}}


def arguments_object(arguments: str) -> dict[str, Any]:
    """The arguments that a model wrote, as an object; what is none is told as it is, so that the model sees it."""
    try:
        value: Any = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return {MALFORMED: arguments}
    if not isinstance(value, dict):
        return {MALFORMED: arguments}
    fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] - any JSON object
    return fields
