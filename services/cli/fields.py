"""Plain data against a struct: unknown fields by name, wrong types in plain words, all of them at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from services.cli.yamldoc import FieldPath, Plain, spelled

T = TypeVar("T", bound=msgspec.Struct)

PROBLEMS_MAX = 20
"""Wrong values reported for one document."""
MISSING = "required and missing"
_PLAIN = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_EXPECTED = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<got>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_PATH_PART = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<place>\d+)\]")


class FieldProblem(NamedTuple):
    """What is wrong with a field."""

    path: FieldPath
    message: str


def convert(data: Plain, kind: type[T]) -> tuple[T | None, list[FieldProblem]]:
    """`data` as a `kind`, or what is wrong with it. A field that is null counts as not given."""
    info = inspect.type_info(kind)
    problems: list[FieldProblem] = []
    cleaned = _clean(data, info, (), problems)
    while len(problems) < PROBLEMS_MAX:
        try:
            value = msgspec.convert(cleaned, kind)
        except msgspec.ValidationError as error:
            problem = _explain(str(error), cleaned, info)
            if any(known.path == problem.path for known in problems):
                break
            if not _explained_already(problem, problems):
                problems.append(problem)
            if not _drop(cleaned, problem.path):
                break
        else:
            return (None if problems else value), problems
    return None, problems


def _clean(value: Plain, info: inspect.Type, path: FieldPath, problems: list[FieldProblem]) -> Plain:
    """`value` without unknown fields, which are noted, and without nulls."""
    match _matching(value, info):
        case inspect.StructType() as struct if isinstance(value, dict):
            fields = {field.encode_name: field for field in struct.fields}
            allowed = {*fields, struct.tag_field} if struct.tag_field else {*fields}
            found: dict[str, Plain] = {}
            for name, item in value.items():
                if name not in allowed:
                    problems.append(FieldProblem((*path, name), _unknown(name, sorted(allowed), path)))
                elif name in fields and item is not None:
                    found[name] = _clean(item, fields[name].type, (*path, name), problems)
                elif item is not None:
                    found[name] = item
            return found
        case inspect.ListType() | inspect.VarTupleType() as sequence if isinstance(value, list):
            return [_clean(item, sequence.item_type, (*path, n), problems) for n, item in enumerate(value)]
        case inspect.DictType() as mapping if isinstance(value, dict):
            return {key: _clean(item, mapping.value_type, (*path, key), problems) for key, item in value.items()}
        case _:
            return value


def _matching(value: Plain, info: inspect.Type) -> inspect.Type:
    """The member of a union that a value of this shape would have to be."""
    if isinstance(info, inspect.UnionType):
        for member in info.types:
            if isinstance(value, dict) and isinstance(member, inspect.StructType) and member.tag is not None:
                if value.get(member.tag_field or "") == member.tag:
                    return member
            elif isinstance(value, dict) and isinstance(member, inspect.StructType | inspect.DictType):
                return member
            if isinstance(value, list) and isinstance(member, inspect.ListType | inspect.VarTupleType):
                return member
    return info


def _unknown(name: str, allowed: list[str], path: FieldPath) -> str:
    near = difflib.get_close_matches(name, allowed, n=2, cutoff=0.5)
    inside = [field for field in allowed if name.lower() in field.lower()]
    if suggested := list(dict.fromkeys([*near, *inside]))[:2]:
        return f"unknown field; did you mean {' or '.join(suggested)}?"
    return f"unknown field; {spelled(path) or 'a manifest'} has {', '.join(allowed)}"


def _explained_already(problem: FieldProblem, problems: list[FieldProblem]) -> bool:
    """True for a missing field when an unknown one beside it was taken for it."""
    field = str(problem.path[-1]) if problem.path else ""
    return problem.message == MISSING and any(
        known.path[:-1] == problem.path[:-1]
        and field in known.message.partition("did you mean ")[2].rstrip("?").split()
        for known in problems
    )


def _explain(text: str, data: Plain, info: inspect.Type) -> FieldProblem:
    said, _, where = text.rpartition(" - at ")
    if not said:
        said, where = text, ""
    path = _path(where)
    value = _at(data, path)
    if missing := _MISSING.search(said):
        return FieldProblem((*path, missing["field"]), MISSING)
    if expected := _EXPECTED.search(said):
        return FieldProblem(path, _wrong_type(expected["expected"], expected["got"], value))
    if choices := list(_choices(_type_at(info, path))):
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return FieldProblem(path, f"{value!r} is not one of {', '.join(choices)}{hint}")
    if "decimal" in said:
        return FieldProblem(path, f"{value!r} is not a number")
    return FieldProblem(path, said)


def _wrong_type(expected: str, got: str, value: Plain) -> str:
    wanted = [part.strip() for part in expected.split("|") if part.strip() != "null"]
    text = " or ".join(_PLAIN.get(part, part) for part in wanted)
    said = f"must be {text}, not {_PLAIN.get(got, got)}"
    if "str" in wanted and isinstance(value, bool | int | float):
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        return f'{said}; put it in quotes: "{shown}"'
    return said


def _path(text: str) -> FieldPath:
    """The path in an error's words (`$.spec.args[0]`); `[...]` is where the words do not say more."""
    known = text.strip("`").removeprefix("$").split("[...]", 1)[0]
    return tuple(part["name"] or int(part["place"]) for part in _PATH_PART.finditer(known))


def _at(data: Plain, path: FieldPath) -> Plain:
    for part in path:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _type_at(info: inspect.Type, path: FieldPath) -> inspect.Type:
    for part in path:
        members = info.types if isinstance(info, inspect.UnionType) else (info,)
        for member in members:
            if isinstance(member, inspect.StructType) and isinstance(part, str):
                info = next((field.type for field in member.fields if field.encode_name == part), info)
            elif isinstance(member, inspect.ListType | inspect.VarTupleType) and isinstance(part, int):
                info = member.item_type
    return info


def _choices(info: inspect.Type) -> Iterator[str]:
    for member in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(member, inspect.LiteralType):
            yield from (str(value) for value in member.values)


def _drop(data: Plain, path: FieldPath) -> bool:
    """Take a wrong value out, so that what else is wrong can be found; False if it is not there."""
    parent = _at(data, path[:-1]) if path else None
    name = path[-1] if path else None
    if isinstance(parent, dict) and isinstance(name, str) and name in parent:
        del parent[name]
        return True
    return False
