"""Whether a JSON value is exactly what a type of a provider's SDK says: nothing missing, nothing more, nothing else.

The SDKs read leniently (they keep unknown fields and fill in missing ones), so that a double would pass for a provider
that no provider is like. This reads the same types strictly: pydantic models, and the typed dictionaries of requests.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, Required, Union, cast, get_args, get_origin

import pydantic
from typing_extensions import get_type_hints, is_typeddict

Problems = list[str]
_LISTS = (list, Iterable, Sequence)


def problems(value: Any, kind: Any, at: str = "$") -> Problems:
    """Where and why `value` is not a `kind`; empty: it is."""
    kind = _bare(kind)
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return []
    if kind is None or kind is type(None):
        return _unless(value is None, at, value, "null")
    if origin is Literal:
        return _unless(value in get_args(kind), at, value, str(get_args(kind)))
    if origin in (Union, types.UnionType):
        return _any_of(value, get_args(kind), at)
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        fields = {name: (field.annotation, field.is_required()) for name, field in kind.model_fields.items()}
        return _fields(value, fields, at, kind.__name__)
    if is_typeddict(cast("Any", kind)):
        hints = get_type_hints(kind, include_extras=True)
        required: frozenset[str] = cast("Any", kind).__required_keys__
        return _fields(value, {name: (hint, name in required) for name, hint in hints.items()}, at, kind.__name__)
    if origin in (dict, Mapping) or kind is dict:
        inner = get_args(kind)[1] if get_args(kind) else Any
        if not isinstance(value, dict):
            return _unless(False, at, value, "an object")
        return [
            p for name, item in cast("dict[str, Any]", value).items() for p in problems(item, inner, f"{at}.{name}")
        ]
    if origin in _LISTS or getattr(origin, "__name__", "") == "SequenceNotStr":
        (inner,) = get_args(kind)
        if not isinstance(value, list):
            return _unless(False, at, value, "an array")
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # any JSON array
        return [p for n, item in enumerate(items) for p in problems(item, inner, f"{at}[{n}]")]
    return _plain(value, kind, at)


def _bare(kind: Any) -> Any:
    while get_origin(kind) in (Annotated, Required, NotRequired):
        kind = get_args(kind)[0]
    return kind


def _plain(value: Any, kind: Any, at: str) -> Problems:
    if kind is float:
        return _unless(isinstance(value, int | float) and not isinstance(value, bool), at, value, "a number")
    if kind is int:
        return _unless(isinstance(value, int) and not isinstance(value, bool), at, value, "an integer")
    if kind is datetime:
        return _unless(_is_time(value), at, value, "a time")
    if kind in (str, bool):
        return _unless(isinstance(value, kind), at, value, kind.__name__)
    return [f"{at}: this type is not read by the double's check: {kind}"]


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _fields(value: Any, fields: Mapping[str, tuple[Any, bool]], at: str, name: str) -> Problems:
    if not isinstance(value, dict):
        return _unless(False, at, value, name)
    given = cast("dict[str, Any]", value)
    found = [f"{at}.{key}: {name} has no such field" for key in given if key not in fields]
    found += [
        f"{at}.{key}: missing in {name}" for key, (_, required) in fields.items() if required and key not in given
    ]
    for key, (kind, _) in fields.items():
        if key in given:
            found += problems(given[key], kind, f"{at}.{key}")
    return found


def _any_of(value: Any, kinds: Iterable[Any], at: str) -> Problems:
    """The problems with the kind that fits best."""
    tries = [problems(value, kind, at) for kind in kinds]
    return min(tries, key=lambda found: (any(f.startswith((f"{at}.type:", f"{at}.role:")) for f in found), len(found)))


def _unless(good: bool, at: str, value: Any, wanted: str) -> Problems:
    return [] if good else [f"{at}: {str(value)[:60]!r} is not {wanted}"]
