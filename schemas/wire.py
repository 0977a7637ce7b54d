"""The base of everything on the wire, and the one place that encodes and decodes it.

JSON, camelCase, timestamps in RFC 3339, money as decimal strings in US dollars.
Unknown fields of messages are ignored, so that a rolling upgrade works; an unknown tag,
a missing field or a wrong type is an error, never a default.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""A point in time. One without an offset from UTC could not be compared with the others, so it is refused."""
MONEY_MAX = Decimal(10**12)


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every message: frozen, keyword-only, camelCase; defaults are not written."""


class Strict(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Base of what people write by hand (manifests, requests): an unknown field is an error."""


def check_money(what: str, value: Decimal | None) -> None:
    """Refuse what is no amount of money: not a number, infinite, or beyond any bill. Raises `ValueError`."""
    if value is not None and not (value.is_finite() and -MONEY_MAX <= value <= MONEY_MAX):
        raise ValueError(f"{what} is {value}; it must be an amount of US dollars")


class Malformed(ValueError):
    """Bytes that are not the message they should be. The text says where and why."""


_ENCODER = msgspec.json.Encoder(decimal_format="string")
_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(value: msgspec.Struct) -> bytes:
    """The JSON bytes of a message."""
    return _ENCODER.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """The message in `data`, which must be a `kind` (a struct or a union of tagged structs).

    Raises `Malformed`, whatever the bytes are.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
    return value


def decoder_of(union: Any) -> Callable[[bytes], Any]:
    """A decoder of a union of tagged structs, which is no type to a type checker; raises `Malformed`."""

    def decode_union(data: bytes) -> Any:
        return decode(data, union)

    return decode_union
