"""Laws of the codec: what is written is read, and what is read is a message or `Malformed`, whatever the bytes are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from schemas.catalog import messages
from schemas.commands import Command
from schemas.events import TaskEvent
from schemas.live import LiveEvent
from schemas.messages import Message
from schemas.requests import Reply
from schemas.resources import Resource
from schemas.task import State
from schemas.wire import Malformed, decode, decoder_of, encode
from tests.support.strategies import JSON, near, structs
from tests.support.wire_examples import FULL, examples

UNIONS: dict[str, Callable[[bytes], Any]] = {
    "State": decoder_of(State),
    "Command": decoder_of(Command),
    "TaskEvent": decoder_of(TaskEvent),
    "LiveEvent": decoder_of(LiveEvent),
    "Message": decoder_of(Message),
    "Reply": decoder_of(Reply),
    "Resource": decoder_of(Resource),
}
DECODERS: dict[str, Callable[[bytes], Any]] = {
    **UNIONS,
    **{message.__name__: decoder_of(message) for message in messages()},
}
BYTES_BY_NAME = {example.name: encode(example.value) for example in examples()}
every_message = pytest.mark.parametrize("message", messages(), ids=lambda message: message.__name__)
some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NESTED = 200_000
HOSTILE = (
    b"",
    b"\x00",
    b"\xff\xfe{}",
    b"nul",
    b"NaN",
    b"-Infinity",
    b"[" * NESTED,
    b'{"a":' * NESTED,
    b'{"type":"model.call.v1","a":' + b"[" * NESTED,
    b'{"kind":"Status","tools":[{"inputSchema":' + b'{"a":' * NESTED,
    b'{"kind":"Status","tools":[{"inputSchema":{"a":' + b"9" * 5000 + b"}}]}",
    b'{"kind":"Status","observedRevision":1e999}',
    b'{"kind":"Status","observedRevision":' + b"9" * 40 + b"}",
    b'{"limits":{"maxCost":"NaN"}}',
    b'{"limits":{"maxCost":"sNaN"}}',
    b'{"limits":{"maxCost":"Infinity"}}',
    b'{"limits":{"maxCost":"1e999999"}}',
    b'{"limits":{"maxCost":1e999999999}}',
    b'{"limits":{"deadlineSeconds":1e308}}',
    b'{"limits":{"deadlineSeconds":1e400}}',
    b'{"task":"\\ud800"}',
    b'{"task":"\xc3\x28"}',
    b'{"task":"a","task":7}',
    b'{"type":"task.cancel.v1","at":"2026-13-45T99:00:00Z"}',
    b'{"type":"task.cancel.v1","at":"2026-01-01T00:00:00"}',
    b'{"type":"task.cancel.v1","at":1}',
    b'{"type":"model.call.v1","type":"tool.run.v1"}',
)


def refuses_or_reads(data: bytes, decoder: Callable[[bytes], Any]) -> None:
    """Nothing else than `Malformed` comes out, and whatever is read can be written again."""
    try:
        value = decoder(data)
    except Malformed:
        return
    encode(value)


@every_message
@some
@given(data=st.data())
def test_what_is_written_is_read_again(message: type[msgspec.Struct], data: st.DataObject) -> None:
    value = data.draw(structs(message))
    written = encode(value)
    assert decode(written, message) == value
    assert encode(decode(written, message)) == written


@every_message
@some
@given(data=st.data())
def test_a_message_of_a_later_version_is_read_by_this_one(message: type[msgspec.Struct], data: st.DataObject) -> None:
    if message.__struct_config__.forbid_unknown_fields:
        return
    value = data.draw(structs(message))
    later = {**json.loads(encode(value)), "fieldOfALaterVersion": data.draw(JSON)}
    assert decode(json.dumps(later).encode(), message) == value


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_malformed_for_every_decoder(data: bytes) -> None:
    for decoder in DECODERS.values():
        refuses_or_reads(data, decoder)
    for decoder in UNIONS.values():
        with pytest.raises(Malformed):
            decoder(data)


@given(data=st.binary(max_size=200))
@example(data=b"{}")
@settings(deadline=None)
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decoder in DECODERS.values():
        refuses_or_reads(data, decoder)


@given(value=JSON)
@settings(deadline=None)
def test_any_json_is_a_message_or_malformed(value: object) -> None:
    data = json.dumps(value).encode()
    for decoder in DECODERS.values():
        refuses_or_reads(data, decoder)


@pytest.mark.parametrize("message", FULL, ids=lambda message: type(message).__name__)
@some
@given(data=st.data())
def test_a_damaged_message_is_a_message_or_malformed(message: msgspec.Struct, data: st.DataObject) -> None:
    refuses_or_reads(data.draw(near(encode(message))), decoder_of(type(message)))


@given(value=JSON, field=st.sampled_from(sorted(BYTES_BY_NAME)), data=st.data())
@settings(deadline=None)
def test_any_value_in_any_field_is_a_message_or_malformed(value: object, field: str, data: st.DataObject) -> None:
    content = json.loads(BYTES_BY_NAME[field])
    content[data.draw(st.sampled_from(sorted(content) or ["name"]))] = value
    for decoder in DECODERS.values():
        refuses_or_reads(json.dumps(content).encode(), decoder)
