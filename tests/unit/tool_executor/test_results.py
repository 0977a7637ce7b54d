from __future__ import annotations

import base64
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.core.results import (
    IMAGE_BYTES_MAX,
    IMAGES_BYTES_MAX,
    IMAGES_MAX,
    NOTHING,
    RESULT_BYTES_MAX,
    Attachment,
    Reply,
    Text,
    cap,
    render,
    show,
    size_of_base64,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(92)


def test_texts_are_joined_by_lines() -> None:
    assert render(Reply(parts=(Text("one"), Text("two")))) == "one\ntwo"


def test_structured_content_stands_in_for_text_that_is_not_there() -> None:
    assert render(Reply(structured='{"a": 1}')) == '{"a": 1}'
    assert render(Reply(parts=(Text("a is 1"),), structured='{"a": 1}')) == "a is 1"
    audio = Attachment(kind="audio", mime_type="audio/wav", size=1234)
    assert render(Reply(parts=(audio,), structured='{"a": 1}')) == '[audio audio/wav, 1234 bytes]\n{"a": 1}'


def test_what_is_not_text_is_noted() -> None:
    parts = (
        Text("see"),
        Attachment(kind="image", mime_type="image/x-xbitmap", size=2, data="QUI="),
        Attachment(kind="audio", mime_type="audio/wav", size=9),
        Attachment(kind="resource", mime_type="text/x", size=5, name="file:///a", text="hello"),
        Attachment(kind="resource link", name="file:///b"),
    )
    assert render(Reply(parts=parts)).splitlines() == [
        "see",
        "[image image/x-xbitmap, 2 bytes, not shown: not an image of a kind that models see]",
        "[audio audio/wav, 9 bytes]",
        "[resource text/x, 5 bytes: file:///a]",
        "hello",
        "[resource link: file:///b]",
    ]


def image(data: bytes = PNG, *, kind: Literal["image", "resource"] = "image", size: int | None = None) -> Attachment:
    text = base64.b64encode(data).decode()
    return Attachment(kind=kind, mime_type="image/jpeg", size=len(data) if size is None else size, data=text)


def test_images_are_shown_as_what_their_bytes_are() -> None:
    shown = show(Reply(parts=(Text("see"), image(), image(b"\xff\xd8\xff\xe0"), image(kind="resource"))))
    assert shown.text.splitlines() == [
        "see",
        f"[image image/jpeg, {len(PNG)} bytes]",
        "[image image/jpeg, 4 bytes]",
        f"[resource image/jpeg, {len(PNG)} bytes]",
    ]
    assert [part.media_type for part in shown.images] == ["image/png", "image/jpeg", "image/png"]
    assert base64.b64decode(shown.images[0].data) == PNG


def test_images_are_bounded_in_number_and_size_and_must_be_images() -> None:
    many = show(Reply(parts=(image(),) * (IMAGES_MAX + 2)))
    assert len(many.images) == IMAGES_MAX
    assert many.text.count("not shown: a result has 8 images at most") == 2
    large = show(Reply(parts=(image(PNG + bytes(IMAGE_BYTES_MAX)), image())))
    assert (len(large.images), large.text.count("not shown: too large")) == (1, 1)
    full = PNG + bytes(IMAGE_BYTES_MAX - len(PNG))
    together = show(Reply(parts=(image(full), image(full), image(full))))
    assert sum(size_of_base64(part.data) for part in together.images) <= IMAGES_BYTES_MAX
    broken = Attachment(kind="image", mime_type="image/png", size=3, data="not base 64!")
    assert show(Reply(parts=(broken,))).text == "[image image/png, 3 bytes, not shown: not valid base 64]"


def test_the_whole_of_a_result_is_there_only_if_it_was_cut() -> None:
    assert show(Reply(parts=(Text("short"),))).whole == ""
    assert show(Reply(parts=(Text("x" * RESULT_BYTES_MAX),))).whole == ""
    long = "ä" * RESULT_BYTES_MAX
    shown = show(Reply(parts=(Text(long),)))
    assert shown.whole == long
    assert len(shown.text.encode()) <= RESULT_BYTES_MAX


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
