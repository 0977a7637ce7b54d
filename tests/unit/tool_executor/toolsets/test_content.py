"""What bytes are, and secrets that are not said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.redaction import REDACTED, redact, redact_cut
from services.tool_executor.core.content import text_of

SECRET = "s3cr3t-value-of-a-key"


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        (b"plain", "", "plain"),
        ("grüß".encode(), "", "grüß"),
        ("\ufeffmark".encode(), "", "mark"),
        ("grüß".encode("latin-1"), "", None),
        ("grüß".encode("latin-1"), "iso-8859-1", "grüß"),
        (b"a\0b", "", None),
        ("a".encode("utf-16"), "utf-16", "a"),
        (b"x", "no-such-set", "x"),
        (b"x", "hex", "x"),
        (b"a-" * 50, "punycode", "a-" * 50),
        (b"\\x41", "unicode_escape", "\\x41"),
        (b"\xff", "utf-8", "\ufffd"),
    ],
)
def test_text_is_read_in_its_own_character_set(data: bytes, charset: str, text: str | None) -> None:
    assert text_of(data, charset) == text


@given(st.binary(max_size=200), st.text(max_size=20))
def test_no_bytes_and_no_name_of_a_set_break_it(data: bytes, charset: str) -> None:
    text_of(data, charset)


def test_secrets_are_taken_out_the_longest_first() -> None:
    assert redact(f"a {SECRET}-and-more b {SECRET}", [SECRET, f"{SECRET}-and-more"]) == f"a {REDACTED} b {REDACTED}"
    assert redact("short", ["short"]) == "short"


@pytest.mark.parametrize("cut", range(1, len(SECRET)))
def test_no_half_of_a_secret_is_left_where_text_was_cut(cut: int) -> None:
    head, tail = redact_cut(f"head {SECRET[:cut]}", f"{SECRET[cut:]} tail", [SECRET])
    assert head == f"head {REDACTED}"
    assert tail == f"{REDACTED} tail"


def test_text_that_was_cut_elsewhere_stays() -> None:
    assert redact_cut("head", "tail", [SECRET]) == ("head", "tail")
