"""Signed links and ids of messages: nobody without the key makes one or changes one."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.human_contact.core.tokens import (
    BadToken,
    Link,
    ReplyTo,
    is_reply,
    keys_of,
    link_of,
    link_token,
    named_in_reply,
    reply_id,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
KEYS = (b"k" * 32, b"o" * 32)
LINK = Link("default", "t1", "r1.1.0", "digest", "accept", "oncall", "ann@example.com", int(NOW.timestamp()) + 60)
REPLY = ReplyTo("default", "t1", "r1.1.0", "oncall")


def test_a_link_says_what_it_was_made_for() -> None:
    assert link_of(KEYS, link_token(KEYS, LINK), NOW) == LINK


def test_a_key_that_was_used_before_still_counts_and_one_that_is_gone_does_not() -> None:
    token = link_token(KEYS[1:], LINK)
    assert link_of(KEYS, token, NOW) == LINK
    with pytest.raises(BadToken):
        link_of(KEYS[:1], token, NOW)


def test_a_link_ends() -> None:
    token = link_token(KEYS, LINK)
    assert link_of(KEYS, token, NOW + timedelta(seconds=59))
    with pytest.raises(BadToken, match="expired"):
        link_of(KEYS, token, NOW + timedelta(seconds=60))


@given(place=st.integers(0, 10_000), letter=st.sampled_from("ABCabc019-_.=%/ é"))
def test_no_change_of_a_link_passes(place: int, letter: str) -> None:
    token = link_token(KEYS, LINK)
    at = place % len(token)
    changed = token[:at] + letter + token[at + 1 :]
    if changed != token:
        with pytest.raises(BadToken):
            link_of(KEYS, changed, NOW)


@given(st.text(max_size=200))
def test_any_text_is_a_link_or_is_refused(text: str) -> None:
    with pytest.raises(BadToken):
        link_of(KEYS, text, NOW)


def test_a_link_that_names_no_task_is_refused() -> None:
    for bad in ("", "a.b", "a>", "*"):
        with pytest.raises(BadToken):
            link_of(KEYS, link_token(KEYS, msgspec.structs.replace(LINK, task=bad)), NOW)


def test_a_messages_id_is_the_same_each_time_and_for_its_receiver_only() -> None:
    id_ = reply_id(KEYS, REPLY, "ann@example.com", "holdfast.example")
    assert id_ == reply_id(KEYS, REPLY, "Ann@Example.com ", "holdfast.example")
    assert id_.endswith("@holdfast.example>")
    assert named_in_reply(id_) == REPLY
    assert is_reply(KEYS, id_, "ann@example.com")
    assert not is_reply(KEYS, id_, "eve@example.com")
    assert not is_reply((b"x" * 32,), id_, "ann@example.com")


def test_a_part_of_a_messages_id_is_none() -> None:
    id_ = reply_id(KEYS, REPLY, "ann@example.com", "holdfast.example")
    local = id_.partition("@")[0]
    for cut in range(len(local)):
        assert not is_reply(KEYS, f"{local[:cut]}@holdfast.example>", "ann@example.com")
    other = reply_id((b"x" * 32,), REPLY, "ann@example.com", "holdfast.example")
    mixed = f"{local.rpartition('.')[0]}.{other.rpartition('.')[2]}"
    assert not is_reply(KEYS, mixed, "ann@example.com")


@given(st.text(max_size=200))
def test_any_text_names_a_question_or_none(text: str) -> None:
    for id_ in (text, f"<holdfast.{text}@x>"):
        assert not is_reply(KEYS, id_, "ann@example.com")


def test_a_deep_id_names_nothing() -> None:
    for text in ("[" * 1400, "[" * 1400 + "]" * 10, '["a","b","c","d",' + "[" * 1300):
        payload = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        assert named_in_reply(f"<holdfast.{payload}.AAAA@x>") is None


def test_a_link_is_no_messages_id() -> None:
    token = link_token(KEYS, LINK)
    assert not is_reply(KEYS, f"<holdfast.{token}@holdfast.example>", "ann@example.com")


def test_a_key_is_long_enough() -> None:
    assert keys_of(f"{'a' * 32}\n\n{'b' * 40}\n") == (b"a" * 32, b"b" * 40)
    for bad in ("", "\n", "short"):
        with pytest.raises(ValueError, match=r"empty|fewer"):
            keys_of(bad)
