"""The forms that tools' servers ask people to fill in (MCP's elicitation), from schema to content. Pure.

The protocol's forms are flat objects of texts, numbers, yes or no, and choices. A schema that is anything else is no
form: then people are asked for the JSON object itself. Whether content fits the schema is decided where answers are
taken; here it is only read as what the schema says it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from schemas.interactions import InteractionRequested
from schemas.visible import visible

FIELDS_MAX = 25
CHOICES_MAX = 100
INPUTS_MAX = 150
"""Places to fill in, of one form; every box to tick is one."""
JSON_FIELD = "json"
"""The name of the one input where there is no form."""
NO_SECRETS = "Never put a password, a key or another secret into an answer: it goes to the server as it is."

Kind = Literal["text", "number", "integer", "choice", "choices"]
Format = Literal["", "email", "uri", "date", "date-time"]


class Choice(NamedTuple):
    """One of the values that there are to choose from."""

    value: Any
    label: str


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be filled in."""

    name: str
    kind: Kind
    label: str
    help: str = ""
    required: bool = False
    default: Any = None
    format: Format = ""
    choices: tuple[Choice, ...] = ()

    def default_text(self) -> str:
        """The default of a text or number, as it is typed."""
        if self.default is None or self.choices:
            return ""
        return self.default if isinstance(self.default, str) else msgspec.json.encode(self.default).decode()


class Misfit(ValueError):
    """What somebody filled in is not what is asked for: what is wrong, by the number of the field."""

    def __init__(self, wrong: Mapping[int, str]) -> None:
        super().__init__(" ".join(wrong.values()))
        self.wrong = wrong


class _Option(msgspec.Struct):
    const: Any
    title: str = ""


class _Items(msgspec.Struct, rename="camel"):
    enum: list[Any] = []
    one_of: list[_Option] = []
    any_of: list[_Option] = []
    enum_names: list[str] = []


class _Property(msgspec.Struct, rename="camel"):
    type: Literal["string", "number", "integer", "boolean", "array"] = "string"
    title: str = ""
    description: str = ""
    default: Any = None
    format: str = ""
    enum: list[Any] = []
    enum_names: list[str] = []
    one_of: list[_Option] = []
    any_of: list[_Option] = []
    items: _Items | None = None


class _Object(msgspec.Struct):
    properties: dict[str, _Property] = {}
    required: list[str] = []


def form_of(schema: Mapping[str, Any]) -> tuple[Field, ...] | None:
    """What is to be filled in; None if the schema is no form that people can be shown."""
    try:
        read = msgspec.convert(schema, _Object)
    except msgspec.ValidationError:
        return None
    if len(read.properties) > FIELDS_MAX or not set(read.required) <= read.properties.keys():
        return None
    fields = tuple(_field(name, one, required=name in read.required) for name, one in read.properties.items())
    known = tuple(field for field in fields if field is not None)
    inputs = sum(len(field.choices) if field.kind == "choices" else 1 for field in known)
    return known if len(known) == len(fields) and inputs <= INPUTS_MAX else None


def content_of(fields: tuple[Field, ...], given: Mapping[int, str | list[int]]) -> dict[str, Any]:
    """The object that was filled in; what is empty is left out. Raises `Misfit`.

    `given`, by the number of the field: a text, or the numbers of what was chosen.
    """
    content: dict[str, Any] = {}
    wrong: dict[int, str] = {}
    for n, field in enumerate(fields):
        said = given.get(n, "")
        try:
            value = _chosen(field, said) if isinstance(said, list) else _typed(field, said.strip())
        except ValueError as error:
            wrong[n] = f"{visible(field.label)}: {error}."
            continue
        if value is not None:
            content[field.name] = value
        elif field.required:
            wrong[n] = f"{visible(field.label)}: this is required."
    if wrong:
        raise Misfit(wrong)
    return content


def content_of_text(text: str) -> dict[str, Any]:
    """The object that somebody wrote as JSON; raises `Misfit`."""
    try:
        value: Any = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, RecursionError) as error:
        raise Misfit({0: f"This is not valid JSON: {error}."}) from error
    if not isinstance(value, dict):
        raise Misfit({0: "This is not a JSON object."})
    return value  # pyright: ignore[reportUnknownVariableType] - any JSON


def described(asked: InteractionRequested) -> str:
    """What an answer looks like that is written as JSON, in words."""
    schema = asked.schema or {}
    fields = form_of(schema)
    if fields is None:
        return f"A JSON object that fits this schema: {visible(msgspec.json.encode(schema).decode())}"
    if not fields:
        return "Nothing is to be filled in: the answer is {}"
    return "\n".join(["A JSON object with:", *(f"- {_described(field)}" for field in fields)])


def host_of(url: str) -> str:
    """Where an address leads; never who it pretends to be."""
    try:
        return visible(urlsplit(url).hostname or "")
    except ValueError:
        return ""


def server_line(asked: InteractionRequested) -> str:
    """Who asks, in a sentence of ours."""
    return f"The MCP server {visible(asked.server)} asks this, while it carries out {visible(asked.tool)}."


def _field(name: str, read: _Property, *, required: bool) -> Field | None:
    options = _options(read)
    if read.type == "array":
        options = _options(read.items) if read.items is not None else ()
        if not options:
            return None
    if len(options) > CHOICES_MAX:
        return None
    if read.type == "boolean":
        options = (Choice(True, "Yes"), Choice(False, "No"))
    kind: Kind = "text"
    if options:
        kind = "choices" if read.type == "array" else "choice"
    elif read.type in ("number", "integer"):
        kind = read.type
    return Field(
        name=name,
        kind=kind,
        label=read.title.strip() or name or "-",
        help=read.description,
        required=required,
        default=read.default,
        format=read.format if read.format in ("email", "uri", "date", "date-time") else "",  # type: ignore[arg-type]  # one of these
        choices=options,
    )


def _options(read: _Property | _Items) -> tuple[Choice, ...]:
    if titled := read.one_of or read.any_of:
        return tuple(Choice(one.const, one.title or _value_text(one.const)) for one in titled)
    names = read.enum_names if len(read.enum_names) == len(read.enum) else [_value_text(one) for one in read.enum]
    return tuple(Choice(value, name) for value, name in zip(read.enum, names, strict=True))


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _typed(field: Field, text: str) -> Any:
    if field.choices:
        return None
    if not text:
        return None
    match field.kind:
        case "integer":
            return _number(text, int, "a whole number")
        case "number":
            return _number(text, float, "a number")
        case _:
            return text


def _number(text: str, kind: type[int | float], what: str) -> int | float:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{visible(text[:40])} is not {what}") from error


def _chosen(field: Field, said: list[int]) -> Any:
    if any(not 0 <= n < len(field.choices) for n in said):
        raise ValueError("choose one of what is there")
    if field.kind == "choices":
        return [field.choices[n].value for n in said] if said or field.required else None
    return field.choices[said[0]].value if said else None


def _described(field: Field) -> str:
    kinds = {"text": "a text", "integer": "a whole number", "number": "a number"}
    what = kinds.get(field.kind, "")
    if field.choices:
        values = ", ".join(msgspec.json.encode(choice.value).decode() for choice in field.choices)
        what = f"{'a list of some of' if field.kind == 'choices' else 'one of'} {values}"
    what += f" ({field.format})" if field.format else ""
    words = [f"{msgspec.json.encode(field.name).decode()}: {what}, {'required' if field.required else 'optional'}"]
    words += [field.label] if field.label != field.name else []
    words += [field.help] if field.help else []
    words += [f"default {msgspec.json.encode(field.default).decode()}"] if field.default is not None else []
    return visible(". ".join(words))
