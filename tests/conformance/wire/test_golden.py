"""The bytes of every message ever released stay readable, and say what they said."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from schemas.catalog import messages
from schemas.commands import Command
from schemas.events import TaskEvent
from schemas.export import reachable
from schemas.live import LiveEvent
from schemas.requests import Reply
from schemas.resources import Resource
from schemas.task import State
from schemas.wire import Malformed, Strict, decode, decoder_of, encode
from tests.support.strategies import default_of
from tests.support.wire_examples import FULL, GOLDEN, MINIMAL, Example, examples

EXAMPLES = list(examples())
UNIONS = (State, Command, TaskEvent, LiveEvent, Reply, Resource)
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
tagged = [example for example in EXAMPLES if example.value.__struct_config__.tag]
every_tagged_example = pytest.mark.parametrize("example", tagged, ids=[example.name for example in tagged])


def document(example: Example) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(example.path.read_bytes())
    return content


def decoded(content: object, example: Example) -> msgspec.Struct:
    return decode(json.dumps(content).encode(), type(example.value))


@every_example
def test_golden_bytes_decode_to_what_they_were_made_from(example: Example) -> None:
    assert decode(example.path.read_bytes(), type(example.value)) == example.value


@every_example
def test_golden_bytes_are_what_is_still_written(example: Example) -> None:
    assert encode(example.value) == example.path.read_bytes()


def test_every_message_of_the_catalogue_has_a_full_and_a_minimal_example() -> None:
    assert {type(value) for value in FULL} == set(messages())
    assert {type(value) for value in MINIMAL} == set(messages())


def test_every_golden_file_is_read_by_a_test() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {example.path.name for example in EXAMPLES}


@pytest.mark.parametrize("value", FULL, ids=lambda value: type(value).__name__)
def test_a_full_example_sets_every_field(value: msgspec.Struct) -> None:
    unset = [
        field.name
        for field in msgspec.structs.fields(value)
        if not field.required and getattr(value, field.name) == default_of(field)
    ]
    assert unset == []


def test_every_field_of_every_struct_is_set_in_some_example() -> None:
    """Also of those that messages are made of."""
    written: set[tuple[str, str]] = set()
    waiting: list[object] = [example.value for example in EXAMPLES]
    while waiting:
        value = waiting.pop()
        if isinstance(value, msgspec.Struct):
            for field in msgspec.structs.fields(value):
                waiting.append(part := getattr(value, field.name))
                if field.required or part != default_of(field):
                    written.add((type(value).__name__, field.name))
        elif isinstance(value, tuple | list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
    declared = {
        (kind.__name__, field.name)
        for kind in reachable(messages())
        for field in msgspec.structs.fields(kind)
        if len(get_args(field.type)) != 1 or get_origin(field.type) is not Literal
    }
    assert declared - written == set()


@pytest.mark.parametrize("value", MINIMAL, ids=lambda value: type(value).__name__)
def test_a_minimal_example_sets_no_field_that_has_a_default(value: msgspec.Struct) -> None:
    written = json.loads(encode(value)).keys() - {value.__struct_config__.tag_field}
    required = {field.encode_name for field in msgspec.structs.fields(value) if field.required}
    assert written == required


@every_example
def test_a_field_of_a_later_version_is_ignored_in_messages_and_refused_in_what_people_write(example: Example) -> None:
    content = {"fieldOfALaterVersion": {"deep": [1, "2", None]}, **document(example)}
    if isinstance(example.value, Strict):
        with pytest.raises(Malformed, match="fieldOfALaterVersion"):
            decoded(content, example)
    else:
        assert decoded(content, example) == example.value


@every_tagged_example
def test_an_unknown_tag_is_refused(example: Example) -> None:
    tag_field = str(example.value.__struct_config__.tag_field)
    for other in ("task.unknown.v9", "", 1, None):
        with pytest.raises(Malformed, match=tag_field):
            decoded({**document(example), tag_field: other}, example)


@every_tagged_example
def test_where_several_messages_are_possible_a_tag_tells_them_apart_and_a_missing_one_is_refused(
    example: Example,
) -> None:
    unions = [union for union in UNIONS if type(example.value) in get_args(union)]
    content = document(example)
    untagged = {key: value for key, value in content.items() if key != example.value.__struct_config__.tag_field}
    for union in unions:
        decode_union = decoder_of(union)
        assert decode_union(example.path.read_bytes()) == example.value
        with pytest.raises(Malformed):
            decode_union(json.dumps(untagged).encode())


@every_example
def test_a_missing_required_field_is_refused(example: Example) -> None:
    content = document(example)
    for field in msgspec.structs.fields(example.value):
        if field.required:
            rest = {key: value for key, value in content.items() if key != field.encode_name}
            with pytest.raises(Malformed, match=field.encode_name):
                decoded(rest, example)
