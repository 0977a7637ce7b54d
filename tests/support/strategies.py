"""Hypothesis strategies for every struct of the contract, made from its types."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as mi

from schemas.messages import IMAGE_TYPES, ImagePart
from schemas.requests import COUNT_MAX, DEADLINE_S_MAX, Limits
from schemas.resources import ApprovalRule, ContextPolicy, LLMLimits, QuotaSpec, Ref

INT64 = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MONEY = st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False)
INSTANTS = st.datetimes(
    datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the time zone
    datetime(9998, 12, 31),  # noqa: DTZ001
    timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INT64 | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)

ABOVE_ZERO = st.none() | st.integers(1, 2**63 - 1)
IMAGES = st.builds(ImagePart, media_type=st.sampled_from(IMAGE_TYPES), data=st.text(min_size=1)) | st.builds(
    ImagePart, url=st.text().map("https://images.example/{}".format)
)
NARROW: dict[type[msgspec.Struct], dict[str, st.SearchStrategy[Any]]] = {
    Limits: {
        "deadline_s": st.none() | st.floats(max_value=DEADLINE_S_MAX, allow_nan=False, allow_infinity=False),
        **dict.fromkeys(("max_turns", "max_tokens"), st.none() | st.integers(-(2**63), COUNT_MAX)),
    },
    LLMLimits: dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency"), ABOVE_ZERO),
    QuotaSpec: {
        **dict.fromkeys(("requests_per_minute", "tokens_per_minute", "max_tokens_per_day"), ABOVE_ZERO),
        "max_cost_per_day": st.none() | st.decimals(Decimal("0.01"), 10**12, allow_nan=False, allow_infinity=False),
        "weight": st.integers(1, 2**63 - 1),
    },
    ContextPolicy: {"threshold": st.floats(0.1, 1)},
    ApprovalRule: {"contact_channel": st.builds(Ref, name=st.text())},
}
"""Fields that take less than their types."""

SIMPLE: dict[type[mi.Type], st.SearchStrategy[Any]] = {
    mi.AnyType: JSON,
    mi.NoneType: st.none(),
    mi.BoolType: st.booleans(),
    mi.IntType: INT64,
    mi.FloatType: FINITE,
    mi.StrType: st.text(),
    mi.BytesType: st.binary(),
    mi.DecimalType: MONEY,
    mi.DateTimeType: INSTANTS,
}


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """What a field is when it is not written."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


@functools.cache
def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Values of a struct."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(kind):
        of_type = _of_type(mi.type_info(field.type))
        fields[field.name] = of_type if field.required else st.builds(default_of, st.just(field)) | of_type
    if kind is ImagePart:
        return IMAGES
    return st.builds(kind, **{**fields, **NARROW.get(kind, {})})


def _of_type(info: mi.Type) -> st.SearchStrategy[Any]:
    if type(info) in SIMPLE:
        return SIMPLE[type(info)]
    match info:
        case mi.StructType(cls=kind):
            return structs(kind)
        case mi.UnionType(types=types):
            return st.one_of([_of_type(part) for part in types])
        case mi.LiteralType(values=values):
            return st.sampled_from(values)
        case mi.VarTupleType(item_type=item):
            return st.lists(_of_type(item), max_size=3).map(tuple)
        case mi.TupleType(item_types=items):
            return st.tuples(*map(_of_type, items))
        case mi.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of_type(key), _of_type(value), max_size=3)
        case _:
            raise NotImplementedError(f"no strategy for {info}")


def near(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that were `content` before something happened to them."""
    places = st.integers(0, max(len(content) - 1, 0))
    return st.one_of(
        places.map(lambda at: content[:at]),
        st.tuples(places, st.binary(min_size=1, max_size=4)).map(lambda p: content[: p[0]] + p[1] + content[p[0] :]),
        st.tuples(places, st.integers(0, 255)).map(lambda p: content[: p[0]] + bytes([p[1]]) + content[p[0] + 1 :]),
        st.tuples(places, places).map(lambda p: content[: min(p)] + content[max(p) :]),
        st.tuples(places, places).map(lambda p: content[: max(p)] + content[min(p) :]),
    )
