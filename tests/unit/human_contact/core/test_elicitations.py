"""Forms of tools' servers: every kind of field that the protocol has, and what is no form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.interactions import InteractionRequested
from services.human_contact.core.elicitations import (
    CHOICES_MAX,
    FIELDS_MAX,
    Choice,
    Field,
    Misfit,
    content_of,
    content_of_text,
    described,
    form_of,
    host_of,
)
from services.runtime.json_schema import problems

AT = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "title": "City", "description": "Where to?", "default": "Oslo", "minLength": 2},
        "mail": {"type": "string", "format": "email"},
        "nights": {"type": "integer", "minimum": 1, "default": 2},
        "budget": {"type": "number"},
        "breakfast": {"type": "boolean", "default": True},
        "room": {"type": "string", "enum": ["s", "d"], "enumNames": ["Single", "Double"]},
        "bed": {"oneOf": [{"const": "king", "title": "King"}, {"const": "twin", "title": "Twin"}]},
        "extras": {"type": "array", "items": {"type": "string", "enum": ["sauna", "bike"]}},
        "days": {"type": "array", "items": {"anyOf": [{"const": "mo", "title": "Monday"}]}},
    },
    "required": ["city", "nights"],
}
FORM: tuple[Field, ...] = form_of(SCHEMA) or ()


def asked(schema: dict[str, Any]) -> InteractionRequested:
    return InteractionRequested(
        namespace="n",
        task="t",
        interaction="r1.1.1",
        message="m",
        schema=schema,
        agent="a",
        tool="s__t",
        server="s",
        at=AT,
        expires=AT,
    )


def test_every_kind_of_field_is_read() -> None:
    city, mail, nights, budget, breakfast, room, bed, extras, days = FORM
    assert (city.label, city.help, city.required, city.default_text()) == ("City", "Where to?", True, "Oslo")
    assert (mail.kind, mail.format, mail.label, mail.required) == ("text", "email", "mail", False)
    assert (nights.kind, nights.default_text(), budget.kind) == ("integer", "2", "number")
    assert (breakfast.kind, breakfast.choices) == ("choice", (Choice(True, "Yes"), Choice(False, "No")))
    assert room.choices == (Choice("s", "Single"), Choice("d", "Double"))
    assert bed.choices == (Choice("king", "King"), Choice("twin", "Twin"))
    assert (extras.kind, extras.choices) == ("choices", (Choice("sauna", "sauna"), Choice("bike", "bike")))
    assert (days.kind, days.choices) == ("choices", (Choice("mo", "Monday"),))


def test_what_was_filled_in_is_the_content_and_what_is_empty_is_left_out() -> None:
    given: dict[int, str | list[int]] = {0: " Rome ", 1: "", 2: "3", 3: "99.5", 4: [1], 5: [], 6: [0], 7: [0, 1], 8: []}
    content = content_of(FORM, given)
    expected = {"city": "Rome", "nights": 3, "budget": 99.5, "breakfast": False, "bed": "king"}
    assert content == {**expected, "extras": ["sauna", "bike"]}
    assert problems(SCHEMA, content) == []


def test_what_is_wrong_is_said_of_each_field() -> None:
    with pytest.raises(Misfit) as misfit:
        content_of(FORM, {2: "two", 3: "NaN", 4: [7]})
    assert misfit.value.wrong == {
        0: "City: this is required.",
        2: "nights: two is not a whole number.",
        3: "budget: NaN is not a number.",
        4: "breakfast: choose one of what is there.",
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "object"}}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}},
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": [1]},
        {"type": "object", "properties": {}, "required": ["a"]},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(FIELDS_MAX + 1)}},
        {"type": "object", "properties": {"a": {"enum": [str(n) for n in range(CHOICES_MAX + 1)]}}},
        {
            "type": "object",
            "properties": {
                name: {"type": "array", "items": {"enum": [str(n) for n in range(CHOICES_MAX)]}} for name in "ab"
            },
        },
    ],
)
def test_what_is_no_flat_form_is_asked_for_as_json(schema: dict[str, Any]) -> None:
    assert form_of(schema) is None
    assert described(asked(schema)).startswith("A JSON object that fits this schema: ")


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not valid JSON"), ("[1]", "not a JSON object"), ("[" * 5000, "not valid")]
)
def test_json_that_is_no_object_is_said_so(text: str, words: str) -> None:
    with pytest.raises(Misfit, match=words):
        content_of_text(text)


def test_json_is_taken_as_it_is() -> None:
    assert content_of_text(' {"a": [1]}\n') == {"a": [1]}


def test_a_form_is_described_for_those_who_write_json() -> None:
    text = described(asked(SCHEMA))
    assert '"city": a text, required. City. Where to?. default "Oslo"' in text
    assert '"room": one of "s", "d", optional' in text
    assert '"extras": a list of some of "sauna", "bike"' in text
    assert '"mail": a text (email)' in text
    assert described(asked({"type": "object", "properties": {}})).endswith("{}")


def test_a_strangers_words_do_not_turn_round_what_is_read() -> None:
    hostile = {"type": "object", "properties": {"a": {"type": "string", "description": "\u202eolleh\x1b[2J"}}}
    text = described(asked(hostile))
    assert "\u202e" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.org/form", "example.org"),
        ("https://bank.example@evil.example/x", "evil.example"),
        ("https://EXAMPLE.org:8443/", "example.org"),
        ("https://[::1", ""),
        ("https://exam\u202eple.org/", "exam\\u202eple.org"),
    ],
)
def test_the_host_of_an_address_is_where_it_leads(url: str, host: str) -> None:
    assert host_of(url) == host


NAMES = st.text(min_size=1, max_size=5)
PROPERTIES = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "number", "integer", "boolean"])}),
    st.fixed_dictionaries({"type": st.just("string"), "enum": st.lists(st.text(), min_size=1, unique=True)}),
)


@given(st.dictionaries(NAMES, PROPERTIES, max_size=5), st.data())
def test_whatever_is_filled_in_is_content_that_fits_or_a_misfit(
    properties: dict[str, Any], data: st.DataObject
) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    form = form_of(schema)
    assert form is not None
    said = {
        n: [data.draw(st.integers(-1, 3))] if field.choices else data.draw(st.text(max_size=5))
        for n, field in enumerate(form)
    }
    try:
        content = content_of(form, said)
    except Misfit:
        return
    assert problems(schema, content) == []
