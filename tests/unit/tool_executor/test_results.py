from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.core.results import (
    NOTHING,
    RESULT_BYTES_MAX,
    Attachment,
    Reply,
    Text,
    cap,
    render,
    size_of_base64,
)


def test_texts_are_joined_by_lines() -> None:
    assert render(Reply(parts=(Text("one"), Text("two")))) == "one\ntwo"


def test_structured_content_stands_in_for_text_that_is_not_there() -> None:
    assert render(Reply(structured='{"a": 1}')) == '{"a": 1}'
    assert render(Reply(parts=(Text("a is 1"),), structured='{"a": 1}')) == "a is 1"
    image = Attachment(kind="image", mime_type="image/png", size=1234)
    assert render(Reply(parts=(image,), structured='{"a": 1}')) == '[image image/png, 1234 bytes]\n{"a": 1}'


def test_what_is_not_text_is_noted() -> None:
    parts = (
        Text("see"),
        Attachment(kind="image", mime_type="image/png", size=1234),
        Attachment(kind="audio", mime_type="audio/wav", size=9),
        Attachment(kind="resource", mime_type="text/x", size=5, name="file:///a", text="hello"),
        Attachment(kind="resource link", name="file:///b"),
    )
    assert render(Reply(parts=parts)).splitlines() == [
        "see",
        "[image image/png, 1234 bytes]",
        "[audio audio/wav, 9 bytes]",
        "[resource text/x, 5 bytes: file:///a]",
        "hello",
        "[resource link: file:///b]",
    ]


def test_nothing_at_all_is_said_to_be_nothing() -> None:
    assert render(Reply()) == render(Reply(parts=(Text(""),))) == NOTHING


def test_a_result_that_is_too_long_keeps_its_head_and_tail_and_says_how_much_is_missing() -> None:
    text = "HEAD" + "x" * 200_000 + "TAIL"
    capped = cap(text)
    assert capped.startswith("HEADxxx")
    assert capped.endswith("xxxTAIL")
    missing = len(text) - (len(capped) - len(_notice(capped)))
    assert f"{missing} of {len(text)} bytes were left out" in capped
    assert len(capped.encode()) <= RESULT_BYTES_MAX


def _notice(capped: str) -> str:
    return capped[capped.index("\n[...") : capped.index("...]\n") + len("...]\n")]


@given(st.text(max_size=3000), st.integers(200, 2000))
def test_a_result_is_never_longer_than_its_limit_and_a_short_one_is_untouched(text: str, limit: int) -> None:
    capped = cap(text, limit)
    size = len(text.encode())
    assert len(capped.encode()) <= limit
    if size <= limit:
        assert capped == text
    else:
        notice = _notice(capped)
        head, tail = capped.split(notice)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert f"[... {size - len(head.encode()) - len(tail.encode())} of {size} bytes" in notice


@given(st.text(alphabet=st.characters(codec=None), max_size=50))
def test_text_that_is_no_unicode_can_still_be_stored(text: str) -> None:
    cap(text).encode()
    cap(text, 10).encode()


@given(st.binary(max_size=100))
def test_the_size_of_base_64_is_known_without_decoding(data: bytes) -> None:
    assert size_of_base64(base64.b64encode(data).decode()) == len(data)
