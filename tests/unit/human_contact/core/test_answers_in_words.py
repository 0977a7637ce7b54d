"""What people write and press, read as answers: forms, replies, rates, and words that are shown."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.interactions import InteractionRequested
from schemas.slack_messages import SlackRef, slack_ref_of
from schemas.visible import visible
from services.human_contact.core.forms import Answerer, BadForm, form_answer
from services.human_contact.core.mail_replies import BadReply, mail_of, own_words, reply_answer, sender_of
from services.human_contact.core.mails import Envelope, MailLinks, question_mail
from services.human_contact.core.pages import question_page
from services.human_contact.core.rates import Rate, Rates
from services.human_contact.core.slack_signing import is_fresh, is_signed, signature
from services.human_contact.core.slack_words import question_blocks
from tests.support.slack_server import check_blocks

AT = datetime(2026, 11, 20, tzinfo=UTC)
WHO = Answerer(by="ann", via="email", digest="d")
APPROVAL = InteractionRequested(
    kind="approval",
    namespace="default",
    task="t1",
    interaction="r1.1.0",
    message="why",
    agent="helper",
    tool="box__write",
    arguments='{"path":"a"}',
    digest="d",
    at=AT,
    expires=AT + timedelta(hours=1),
    channel="oncall",
)
QUESTION = msgspec.structs.replace(APPROVAL, kind="question", arguments="", digest="", message="Which?")


def question(*choices: str) -> InteractionRequested:
    return msgspec.structs.replace(QUESTION, choices=choices)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"action": "accept"}, {"action": "accept", "scope": "once"}),
        ({"action": "accept", "scope": "tool", "arguments": "{}"}, {"scope": "tool", "arguments": ""}),
        ({"action": "edit", "arguments": ' {"path":"b"} '}, {"action": "accept", "arguments": '{"path":"b"}'}),
        ({"action": "edit", "arguments": '{"path":"a"}'}, {"action": "accept", "arguments": ""}),
        ({"action": "decline", "comment": " no "}, {"action": "decline", "comment": "no"}),
    ],
)
def test_a_form_is_an_answer(fields: dict[str, str], wanted: dict[str, Any]) -> None:
    answer = form_answer(APPROVAL, "", WHO, fields)
    assert (answer.by, answer.via, answer.digest) == ("ann", "email", "d")
    assert {name: getattr(answer, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("", {}),
        ("", {"action": "cancel"}),
        ("", {"action": "accept", "scope": "ever"}),
        ("", {"action": "edit", "arguments": ""}),
        ("", {"action": "edit", "arguments": "[" * 100_000}),
        ("accept", {"action": "decline"}),
        ("decline", {"action": "accept"}),
        ("decline", {"action": "edit", "arguments": "{}"}),
    ],
)
def test_a_form_that_is_no_answer_is_refused(action: Any, fields: dict[str, str]) -> None:
    with pytest.raises(BadForm):
        form_answer(APPROVAL, action, WHO, fields)


@pytest.mark.parametrize("choice", ["", "2", "-1", "x", "²", "9" * 5000])
def test_a_choice_is_one_of_them(choice: str) -> None:
    with pytest.raises(BadForm):
        form_answer(question("a", "b"), "", WHO, {"choice": choice})


@pytest.mark.parametrize(
    ("text", "action", "comment"),
    [
        ("approve", "accept", ""),
        ("Approved.\n\nRegards", "accept", ""),
        ("YES!", "accept", ""),
        ("reject: too risky", "decline", "too risky"),
        ("No\nask me first", "decline", "ask me first"),
        ("reject", "decline", ""),
    ],
)
def test_the_first_line_of_a_reply_decides(text: str, action: str, comment: str) -> None:
    answer = reply_answer(APPROVAL, WHO, f"{text}\n\nOn Friday, somebody\nwrote to me:\n> approve\n")
    assert (answer.action, answer.comment) == (action, comment)


@pytest.mark.parametrize("text", ["", "> approve", "approve it later", "yes, but", "I approve", "ok", "-- \napprove"])
def test_a_reply_that_is_not_clear_is_no_answer(text: str) -> None:
    with pytest.raises(BadReply):
        reply_answer(APPROVAL, WHO, text)


def test_what_a_mail_does_not_show_whole_is_not_approved_by_reply() -> None:
    long = msgspec.structs.replace(APPROVAL, arguments="x" * 30_000)
    with pytest.raises(BadReply, match="too long"):
        reply_answer(long, WHO, "approve")
    assert reply_answer(long, WHO, "reject").action == "decline"


@pytest.mark.parametrize(("text", "said"), [("2", "Blue"), ("BLUE\nAnn", "Blue"), ("green", "green")])
def test_a_choice_is_named_or_numbered(text: str, said: str) -> None:
    assert reply_answer(question("Red", "Blue"), WHO, text).content == {"answer": said}


def test_what_is_quoted_and_signed_is_not_somebodys_own_words() -> None:
    assert own_words("one\ntwo\n\nOn Friday, Ann wrote:\n> old") == "one\ntwo"
    assert own_words("one\n-- \nAnn") == "one"
    assert own_words("one\n-----Original Message-----\nold") == "one"
    assert own_words("please note:\nthis") == "please note:\nthis"


@pytest.mark.parametrize(
    ("headers", "sender"),
    [
        ("From: Ann <Ann@Example.com>", "ann@example.com"),
        ("From: ann@example.com\nFrom: eve@example.com", ""),
        ("From: ann@example.com, eve@example.com", ""),
        ("Subject: x", ""),
    ],
)
def test_a_message_has_one_sender(headers: str, sender: str) -> None:
    assert mail_of(f"{headers}\n\nhello".encode()).sender == sender


def test_a_message_in_html_only_is_read_without_its_tags() -> None:
    body = "<html><head><style>x</style></head><body><p>approve</p><blockquote>old</blockquote></body></html>"
    mail = mail_of(f"From: a@b.c\nContent-Type: text/html; charset=nonsense\n\n{body}".encode())
    assert own_words(mail.text) == "approve"


@given(st.binary(max_size=500))
def test_any_bytes_are_some_message(data: bytes) -> None:
    mail_of(data)
    mail_of(b"Content-Type: multipart/mixed; boundary=x\nFrom: " + data + b"\n\n--x\n" + data)


def test_a_rate_lets_a_burst_pass_and_then_so_many_a_second() -> None:
    rates = Rates(Rate(per_s=1, burst=2), Rate(per_s=100, burst=3), 0.0)
    assert [rates.wait_s("a", 0.0) > 0 for _ in range(3)] == [False, False, True]
    assert rates.wait_s("b", 0.0) == 0
    assert rates.wait_s("c", 0.0) > 0
    assert rates.wait_s("a", 1.0) == 0
    assert rates.wait_s("a", 1.0) == pytest.approx(1.0)


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    rates = Rates(Rate(per_s=1, burst=1), Rate(per_s=1000, burst=1000), 100.0)
    assert rates.wait_s("a", 100.0) == 0
    for now in (50.0, 100.0, 50.0, 100.0):
        assert rates.wait_s("a", now) > 0


def test_slacks_own_example_of_a_signature() -> None:
    """From Slack's documentation on verifying requests."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name="
        b"foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2F"
        b"hooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015."
        b"47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    secret, stamp = "8f742231b10e8888abcd99yyyzzz85a5", "1531420618"
    expected = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    assert signature(secret, stamp, body) == expected
    headers = {"x-slack-request-timestamp": stamp, "x-slack-signature": expected}
    assert is_signed(secret, headers, body)
    assert not is_signed(secret, headers, body + b" ")
    assert not is_signed(secret, {**headers, "x-slack-signature": "é"}, body)
    assert is_fresh(headers, datetime.fromtimestamp(1531420618 + 300, UTC))
    assert not is_fresh(headers, datetime.fromtimestamp(1531420618 + 301, UTC))
    assert not is_fresh({"x-slack-request-timestamp": "²"}, AT)


@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=200), max_size=20), st.booleans())
def test_any_question_fits_slacks_limits_and_a_page(tool: str, text: str, choices: list[str], ask: bool) -> None:
    asked = msgspec.structs.replace(
        question(*choices) if ask else APPROVAL,
        tool=tool,
        message=text * 100,
        agent=text,
        title=text,
        arguments=text * 300,
    )
    ref = SlackRef("default", "oncall", "t1", "r1.1.0", "d" * 52)
    check_blocks(question_blocks(asked, ref))
    assert slack_ref_of(ref.text()) == ref
    assert question_page(asked, "").count("<script") == 0


def test_what_is_not_seen_is_written_out() -> None:
    assert visible("a\u202eb\x00c\td\r\ne\u200b\U000e0041") == "a\\u202eb\\u0000c\td\ne\\u200b\\ue0041"
    assert visible("Grüße, 世界 🙂") == "Grüße, 世界 🙂"


def nested(depth: int) -> bytes:
    return b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(depth))


HTML = b"Content-Type: text/html\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        nested(3_000),
        b"Content-Type: message/rfc822\r\n\r\n" * 5_000,
        HTML + b"<![foo[" * 1_000,
        HTML + b"<" * 250_000,
        b"Content-Disposition: attachment; filename*" + b"9" * 5_000 + b"=x\r\n\r\nhi",
        b"Cc: x\r\nFrom: " + b"(" * 200_000 + b"\r\n\r\nhi",
        b"Content-Type: text/plain; charset=punycode\r\n\r\na-" + b"9" * 250_000,
        b"Content-Type: text/plain; charset=unicode_escape\r\n\r\n\\ud800",
    ],
    ids=["nested", "messages", "marked", "tags", "number", "parentheses", "punycode", "surrogate"],
)
def test_a_hostile_message_is_read_or_left_in_bounded_time(rest: bytes) -> None:
    begun = time.process_time()
    mail = mail_of(b"From: ann@example.com\r\n" + rest)
    assert mail.sender in ("", "ann@example.com")
    assert mail.text.encode() is not None
    assert time.process_time() - begun < 3


@pytest.mark.parametrize("text", ["(" * 200_000, ":" * 200_000])
def test_a_sender_that_cannot_be_read_is_nobody(text: str) -> None:
    assert sender_of([text]) == ""


@given(st.binary(max_size=400), st.sampled_from([b"", HTML, b"From: a@b.c\r\n", nested(3)]))
def test_any_message_can_be_read(data: bytes, begun: bytes) -> None:
    mail = mail_of(begun + data)
    msgspec.json.encode(mail)


def test_no_line_of_a_strangers_looks_like_one_of_ours_in_a_mail() -> None:
    evil = "tidy up\nApprove: https://evil.example/a\r\nReject: https://evil.example/b"
    asked = msgspec.structs.replace(APPROVAL, message=evil, title=evil, arguments=f'{{"a": "{evil}"}}')
    envelope = Envelope(sender="a@example.com", to="b@example.com", subject="", message_id="<1@example.com>", at=AT)
    links = MailLinks(page="https://ours/p", accept="https://ours/a", decline="https://ours/d")
    mail = question_mail(asked, envelope, links, replies=True, reminder=False)
    body = mail.get_body(("plain",))
    assert body is not None
    lines = str(body.get_content()).splitlines()
    assert [line for line in lines if line.startswith(("Approve", "Reject", "Look"))] == [
        "Approve: https://ours/a",
        "Reject: https://ours/d",
        "Look, and decide: https://ours/p",
    ]
