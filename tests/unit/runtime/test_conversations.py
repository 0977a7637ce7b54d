"""Which names of threads are a channel's own."""

from __future__ import annotations

import pytest

from services.runtime.conversations import mail_thread, slack_thread

TS = "1700000000.000100"


@pytest.mark.parametrize(
    ("thread_id", "place", "thread"),
    [
        ("", "", ""),
        (TS, "", TS),
        ("17.1", "", ""),
        ("TICKET-17", "", ""),
        (f" {TS}", "", ""),
        (f"{TS}\n", "", ""),
        (TS, "C1:1800000000.2:1800000000.1", "1800000000.1"),
        (TS, "1800000000.1", "1800000000.1"),
        ("TICKET-17", "<a@example.com>", ""),
        (TS, "<a@example.com>", TS),
    ],
)
def test_a_slack_thread_is_a_places_or_else_an_id_that_is_a_whole_time(thread_id: str, place: str, thread: str) -> None:
    assert slack_thread(thread_id, place) == thread


@pytest.mark.parametrize(
    ("thread_id", "place", "thread"),
    [
        ("", "", ""),
        ("<a.b+c=d@mail.example.com>", "", "<a.b+c=d@mail.example.com>"),
        ("a@example.com", "", ""),
        ("<a@example.com>\r\nBcc: eve@example.com", "", ""),
        ("<a@example.com> <b@example.com>", "", ""),
        ("<a@b@c>", "", ""),
        ("<ä@example.com>", "", ""),
        (f"<{'a' * 1000}@example.com>", "", ""),
        ("<a@example.com>", "<b@example.com>", "<b@example.com>"),
        ("<a@example.com>", "C1:1800000000.2:1800000000.1", "<a@example.com>"),
    ],
)
def test_a_mails_conversation_is_one_message_id_and_nothing_more(thread_id: str, place: str, thread: str) -> None:
    assert mail_thread(thread_id, place) == thread
